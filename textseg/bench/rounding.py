"""How much of a contrast map is rounding."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ..binarize import cut_value
from ..contrast import measure
from ..image import image_identity, resize_image
from ..options import ContrastOptions, RefineOptions
from ..predictions import Predictions
from ..prompts import pair_for


def rounding_floor(
    backbone: Any,
    image: np.ndarray,
    query: str,
    dtype: Any,
    contrast: ContrastOptions | None = None,
    refine: RefineOptions | None = None,
) -> dict[str, float]:
    """The contrast map in a low precision against that in the model's own, on the same draws.

    In both the difference of the predictions and all that follows is taken in float32.

    Args:
        backbone: a latent UNet, best in float32; a copy of its UNet is made.
        image: (H, W, 3) uint8.
        dtype: torch dtype of the low precision.
        contrast, refine: the model's options if None.

    Returns:
        contrast: mean of the map. peak: mean of its strongest 2 %. floor: mean absolute difference
        of the two maps; worst: the largest one. changed: share of the cells that change sides of
        the cut, relative to the mask.
    """
    options: ContrastOptions = contrast or backbone.contrast_defaults
    rule: RefineOptions = refine or backbone.refine_defaults
    identity, height, width = image_identity(image), *image.shape[:2]
    latents = backbone.encode(resize_image(image, backbone.fit_size(height, width)))
    low = copy.copy(backbone)
    low.unet, low.dtype = copy.deepcopy(backbone.unet).to(dtype), dtype
    pair = pair_for(backbone, query, options.reference)
    exact, rounded = (
        measure(Predictions(model, latents, identity), [pair], options,
                cut=lambda map_: cut_value(map_, rule))[0].contrast
        for model in (backbone, low)
    )  # fmt: skip
    difference = np.abs(rounded - exact)
    inside, moved = (map_ > cut_value(map_, rule) for map_ in (exact, rounded))
    strongest = np.sort(exact, axis=None)[-max(1, round(0.02 * exact.size)) :]
    return {
        "contrast": float(exact.mean()),
        "peak": float(strongest.mean()),
        "floor": float(difference.mean()),
        "worst": float(difference.max()),
        "changed": float((inside != moved).sum() / max(1, inside.sum())),
    }
