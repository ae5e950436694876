"""From a contrast map at latent size to a mask at image size.

The chain, each link switched by `RefineOptions`: score at latent size, upsampling, guided filter,
dense CRF, cut, opening and closing, small objects and holes. The score is computed before
upsampling, so that the clamp and the rescaling see the cells the model produced and not values
interpolated between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..binarize import cut_level, normalize
from ..errors import InputError
from ..options import RefineOptions
from .crf import DenseCRF, dense_crf
from .guided import GuidedFilter, guided_filter
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

# The image size that the CRF's reaches in pixels are given for.
_REFERENCE_SIDE = 500.0
# Larger images are filtered at this size, and the score brought back along their edges. The CRF
# finds its clusters on an image of up to four times the pixels.
_WORKING_PIXELS = 1 << 20
_FINER = 4
_UPSAMPLING_RADIUS = 1
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
        self.options: RefineOptions = options or RefineOptions()
        self._crf: DenseCRF | None = None

    def refine(
        self,
        contrast: np.ndarray,
        shift: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One map to a mask.

        Args:
            contrast: (h, w), finite.
            shift: called as shift(probability, image), both at the size that scores are filtered
                at; gives the probability in (0, 1) that goes into the CRF, and is cut at 0.5.

        Returns:
            mask (H, W) bool, before the area rules exactly where the score exceeds the cut;
            score (H, W) float32 in [0, 1]: the CRF's marginal (cut at 0.5), or without CRF the
            upsampled score (cut by the options' rule).
        """
        score, level = self._score(contrast)
        if shift is not None:
            score, level = shift(_probability(score, level), self._working), 0.5
        if self.options.crf:
            p = score if shift is not None else _probability(score, level)
            score = self._marginals(np.stack([1 - p, p]))[1]
            level = 0.5
        score = self._full_size(score)
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
        if self._working is not self.image:
            p = np.stack([self._full_size(label) for label in p[1:]])
            taken = p.sum(axis=0) if self.options.crf else p.max(axis=0)
            p = np.concatenate([1 - taken[None], p])
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
        score = upsample(normalize(contrast, self.options), self._working.shape[:2])
        if self.options.guided > 0:
            radius = max(1, round(self.options.guided * max(self._working.shape[:2])))
            score = guided_filter(score, self._working, radius)
        return score, cut_level(score, self.options)

    @cached_property
    def _working(self) -> np.ndarray:
        """The image at the size at which scores are filtered, (h, w, 3) uint8."""
        if self.options.crf or self.options.guided > 0:
            return _shrunk(self._finer, _WORKING_PIXELS)
        return self.image

    @cached_property
    def _finer(self) -> np.ndarray:
        return _shrunk(self.image, _FINER * _WORKING_PIXELS)

    @cached_property
    def _upsampler(self) -> GuidedFilter:
        return GuidedFilter(self._working, _UPSAMPLING_RADIUS, dtype=np.float32)

    def _full_size(self, score: np.ndarray) -> np.ndarray:
        """A score at the working size, (h, w), to (H, W) float32."""
        if self._working is self.image:
            return score
        return self._upsampler.upsample(score, self.image)

    def _marginals(self, probability: np.ndarray) -> np.ndarray:
        """(L, h, w) label probabilities at the working size to the CRF's marginals."""
        if self._crf is None:
            scale = max(self._working.shape[:2]) / _REFERENCE_SIDE
            options = self.options
            self._crf = DenseCRF(
                self._working, appearance=options.crf_appearance, alpha=options.crf_alpha * scale,
                beta=options.crf_beta, smoothness=options.crf_smoothness,
                gamma=options.crf_gamma * scale, spacing=options.crf_spacing,
                stride=options.crf_stride, points=options.crf_points, finer=self._finer,
            )  # fmt: skip
        return self._crf.marginals(-np.log(probability), self.options.crf_iterations)

    def _tidy(self, mask: np.ndarray) -> np.ndarray:
        options, area, longer = self.options, mask.size, max(mask.shape)
        if options.opening > 0:
            mask = open_mask(mask, round(options.opening * longer))
        if options.closing > 0:
            mask = close_mask(mask, round(options.closing * longer))
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


def _shrunk(image: np.ndarray, pixels: int) -> np.ndarray:
    """An image at the size of about so many pixels at most, itself if it has no more."""
    import cv2

    height, width = image.shape[:2]
    shrink = np.sqrt(pixels / (height * width))
    if shrink >= 1:
        return image
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _shifted(score: np.ndarray, level: float) -> np.ndarray:
    """Score bent in two straight pieces so that 0, `level` and 1 land on 0, 0.5 and 1."""
    below = 0.5 * score / max(level, 1e-6)
    above = 0.5 + 0.5 * (score - level) / max(1.0 - level, 1e-6)
    return np.clip(np.where(score > level, above, below), 0.0, 1.0).astype(np.float32)


def _probability(score: np.ndarray, level: float) -> np.ndarray:
    return np.clip(_shifted(score, level), 1 - _CONFIDENCE, _CONFIDENCE)
