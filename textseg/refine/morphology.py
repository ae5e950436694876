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
    mask = np.array(mask, bool)
    place = _surroundings(mask)
    _drop_small(mask[place], area, 8)
    return mask


def fill_small_holes(mask: np.ndarray, area: float) -> np.ndarray:
    """Fills 4-connected background regions of fewer than `area` pixels that the mask encloses.

    Background that touches the image's border is no hole, whatever its size.
    """
    mask = np.array(mask, bool)
    place = _surroundings(mask)
    background = ~mask[place]
    _drop_small(background, area, 4, inner=True)
    mask[place] = ~background
    return mask


def _surroundings(mask: np.ndarray) -> tuple[slice, slice]:
    """The box around the mask: what lies enclosed in the mask touches no side of it."""
    import cv2

    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return slice(top, top + height), slice(left, left + width)


def _drop_small(mask: np.ndarray, area: float, connectivity: int, *, inner: bool = False) -> None:
    """Clears connected parts of fewer than `area` pixels, or only those that touch no side."""
    import cv2

    if not mask.size:
        return
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=connectivity
    )
    left, top, width, height, size = stats.T
    right, bottom = left + width, top + height
    small = size < area
    if inner:
        small &= (left > 0) & (top > 0) & (right < mask.shape[1]) & (bottom < mask.shape[0])
    small[0] = False
    if small.any():
        rows = slice(top[small].min(), bottom[small].max())
        columns = slice(left[small].min(), right[small].max())
        mask[rows, columns] &= ~small[labels[rows, columns]]
