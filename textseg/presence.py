"""Is the object there at all? What the maps of a pair of prompts say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .name_weights import names_of, naming_features

if TYPE_CHECKING:
    from .backbone.base import Backbone
    from .options import ContrastOptions
    from .predictions import Predictions
    from .prompts import PromptPair

STRONGEST = 0.05
PEAK = 0.02


def presence(
    predictions: Predictions,
    pair: PromptPair,
    options: ContrastOptions,
    contrast: np.ndarray,
    evidence: np.ndarray,
    draw_evidence: np.ndarray,
) -> float:
    """How sure the model is that the object is there, 0 to 1.

    Calibrated models, for the pairing and noise levels they were calibrated with:
    sigmoid(weights . x + offset), where x are `presence_features` or, for models that name what
    they see, `naming_features`. Else the one-sided level of a
    t-test that the evidence over the strongest cells is above zero, draws taken as independent:
    P(T <= t) for Student's T.
    """
    backbone = predictions.backbone
    calibrated = _calibrated_presence(backbone, pair, options)
    if calibrated:
        x = presence_features(contrast, evidence)
        if "named" in calibrated:
            t = backbone.timestep(options.strength[0])
            names = names_of(predictions, pair.noun, t, options.seed)
            if names is not None:
                calibrated, x = calibrated["named"], naming_features(contrast, names)
        return _sigmoid(float(x @ np.asarray(calibrated["weights"])) + calibrated["offset"])
    return confidence_above_zero(draw_evidence)


def _calibrated_presence(
    backbone: Backbone, pair: PromptPair, options: ContrastOptions
) -> dict[str, Any] | None:
    """The calibration's "presence", where pairing and noise levels are those it was made with."""
    defaults = backbone.contrast_defaults
    same = (pair.strategy, options.strength) == (defaults.reference, defaults.strength)
    return backbone.calibration.get("presence") if same else None


def presence_features(contrast: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The numbers presence is calibrated on.

    An object that is there leaves a peak far above the rest, and the prompt without it explains
    the noise worse there; one that is not leaves a weak map, or a broad one.

    Args:
        contrast, evidence: (h, w), of one pair.

    Returns:
        (4,) float64: the logarithm of the peak, the mean contrast over the strongest 2 % of cells;
        the logarithms of the mean over the strongest 5 % and over all cells, less that of the
        peak; the mean evidence over the strongest 2 %, in units of the peak squared.
    """
    flat = contrast.reshape(-1).astype(np.float64)
    peak, broad = (max(flat[_strongest(contrast, f)].mean(), 1e-12) for f in (PEAK, STRONGEST))
    cells = _strongest(contrast, PEAK)
    gain = evidence.reshape(-1)[cells].mean(dtype=np.float64) / peak**2
    rest = max(flat.mean(), 1e-12)
    return np.array([math.log(peak), math.log(broad / peak), math.log(rest / peak), gain])


def strongest_evidence(contrast: np.ndarray, draw_evidence: np.ndarray) -> np.ndarray:
    """Mean evidence of each draw over the strongest cells of the contrast: (h, w) and (N, h, w) to
    (N,) float64. With one draw only, its strongest cells one by one."""
    cells = _strongest(contrast, STRONGEST)
    values = draw_evidence.reshape(len(draw_evidence), -1)[:, cells].astype(np.float64)
    return values[0] if len(values) == 1 else values.mean(axis=1)


def confidence_above_zero(values: np.ndarray) -> float:
    """P(T <= t) for the t statistic of the values' mean and Student's T with n - 1 degrees of
    freedom; 0 or 1 if they do not vary, 0 for all zeros."""
    from scipy.special import stdtr

    n = len(values)
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if spread == 0:
        return float(mean > 0)
    return float(stdtr(n - 1, mean / (spread / math.sqrt(n))))


def _strongest(contrast: np.ndarray, fraction: float) -> np.ndarray:
    """Flat indices of the strongest cells, at least one; ties go to the first."""
    count = max(1, round(fraction * contrast.size))
    return np.argsort(-contrast.reshape(-1), kind="stable")[:count]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
