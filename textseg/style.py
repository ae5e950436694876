"""The colours of one picture given to another, without a model."""

from __future__ import annotations

import numpy as np


def match_statistics(image: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Give a region the mean and spread of a reference picture's colours, in each channel of Lab.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool, the region; not empty.
        reference: (h, w, 3) uint8, of any size.

    Returns:
        (H, W, 3) uint8; pixels outside the mask are the image's.

    Source: Reinhard et al. 2001, "Color transfer between images", in CIE Lab for its l-alpha-beta.
    """
    lab, wanted = _lab(image)[mask], _lab(reference).reshape(-1, 3)
    scale = wanted.std(0) / np.maximum(lab.std(0), 1e-6)
    return _painted(image, mask, (lab - lab.mean(0)) * scale + wanted.mean(0))


def transport_colors(image: np.ndarray, mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Give a region a reference picture's colours by the linear map of optimal transport in Lab.

    The map T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2 takes the region's covariance A to the reference's
    B, and moves the colours as little as a linear map can.

    Args, returns: as of `match_statistics`.

    Source: Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping for
    example-based colour transfer".
    """
    lab, wanted = _lab(image)[mask], _lab(reference).reshape(-1, 3)
    a, b = _covariance(lab), _covariance(wanted)
    root, back = _power(a, 0.5), _power(a, -0.5)
    moved = (lab - lab.mean(0)) @ (back @ _power(root @ b @ root, 0.5) @ back) + wanted.mean(0)
    return _painted(image, mask, moved)


def _lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab, (H, W, 3) float64, L from 0 to 100."""
    import cv2

    scaled = np.ascontiguousarray(image, dtype=np.float32) / 255
    return cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab).astype(np.float64)


def _painted(image: np.ndarray, mask: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """The image with colours (N, 3) in Lab in the region's N pixels."""
    import cv2

    rgb = cv2.cvtColor(lab.astype(np.float32)[None], cv2.COLOR_Lab2RGB)[0]
    done = image.copy()
    done[mask] = np.rint(rgb * 255).clip(0, 255).astype(np.uint8)
    return done


def _covariance(colors: np.ndarray) -> np.ndarray:
    """(3, 3) of colours (N, 3), with 0.01 on the diagonal so that one colour alone has a root."""
    away = colors - colors.mean(0)
    return away.T @ away / len(colors) + 0.01 * np.eye(3)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
