"""From a contrast map to a score in [0, 1], and from a score to a mask.

The rules are those of `RefineOptions.threshold`. Every rule looks at one map alone, so a mask never
depends on what else was asked in the same call.
"""

from __future__ import annotations

import numpy as np

from .errors import InputError
from .options import RefineOptions

# Rounding in float32 spreads a flat map by a few parts in ten million; that is not contrast.
_FLAT = 1e-6
_PEAK_PERCENTILE = 99.0


def normalize(contrast: np.ndarray, options: RefineOptions | None = None) -> np.ndarray:
    """Score of every cell: 0 for no contrast, 1 for the most.

    Negative contrast (signed evidence against the query) counts as none. A constant map scores 0
    under every rule that rescales ("paper", "otsu", "quantile").

    Args:
        contrast: (h, w), any real dtype, finite.
        options: `threshold`, `clamp`, `floor` and `relative` are read.

    Returns:
        (h, w) float32 in [0, 1].

    Raises:
        InputError: the map is not two-dimensional, is empty, or holds NaN or infinities.

    Source of "paper": Couairon et al. 2022, arXiv 2210.11427, section 3.2, "extreme values removed,
    rescaled to [0, 1]"; the clamp at a multiple of the mean is the public implementation's reading
    of the first half.
    """
    options = options or RefineOptions()
    values = _checked(contrast, "contrast")
    positive = np.maximum(values, 0.0)
    if options.threshold == "fixed":
        score = np.minimum(positive, 1.0)
    elif options.threshold == "calibrated":
        peak = float(np.percentile(positive, _PEAK_PERCENTILE))
        score = positive / (positive + max(options.floor, options.relative * peak))
    else:
        score = _rescaled(np.minimum(positive, options.clamp * positive.mean()))
    return score.astype(np.float32)


def cut_level(score: np.ndarray, options: RefineOptions | None = None) -> float:
    """The value in [0, 1] that a score must exceed to be inside.

    Args:
        score: (H, W) in [0, 1].
        options: `threshold` and `level` are read. "otsu" finds the value in the score; "quantile"
            takes the smallest value that leaves out at least the fraction `level` of the pixels.
    """
    options = options or RefineOptions()
    values = _checked(score, "score")
    if options.threshold == "otsu":
        from skimage.filters import threshold_otsu

        return float(threshold_otsu(values)) if np.ptp(values) > 0 else float(values.flat[0])
    if options.threshold == "quantile":
        return float(np.quantile(values, options.level, method="inverted_cdf"))
    return float(options.level)


def cut(score: np.ndarray, options: RefineOptions | None = None) -> np.ndarray:
    """Pixels whose score exceeds the rule's cut, strictly: a score of 0 is never inside.

    Args:
        score: (H, W) in [0, 1], as `normalize` gives it, at any size.

    Returns:
        (H, W) bool.
    """
    values = _checked(score, "score")
    return values > cut_level(values, options)


def cut_value(contrast: np.ndarray, options: RefineOptions | None = None) -> float:
    """Where `cut(normalize(contrast))` cuts, in units of the map: the cells above are the mask.

    Args:
        contrast: (h, w), as for `normalize`.

    Returns:
        the value, at least 0; infinity where no value would be inside.
    """
    options = options or RefineOptions()
    score = normalize(contrast, options)
    level = cut_level(score, options)
    if options.threshold == "fixed":
        return level if level < 1 else float("inf")
    positive = np.maximum(_checked(contrast, "contrast"), 0.0)
    if options.threshold == "calibrated":
        peak = float(np.percentile(positive, _PEAK_PERCENTILE))
        half = max(options.floor, options.relative * peak)
        return half * level / (1 - level) if level < 1 else float("inf")
    clamped = np.minimum(positive, options.clamp * positive.mean())
    low, high = float(clamped.min()), float(clamped.max())
    return low + level * (high - low) if level < 1 and score.any() else float("inf")


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"{name} must be a non-empty array (h, w), got shape {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{name} must be finite, got NaN or infinite values")
    return values


def _rescaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if high - low <= _FLAT * high:
        return np.zeros_like(values)
    return (values - low) / (high - low)
