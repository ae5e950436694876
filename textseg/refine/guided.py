"""Guided filter with a colour guide."""

from __future__ import annotations

import numpy as np

_STRIP = 32


class GuidedFilter:
    """Smooths scores along the edges of one image, and brings them to a larger one of the same.

    In every square window w_k of side 2 radius + 1 (cut off at the border) the output is a linear
    function of the colour I, q_i = a_k . I_i + b_k, with a_k = (Sigma_k + eps U)^-1 cov_k(I, p) and
    b_k = mean_k(p) - a_k . mean_k(I); a pixel takes the mean over the windows it lies in. Linear in
    pixels for any radius.

    Args:
        image: I, (H, W, 3) uint8, taken as colours in [0, 1].
        radius: in pixels, 0 or more.
        eps: variance, in squared colour units, below which a window counts as flat.
        dtype: float64, or float32 for small windows, in half the time.

    Source: He, Sun, Tang 2013, "Guided image filtering", IEEE TPAMI 35(6), Eqs. 14 to 16.
    """

    def __init__(
        self, image: np.ndarray, radius: int, eps: float = 1e-3, dtype: type = np.float64
    ) -> None:
        self._side, self._dtype = 2 * radius + 1, dtype
        guide = np.asarray(image, dtype) / dtype(255)
        self._channels = channels = [np.ascontiguousarray(guide[..., c]) for c in range(3)]
        self._count = self._box_sum(np.ones(guide.shape[:2], dtype))
        self._means = means = [self._mean(channel) for channel in channels]

        def cov(i: int, j: int) -> np.ndarray:
            return self._mean(channels[i] * channels[j]) - means[i] * means[j]

        rr, gg, bb = cov(0, 0) + eps, cov(1, 1) + eps, cov(2, 2) + eps
        rg, rb, gb = cov(0, 1), cov(0, 2), cov(1, 2)
        # Cofactors of the symmetric 3 x 3 matrix: much faster than a batched solve.
        c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
        c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
        self._cofactors = ((c00, c01, c02), (c01, c11, c12), (c02, c12, c22))
        self._determinant = rr * c00 + rg * c01 + rb * c02

    def apply(self, score: np.ndarray) -> np.ndarray:
        """A score p, (H, W) in [0, 1], filtered: (H, W) float32 in [0, 1]."""
        *slopes, out = self._planes(score)
        for slope, channel in zip(slopes, self._channels, strict=True):
            out += slope * channel
        return np.clip(out, 0.0, 1.0).astype(np.float32)

    def upsample(self, score: np.ndarray, image: np.ndarray) -> np.ndarray:
        """The same for the larger image that this filter's was shrunk from.

        The planes a and b are interpolated, and meet the colours at full size.

        Args:
            score: p, (H, W) in [0, 1], at the filter's size.
            image: (H', W', 3) uint8.

        Returns:
            (H', W') float32 in [0, 1].

        Source: He and Sun 2015, "Fast guided filter", arXiv 1505.00996.
        """
        import cv2

        (height, width), source = image.shape[:2], score.shape[0]
        wide = [
            cv2.resize(plane.astype(np.float32, copy=False), (width, source),
                       interpolation=cv2.INTER_LINEAR)
            for plane in self._planes(score)
        ]  # fmt: skip
        at = np.clip((np.arange(height) + 0.5) * source / height - 0.5, 0, source - 1)
        out = np.empty((height, width), np.float32)
        # In strips that stay in the processor's cache; rows are interpolated by a product.
        for start in range(0, height, _STRIP):
            rows = at[start : start + _STRIP]
            first, last = int(rows[0]), int(np.ceil(rows[-1])) + 1
            weights = np.maximum(1 - np.abs(rows[:, None] - np.arange(first, last)), 0)
            *slopes, strip = (weights.astype(np.float32) @ plane[first:last] for plane in wide)
            colours = cv2.split(image[start : start + _STRIP])
            for slope, channel in zip(slopes, colours, strict=True):
                strip += cv2.multiply(slope, channel, scale=1 / 255, dtype=cv2.CV_32F, dst=slope)
            np.clip(strip, 0.0, 1.0, out=out[start : start + _STRIP])
        return out

    def _planes(self, score: np.ndarray) -> list[np.ndarray]:
        """The mean over windows of a, three (H, W), and of b, (H, W)."""
        p = np.ascontiguousarray(score, self._dtype)
        mean_p = self._mean(p)
        cov_p = [self._mean(channel * p) - m * mean_p
                 for channel, m in zip(self._channels, self._means, strict=True)]  # fmt: skip
        slopes = [
            (row[0] * cov_p[0] + row[1] * cov_p[1] + row[2] * cov_p[2]) / self._determinant
            for row in self._cofactors
        ]
        offset = mean_p - sum(a * m for a, m in zip(slopes, self._means, strict=True))
        return [self._mean(plane) for plane in (*slopes, offset)]

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return self._box_sum(values) / self._count

    def _box_sum(self, values: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.boxFilter(values, -1, (self._side, self._side), normalize=False,
                             borderType=cv2.BORDER_CONSTANT)  # fmt: skip


def guided_filter(
    score: np.ndarray, image: np.ndarray, radius: int, eps: float = 1e-3
) -> np.ndarray:
    """A score (H, W) in [0, 1] smoothed along the edges of an image, (H, W) float32 in [0, 1].

    See `GuidedFilter` for the arguments and the source.
    """
    return GuidedFilter(image, radius, eps).apply(score)
