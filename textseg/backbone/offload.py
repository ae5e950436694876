"""Where weights wait until they are needed: the CPU's memory, or the disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .families import AUTOENCODER_PARTS

WHOLE = ["HunyuanDiTAttentionPool"]
"""Classes of layers that reach for the weights of their own layers, which therefore move with
them."""


def offload(networks: Mapping[str, torch.nn.Module], where: torch.device, how: str) -> None:
    """Keep networks out of a device's memory until they are at work.

    Args:
        networks: part -> network, on the CPU or on disk already.
        where: the device they run on.
        how: "model", one network at a time; "layer", one layer at a time; "disk", one layer at a
            time from disk, but for the autoencoder, which is small and stays on the device.
    """
    if how == "model":
        take_turns(networks.values(), where)
        return
    from accelerate import cpu_offload

    for part, network in networks.items():
        if how == "layer":
            # Hooks move what a layer's submodules hold, not what the top holds itself.
            cpu_offload(
                network, where, offload_buffers=bool(network._parameters),
                preload_module_classes=WHOLE,
            )  # fmt: skip
        elif part in AUTOENCODER_PARTS:
            torch.nn.Module.to(network, where)
        elif not on_disk(network):
            to_disk(network, where)


def take_turns(networks: Iterable[torch.nn.Module], where: torch.device) -> None:
    """Have a network moved to the device when it is called, and the one there before to the CPU.

    diffusers' own chain of such hooks follows a pipeline's order and would keep the denoiser on the
    device while the text of another query is encoded.
    """
    from accelerate.hooks import ModelHook, add_hook_to_module
    from accelerate.utils import send_to_device

    there: list[torch.nn.Module] = []

    class Turn(ModelHook):
        def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if module not in there:
                while there:
                    torch.nn.Module.to(there.pop(), "cpu")
                there.append(torch.nn.Module.to(module, where))
            return send_to_device(args, where), send_to_device(kwargs, where)

    for network in networks:
        add_hook_to_module(network, Turn())


def to_disk(network: torch.nn.Module, where: torch.device) -> None:
    """Move a network's weights into a temporary folder, deleted with it; they are read back, layer
    by layer, at each use."""
    from accelerate import disk_offload

    folder = tempfile.mkdtemp(prefix="textseg-offload-")
    weakref.finalize(network, shutil.rmtree, folder, ignore_errors=True)
    network.offload_folder = folder  # type: ignore[assignment]
    disk_offload(network, folder, where, preload_module_classes=WHOLE)


def on_disk(network: torch.nn.Module) -> bool:
    return hasattr(network, "offload_folder")
