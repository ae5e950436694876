"""Guided filter with a colour guide."""

from __future__ import annotations

import numpy as np


def guided_filter(
    score: np.ndarray, image: np.ndarray, radius: int, eps: float = 1e-3
) -> np.ndarray:
    """Smooths a score along the edges of an image.

    In every square window w_k of side 2 radius + 1 (cut off at the border) the output is a linear
    function of the colour I, q_i = a_k . I_i + b_k, with a_k = (Sigma_k + eps U)^-1 cov_k(I, p) and
    b_k = mean_k(p) - a_k . mean_k(I); a pixel takes the mean over the windows it lies in. Linear in
    pixels for any radius.

    Args:
        score: p, (H, W) in [0, 1].
        image: I, (H, W, 3) uint8, taken as colours in [0, 1].
        radius: in pixels, 0 or more.
        eps: variance, in squared colour units, below which a window counts as flat.

    Returns:
        (H, W) float32 in [0, 1].

    Source: He, Sun, Tang 2013, "Guided image filtering", IEEE TPAMI 35(6), Eqs. 14 to 16.
    """
    import cv2

    side = 2 * radius + 1

    def box_sum(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, cv2.CV_64F, (side, side), normalize=False,
                             borderType=cv2.BORDER_CONSTANT)  # fmt: skip

    p = np.ascontiguousarray(score, dtype=np.float64)
    guide = np.asarray(image, np.float64) / 255.0
    channels = [np.ascontiguousarray(guide[..., c]) for c in range(3)]
    count = box_sum(np.ones_like(p))

    def mean(values: np.ndarray) -> np.ndarray:
        return box_sum(values) / count

    mean_p = mean(p)
    means = [mean(channel) for channel in channels]
    cov_p = [mean(channel * p) - m * mean_p for channel, m in zip(channels, means, strict=True)]

    def cov(i: int, j: int) -> np.ndarray:
        return mean(channels[i] * channels[j]) - means[i] * means[j]

    rr, gg, bb = cov(0, 0) + eps, cov(1, 1) + eps, cov(2, 2) + eps
    rg, rb, gb = cov(0, 1), cov(0, 2), cov(1, 2)
    # Cofactors of the symmetric 3 x 3 matrix: much faster than a batched solve.
    c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * c00 + rg * c01 + rb * c02
    slopes = [
        (row[0] * cov_p[0] + row[1] * cov_p[1] + row[2] * cov_p[2]) / determinant
        for row in ((c00, c01, c02), (c01, c11, c12), (c02, c12, c22))
    ]
    offset = mean_p - sum(a * m for a, m in zip(slopes, means, strict=True))
    out = mean(offset)
    for a, channel in zip(slopes, channels, strict=True):
        out += mean(a) * channel
    return np.clip(out, 0.0, 1.0).astype(np.float32)
