"""The latents of pixels: whitened principal components of 8 x 8 blocks, of which every second pixel
is averaged away first; they need no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils import skip_init

BLOCK = 8
CHANNELS = 16


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def fit_analysis(images: np.ndarray) -> torch.nn.Conv2d:
    """Fits images (N, H, W, 3) uint8, sides multiples of `BLOCK`.

    Returns:
        A convolution of images (B, 3, H, W) in [-1, 1] to latents (B, CHANNELS, H / BLOCK,
        W / BLOCK), which have zero mean and unit variance over the fitted images.
    """
    n, h, w, _ = images.shape
    x = images.reshape(n, h // 2, 2, w // 2, 2, 3).mean((2, 4)) / 127.5 - 1
    half = BLOCK // 2
    x = x.reshape(n, h // BLOCK, half, w // BLOCK, half, 3)
    x = x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * half * half)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    order = np.argsort(values)[::-1][:CHANNELS]
    vectors = vectors[:, order] * np.sign(vectors[:, order].sum(0, keepdims=True) + 1e-12)
    filters = (vectors / np.sqrt(values[order])).T
    weight = torch.from_numpy(filters.reshape(CHANNELS, 3, half, half)).float() / 4
    weight = weight.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return analysis_of(weight, torch.from_numpy(-filters @ mean).float())


def analysis_of(weight: torch.Tensor, bias: torch.Tensor) -> torch.nn.Conv2d:
    """The convolution with filters (CHANNELS, 3, BLOCK, BLOCK) and offsets (CHANNELS,)."""
    layer: Any = skip_init(torch.nn.Conv2d, 3, len(weight), BLOCK, BLOCK)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)
