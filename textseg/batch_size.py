"""How many draws one call of the model should hold, from the memory that is free."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .backbone.base import Backbone
    from .options import ContrastOptions

# Of the free memory, what a call may take; and copies of its widest activations that it holds at
# once: skip connections, attention, and what convolutions unfold.
_SHARE = 0.5
_COPIES = 64
_MEMINFO = "/proc/meminfo"


def fitting(options: ContrastOptions, backbone: Backbone, latents: torch.Tensor) -> ContrastOptions:
    """The options with the batch size that fits, where they leave it open (0).

    As many draws as half of the device's free memory holds by `call_bytes`, at least one, and all
    of them where free memory cannot be told.

    Args:
        latents: (C, h, w), of the image.
    """
    if options.batch_size:
        return options
    free = free_bytes(latents.device)
    most = options.samples
    if free is not None:
        most = min(most, int(_SHARE * free / call_bytes(backbone, latents.shape)))
    return replace(options, batch_size=max(1, min(most, 1024)))


def call_bytes(backbone: Backbone, shape: Sequence[int]) -> int:
    """What one noisy image of latents (C, h, w) takes in a call, estimated on the safe side: 64
    activations of the width that the network has at the latents' size."""
    parts: Any = backbone
    network = getattr(parts, "unet", None)
    config = getattr(network, "config", {})
    heads = config.get("num_attention_heads") or 1
    blocks = config.get("block_out_channels")
    width = blocks[0] if blocks else heads * (config.get("attention_head_dim") or 64)
    bytes_each = getattr(getattr(parts, "dtype", None), "itemsize", 4)
    return _COPIES * int(width) * int(shape[-2]) * int(shape[-1]) * bytes_each


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device, or None where it cannot be told."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        with open(_MEMINFO, encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pages, size = "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"
        known = getattr(os, "sysconf_names", {})
        return os.sysconf(pages) * os.sysconf(size) if pages in known else None
