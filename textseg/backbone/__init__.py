"""Diffusion models behind a handful of calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
    lora: str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]
    | None = None,
    embedding: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    transformer: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    offload: str | None = None,
) -> Backbone:
    """Load a diffusion model that lies on this machine; downloads nothing.

    Args:
        name: "mini" (in the package), a diffusers pipeline folder, a hub id fetched before with
            `textseg models download`, or a single-file checkpoint (safetensors). The families are
            listed in docs/models.md.
        device: "cuda", "cuda:1", "mps", "cpu"; by default the first of cuda, mps, cpu there is.
        dtype: "float32", "float16" or "bfloat16"; by default float16 on cuda, else float32.
        lora: LoRA weights, a safetensors file or a folder with one; or a list of them, each alone
            or as (path, scale). They are added into the weights.
        embedding: learned words (textual inversion), one or more safetensors files.
        transformer: a safetensors or GGUF file with the weights of the UNet or transformer, in
            place of the folder's.
        config: for a single file, the folder or hub id of a model of its kind, for configurations
            and tokenizers; by default the one that the file's layout tells of.
        quantize: "8bit" quantises the UNet or transformer with bitsandbytes.
        offload: "model" and "layer" keep in the device's memory only the network, or the layer,
            that is at work; "disk" reads the weights from disk, layer by layer, on any device.
            With `quantize` the network of 8 bits stays in the device's memory.

    Raises:
        ModelNotFoundError: no such model here; the message says how to get it.
        ModelError: the model is incomplete, damaged, a pickle or of an unsupported family.
        InputError: no such device or dtype, or options that exclude each other.
        MissingDependencyError: an option needs a package of the extra "models".
    """
    from .loading import Beside, load_model

    beside = Beside.of(lora, embedding, transformer, config, quantize, offload)
    return load_model(name, device=device, dtype=dtype, beside=beside)
