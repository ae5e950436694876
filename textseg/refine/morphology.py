"""Tidying of masks: opening, closing, small objects, small holes. Radii and areas are in pixels."""

from __future__ import annotations

import numpy as np


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within `radius` (Euclidean, in pixels) of the mask; linear in pixels for any radius.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    mask = np.asarray(mask, bool)
    if radius <= 0 or not mask.any():
        return mask.copy()
    # Not at the start: SciPy takes longer to import than a mask to tidy.
    from scipy.ndimage import distance_transform_edt

    return np.asarray(distance_transform_edt(~mask)) <= radius


def erode(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels with no background within `radius`; the image's border erodes nothing."""
    return ~dilate(~np.asarray(mask, bool), radius)


def open_mask(mask: np.ndarray, radius: int) -> np.ndarray:
    """Removes what a disk of `radius` does not fit into (erosion, then dilation)."""
    return dilate(erode(mask, radius), radius)


def close_mask(mask: np.ndarray, radius: int) -> np.ndarray:
    """Fills gaps that a disk of `radius` does not fit into (dilation, then erosion)."""
    return erode(dilate(mask, radius), radius)


def remove_small_objects(mask: np.ndarray, area: float) -> np.ndarray:
    """Drops 8-connected objects of fewer than `area` pixels.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool.
    """
    mask = np.asarray(mask, bool)
    labels = _components(mask, 8)
    large = np.bincount(labels.ravel()) >= area
    return mask & large[labels]


def fill_small_holes(mask: np.ndarray, area: float) -> np.ndarray:
    """Fills 4-connected background regions of fewer than `area` pixels that the mask encloses.

    Background that touches the image's border is no hole, whatever its size.
    """
    mask = np.asarray(mask, bool)
    labels = _components(~mask, 4)
    hole = np.bincount(labels.ravel()) < area
    hole[0] = False
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        hole[side] = False
    return mask | hole[labels]


def _components(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """The number of each pixel's component, from 1; 0 outside the mask. (H, W) int32."""
    import cv2

    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[1])
