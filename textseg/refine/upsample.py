"""Scores from latent size to image size."""

from __future__ import annotations

import numpy as np


def upsample(score: np.ndarray, size: tuple[int, int], *, smooth: bool = True) -> np.ndarray:
    """Resize a score with half-pixel centres: corners of the map meet corners of the image.

    Args:
        score: (h, w) in [0, 1].
        size: (H, W) in pixels. Along shrinking sides pixels are averaged.
        smooth: bicubic, otherwise bilinear.

    Returns:
        (H, W) float32, clipped to [0, 1] because bicubic weights overshoot.
    """
    import cv2

    height, width = size
    values = np.ascontiguousarray(score, dtype=np.float32)
    if values.shape[0] > height or values.shape[1] > width:
        values = _resized(values, min(values.shape[0], height), min(values.shape[1], width),
                          cv2.INTER_AREA)  # fmt: skip
    kind = cv2.INTER_CUBIC if smooth else cv2.INTER_LINEAR
    return np.clip(_resized(values, height, width, kind), 0.0, 1.0)


def _resized(values: np.ndarray, height: int, width: int, kind: int) -> np.ndarray:
    import cv2

    if values.shape == (height, width):
        return values
    return np.asarray(cv2.resize(values, (width, height), interpolation=kind), np.float32)
