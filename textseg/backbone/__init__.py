"""Diffusion models behind a handful of calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .base import Backbone

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone", "load"]


def load(
    name: str | os.PathLike[str] = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Backbone:
    """Load a diffusion model that lies on this machine; downloads nothing.

    Args:
        name: "mini" (in the package), a diffusers pipeline folder, or a hub id fetched before with
            `textseg models download`.
        device: "cuda", "cuda:1", "mps", "cpu"; by default the first of cuda, mps, cpu there is.
        dtype: "float32", "float16" or "bfloat16"; by default float16 on cuda, else float32.

    Raises:
        ModelNotFoundError: no such model here; the message says how to get it.
        ModelError: the model is incomplete, damaged or of an unsupported family.
        InputError: no such device or dtype.
    """
    from .latent_unet import LatentUNet
    from .registry import find_model

    return LatentUNet.from_folder(
        find_model(name), name=os.fspath(name), device=device, dtype=dtype
    )
