"""Filling a region from its surroundings, without a model."""

from __future__ import annotations

import numpy as np


def grow_region(mask: np.ndarray, grow: float) -> np.ndarray:
    """A region with all that lies within a distance of it.

    Args:
        mask: (H, W) bool.
        grow: the distance, as a fraction of the image's longer side.

    Returns:
        (H, W) bool.
    """
    import cv2

    if grow <= 0 or not mask.any() or mask.all():
        return mask
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away <= grow * max(mask.shape)


def push_pull(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill a region smoothly: every pixel from the finest halving of the image that knows of it.

    Halvings average the known pixels only; on the way back up, what a level does not know comes
    from the level below, and what it knows in part is blended. An image without a known pixel
    becomes black.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, what is to be filled.

    Returns:
        (H, W, 3) uint8; pixels outside the mask are the image's.

    Source: Gortler et al. 1996, "The Lumigraph", section 3.6 (pull and push).
    """
    known = (~mask).astype(np.float32)[..., None]
    filled = np.rint(_pull(image.astype(np.float32), known)).clip(0, 255).astype(np.uint8)
    return np.where(mask[..., None], filled, image)


def _pull(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`values` (H, W, 3) where `weight` (H, W, 1) in [0, 1] is 1, else what the halves say."""
    import cv2

    height, width = weight.shape[:2]
    if max(height, width) == 1:
        return values * weight
    half = ((width + 1) // 2, (height + 1) // 2)
    share = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)[..., None]
    mean = cv2.resize(values * weight, half, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)
    below = _pull(mean, np.minimum(4 * share, 1))
    above = cv2.resize(below, (width, height), interpolation=cv2.INTER_LINEAR)
    return values * weight + above * (1 - weight)


def extend(
    image: np.ndarray, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> np.ndarray:
    """A picture on a wider canvas, whose new part mirrors it, the more blurred the farther out.

    The mirror meets the picture's border without a seam; a blur that grows with the distance, to a
    standard deviation of an eighth of it and at most 3 % of the longer side, keeps what is mirrored
    from standing there twice.

    Args:
        image: (H, W, 3) uint8.
        left, top, right, bottom: new pixels on each side.

    Returns:
        (H + top + bottom, W + left + right, 3) uint8; the picture's own pixels as they are.
    """
    import cv2

    pads = (top, bottom, left, right)
    sharp = cv2.copyMakeBorder(np.ascontiguousarray(image), *pads, cv2.BORDER_REFLECT)
    new = cv2.copyMakeBorder(
        np.zeros(image.shape[:2], np.uint8), *pads, cv2.BORDER_CONSTANT, value=1.0
    )
    if not new.any():
        return sharp
    away = cv2.distanceTransform(new, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    wanted = np.minimum(away / 8, 0.03 * max(image.shape[:2]))
    done, below, sigma = sharp.astype(np.float32), 0.0, 1.0
    while below < wanted.max():
        weight = ((wanted - below) / (sigma - below)).clip(0, 1)[..., None]
        done += weight * (_blurred(sharp, sigma) - done)
        below, sigma = sigma, 2 * sigma
    return np.where(new[..., None] > 0, np.rint(done).astype(np.uint8), sharp)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """A picture under a Gaussian, (H, W, 3) float32; a wide one at a half of its size, or less."""
    import cv2

    height, width = image.shape[:2]
    scale = 1
    while sigma / scale >= 8 and min(height, width) >= 16 * scale:
        scale *= 2
    small = image.astype(np.float32)
    if scale > 1:
        size = (-(-width // scale), -(-height // scale))
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), sigma / scale)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR) if scale > 1 else soft
