"""Loading a model of `mini`'s kind without what its predictions do not use.

The module of diffusers' UNet brings transformers, PEFT, SciPy and TorchDynamo with it, whose import
takes two thirds of a command that makes one mask. Here diffusers is told that its optional packages
are not installed, packages that would import all their models run when they are asked for one, and
CLIP's text encoder is `clip_text`. That is for a process of its own, a command: until `restore`,
diffusers has no pipelines. Whatever fails here is left to the ordinary loading.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from .extras import FAILURES
from .families import LATENT_UNET
from .folders import read_json

_OPTIONAL = ("accelerate", "bitsandbytes", "gguf", "optimum", "peft", "scipy", "torchao",
             "transformers")  # fmt: skip
_UNRUN = ("diffusers.models.transformers", "diffusers.models.unets",
          "diffusers.models.autoencoders", "diffusers.hooks")  # fmt: skip
_COMPILER = "torch._dynamo"
_AUTOENCODER = f"{__package__}.semantic_autoencoder"
_state = {"alone": False, "lean": False}


@contextmanager
def alone() -> Iterator[None]:
    """Say that this process ends with what it was started for, so that the models loaded within
    need no more of diffusers than their networks."""
    _state["alone"] = True
    try:
        yield
    finally:
        _state["alone"] = False


def load_lean(folder: Path, variants: dict[str, str | None]) -> Any:
    """The parts of a checked pipeline folder, in the dtype of their files on the CPU.

    Args:
        variants: from `check_model`.

    Returns:
        a namespace as `loading` makes of such a folder; None where that has to load it: not
        `alone`, diffusers is imported already, it is no model of `mini`'s kind, or anything fails.
    """
    if not _state["alone"] or "diffusers" in sys.modules or any(variants.values()):
        return None
    autoencoder = read_json(folder / "vae" / "config.json", folder).get("_class_name")
    if autoencoder != "SemanticAutoencoder":
        return None
    _state["lean"] = True
    try:
        return _parts(folder)
    except FAILURES:
        restore()
        return None


def restore() -> None:
    """Have the next import of diffusers be of all of it; models loaded before stay as they are."""
    if _state["lean"]:
        _state["lean"] = False
        for name in [n for n in sys.modules if n.partition(".")[0] == "diffusers"]:
            del sys.modules[name]
        sys.modules.pop(_AUTOENCODER, None)


def _parts(folder: Path) -> SimpleNamespace:
    from .clip_text import ClipTextEncoder, ClipTokenizer

    with _hidden_extras():
        import diffusers
        import diffusers.models

        for name in _UNRUN:
            _run_when_asked(name)
        unet = importlib.import_module("diffusers.models.unets.unet_2d_condition")
        vae = importlib.import_module(_AUTOENCODER)
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json", folder)
        words = read_json(folder / "tokenizer" / "tokenizer_config.json", folder)
        return SimpleNamespace(
            unet=_network(unet.UNet2DConditionModel, folder, "unet"),
            vae=_network(vae.SemanticAutoencoder, folder, "vae"),
            text_encoder=ClipTextEncoder(
                read_json(folder / "text_encoder" / "config.json", folder),
                _weights(folder, "text_encoder"),
            ),
            tokenizer=ClipTokenizer(folder / "tokenizer", words),
            scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        )


def _network(kind: Any, folder: Path, part: str) -> torch.nn.Module:
    with torch.device("meta"):
        network = kind.from_config(read_json(folder / part / "config.json", folder))
    network.load_state_dict(_weights(folder, part), assign=True)
    if any(tensor.is_meta for tensor in network.buffers()):
        raise ValueError(f"{part} has buffers that are in no file")
    return network


def _weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / part / f"{LATENT_UNET.weights[part]}.safetensors")


@contextmanager
def _hidden_extras() -> Iterator[None]:
    """Within it, optional packages cannot be found unless they are imported already, and
    TorchDynamo's two decorators, which diffusers has on its classes, do nothing."""
    compiler: Any = ModuleType(_COMPILER)
    compiler.allow_in_graph = lambda what: what
    compiler.disable = lambda what=None, *_, **__: what or (lambda function: function)
    stand_ins: dict[str, Any] = dict.fromkeys(_OPTIONAL) | {_COMPILER: compiler}
    stand_ins = {name: what for name, what in stand_ins.items() if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


class _Unrun(ModuleType):
    """A package whose code runs when a name that it has not yet is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        object.__setattr__(self, "__class__", ModuleType)
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _run_when_asked(name: str) -> None:
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Unrun
        sys.modules[name] = module
