"""From a contrast map at latent size to a mask at image size.

The chain, each link switched by `RefineOptions`: score at latent size, upsampling, guided filter,
dense CRF, cut, opening and closing, small objects and holes. The score is computed before
upsampling, so that the clamp and the rescaling see the cells the model produced and not values
interpolated between them.
"""

from __future__ import annotations

import numpy as np

from ..binarize import cut_level, normalize
from ..errors import InputError
from ..options import RefineOptions
from .crf import DenseCRF, dense_crf
from .guided import guided_filter
from .morphology import (
    close_mask,
    dilate,
    erode,
    fill_small_holes,
    open_mask,
    remove_small_objects,
)
from .upsample import upsample

__all__ = [
    "DenseCRF",
    "Refiner",
    "close_mask",
    "dense_crf",
    "dilate",
    "erode",
    "fill_small_holes",
    "guided_filter",
    "open_mask",
    "refine",
    "refine_exclusive",
    "remove_small_objects",
    "upsample",
]

# The image size that the CRF's reaches in pixels are given for, and the largest it runs at, with
# pooled pixels and on the grid.
_REFERENCE_SIDE = 500.0
_CRF_PIXELS = 1 << 22
_GRID_PIXELS = 1 << 20
# A score is never taken as more certain than this, so that colour can overrule it.
_CONFIDENCE = 0.95


class Refiner:
    """The chain for one image; the CRF is built on first use and kept for further maps.

    Args:
        image: (H, W, 3) uint8.
        options: `RefineOptions`, the defaults if None.

    Raises:
        InputError: the image is not (H, W, 3) uint8.
    """

    def __init__(self, image: np.ndarray, options: RefineOptions | None = None) -> None:
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise InputError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        self.image = image
        self.options = options or RefineOptions()
        self._crf: DenseCRF | None = None

    def refine(self, contrast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One map to a mask.

        Args:
            contrast: (h, w), finite.

        Returns:
            mask (H, W) bool, before the area rules exactly where the score exceeds the cut;
            score (H, W) float32 in [0, 1]: the CRF's marginal (cut at 0.5), or without CRF the
            upsampled score (cut by the options' rule).
        """
        score, level = self._score(contrast)
        if self.options.crf:
            p = _probability(score, level)
            score = self._marginals(np.stack([1 - p, p]))[1]
            level = 0.5
        return self._tidy(score > level), score

    def refine_exclusive(self, contrasts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Several maps whose queries compete for every pixel, and with the background.

        Each score is shifted so that its own cut lies at 0.5; the background scores one minus the
        highest of them. With one map the result is that of `refine`.

        Args:
            contrasts: (Q, h, w), Q >= 1, finite.

        Returns:
            masks (Q, H, W) bool, no pixel in two of them; scores (Q, H, W) float32: the CRF's
            marginals, or without CRF the shifted scores, which exceed 0.5 where the cut is passed.
        """
        contrasts = np.asarray(contrasts)
        if contrasts.ndim != 3 or len(contrasts) == 0:
            raise InputError(f"contrasts must be (Q, h, w) with Q >= 1, got {contrasts.shape}")
        p = np.stack([_shifted(*self._score(contrast)) for contrast in contrasts])
        if self.options.crf:
            p = np.clip(p, 1 - _CONFIDENCE, _CONFIDENCE)
        p = np.concatenate([1 - p.max(axis=0, keepdims=True), p])
        if self.options.crf:
            p = self._marginals(p / p.sum(axis=0))
        winner = p.argmax(axis=0)
        tidy = [
            self._tidy(winner == label) & ((winner == label) | (winner == 0))
            for label in range(1, len(p))
        ]
        # Closing may let two neighbours claim the same background pixel: the higher score has it.
        claims = np.where(tidy, p[1:], -1.0)
        best = claims.argmax(axis=0)
        masks = np.stack([mask & (best == i) for i, mask in enumerate(tidy)])
        return masks, p[1:]

    def _score(self, contrast: np.ndarray) -> tuple[np.ndarray, float]:
        score = upsample(normalize(contrast, self.options), self.image.shape[:2])
        if self.options.guided > 0:
            radius = max(1, round(self.options.guided * self._longer))
            score = guided_filter(score, self.image, radius)
        return score, cut_level(score, self.options)

    @property
    def _longer(self) -> int:
        return max(self.image.shape[:2])

    def _marginals(self, probability: np.ndarray) -> np.ndarray:
        """(L, H, W) label probabilities to CRF marginals, on a smaller image if need be."""
        height, width = self.image.shape[:2]
        most = _CRF_PIXELS if self.options.crf_points else _GRID_PIXELS
        shrink = np.sqrt(min(1.0, most / (height * width)))
        size = max(1, round(height * shrink)), max(1, round(width * shrink))
        if self._crf is None:
            self._crf = self._build_crf(size)
        if shrink == 1:
            return self._crf.marginals(-np.log(probability), self.options.crf_iterations)
        small = np.stack([upsample(p, size) for p in probability])
        small = self._crf.marginals(-np.log(np.maximum(small, 1e-3)), self.options.crf_iterations)
        radius = int(np.ceil(2 / shrink))
        large = np.stack([guided_filter(upsample(p, (height, width)), self.image, radius)
                          for p in small])  # fmt: skip
        return large / np.maximum(large.sum(axis=0), np.float32(1e-6))

    def _build_crf(self, size: tuple[int, int]) -> DenseCRF:
        import cv2

        image = self.image
        if size != image.shape[:2]:
            image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
        scale = max(size) / _REFERENCE_SIDE
        options = self.options
        return DenseCRF(image, appearance=options.crf_appearance, alpha=options.crf_alpha * scale,
                        beta=options.crf_beta, smoothness=options.crf_smoothness,
                        gamma=options.crf_gamma * scale, spacing=options.crf_spacing,
                        stride=options.crf_stride, points=options.crf_points)  # fmt: skip

    def _tidy(self, mask: np.ndarray) -> np.ndarray:
        options, area = self.options, mask.size
        if options.opening > 0:
            mask = open_mask(mask, round(options.opening * self._longer))
        if options.closing > 0:
            mask = close_mask(mask, round(options.closing * self._longer))
        if options.min_area > 0:
            mask = remove_small_objects(mask, options.min_area * area)
        if options.max_hole > 0:
            mask = fill_small_holes(mask, options.max_hole * area)
        return mask


def refine(
    contrast: np.ndarray, image: np.ndarray, options: RefineOptions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One contrast map (h, w) and its image (H, W, 3) uint8 to mask and score.

    See `Refiner.refine`; keep a `Refiner` where several maps of one image are refined.
    """
    return Refiner(image, options).refine(contrast)


def refine_exclusive(
    contrasts: np.ndarray, image: np.ndarray, options: RefineOptions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Contrast maps (Q, h, w) of one image to disjoint masks; see `Refiner.refine_exclusive`."""
    return Refiner(image, options).refine_exclusive(contrasts)


def _shifted(score: np.ndarray, level: float) -> np.ndarray:
    """Score bent in two straight pieces so that 0, `level` and 1 land on 0, 0.5 and 1."""
    below = 0.5 * score / max(level, 1e-6)
    above = 0.5 + 0.5 * (score - level) / max(1.0 - level, 1e-6)
    return np.clip(np.where(score > level, above, below), 0.0, 1.0).astype(np.float32)


def _probability(score: np.ndarray, level: float) -> np.ndarray:
    return np.clip(_shifted(score, level), 1 - _CONFIDENCE, _CONFIDENCE)
