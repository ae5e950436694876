"""What a user brings beside a model: LoRAs, learned words, a denoiser's own file, 8-bit weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, MissingDependencyError, ModelError
from .folders import check_weights_file
from .offload import WHOLE

OFFLOADS = ("model", "layer", "disk")
QUANTIZATIONS = ("8bit",)
PathLike = str | os.PathLike[str]
Loras = PathLike | Sequence[PathLike | tuple[PathLike, float]] | None
FAILURES = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError)
"""What diffusers and transformers raise about files that they cannot load."""
LONGEST_REASON = 300
"""Characters of it that a message repeats: some list every layer."""


@dataclass(frozen=True)
class Beside:
    """What is loaded beside a model; see `textseg.load`.

    Attributes:
        lora: files or folders of LoRA weights with their scales.
        embedding: files of learned words (textual inversion).
        transformer: a file with another UNet's or transformer's weights, safetensors or GGUF.
        config: for a single-file checkpoint, the folder with its configurations and tokenizers.
        quantize: "8bit" or None.
        offload: "model", "layer", "disk" or None.
    """

    lora: tuple[tuple[Path, float], ...] = ()
    embedding: tuple[Path, ...] = ()
    transformer: Path | None = None
    config: PathLike | None = None
    quantize: str | None = None
    offload: str | None = None

    @classmethod
    def of(
        cls,
        lora: Loras,
        embedding: PathLike | Sequence[PathLike] | None,
        transformer: PathLike | None,
        config: PathLike | None,
        quantize: str | None,
        offload: str | None,
    ) -> Beside:
        """
        Raises:
            InputError: an unknown word or a scale that is no number; ModelError: a bad file.
        """
        for name, value, allowed in (("quantize", quantize, QUANTIZATIONS),
                                     ("offload", offload, OFFLOADS)):  # fmt: skip
            if value is not None and value not in allowed:
                raise InputError(f"{name} must be {' or '.join(allowed)}, got {value!r}")
        if transformer is not None:
            transformer = _path("transformer", transformer)
            check_weights_file(transformer, (".safetensors", ".gguf"))
            if quantize is not None and transformer.suffix == ".gguf":
                raise InputError(f"quantize must be left out beside a GGUF file, got {quantize!r}")
        files = tuple(_path("embedding", word) for word in _listed("embedding", embedding))
        for path in files:
            check_weights_file(path, (".safetensors",))
        adapters = tuple(_adapter(one) for one in _listed("lora", lora))
        return cls(adapters, files, transformer, config, quantize, offload)

    def __bool__(self) -> bool:
        return self != Beside()

    def name(self, model: str) -> str:
        """The model's name with what was loaded beside it, for the record."""
        parts = [model]
        parts += [f"lora {path.stem} x {scale:g}" for path, scale in self.lora]
        parts += [f"embedding {path.stem}" for path in self.embedding]
        parts += [self.transformer.name] if self.transformer else []
        parts += [self.quantize] if self.quantize else []
        return " + ".join(parts)


def reads_file_of(kind: str) -> bool:
    """Whether diffusers reads a denoiser of this class from a file of its own."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    return kind in SINGLE_FILE_LOADABLE_CLASSES


def denoiser_from_file(kind: Any, path: Path, config: Path, dtype: torch.dtype) -> Any:
    """A denoiser's weights from a file of their own, in diffusers' layout or the original one.

    Raises:
        InputError: diffusers reads no such file; ModelError: it is not one of this model.
    """
    if not reads_file_of(kind.__name__):
        raise InputError(
            f"transformer must be left out for a {kind.__name__}, which diffusers reads from a "
            f"folder only, got {os.fspath(path)!r}"
        )
    options: dict[str, Any] = {}
    if path.suffix == ".gguf":
        need("gguf", "GGUF weights need gguf and accelerate")
        need("accelerate", "GGUF weights need gguf and accelerate")
        from diffusers import GGUFQuantizationConfig

        options = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)}
    try:
        return kind.from_single_file(
            _named_for_conversion(path), config=os.fspath(config), torch_dtype=dtype,
            local_files_only=True, **options,
        )  # fmt: skip
    except FAILURES as error:
        raise ModelError(f"{path} does not fit the model: {first_line(error)}") from error


def _named_for_conversion(path: Path) -> dict[str, torch.Tensor]:
    """A denoiser's weights, those of UNets in the original layout with the prefix that files of
    whole models have, those of transformers without it, as diffusers' conversions expect them."""
    from diffusers.loaders.single_file_utils import load_single_file_checkpoint

    prefix = "model.diffusion_model."
    read: Any = load_single_file_checkpoint(os.fspath(path))
    weights = {name.removeprefix(prefix): value for name, value in read.items()}
    if any(name.startswith("input_blocks.") for name in weights):
        weights = {prefix + name: value for name, value in weights.items()}
    return weights


def to_eight_bit(network: torch.nn.Module, where: torch.device) -> None:
    """Quantise a network's linear layers in place, and move it to where it runs.

    LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) as in bitsandbytes: weights in 8 bits by
    output channel, inputs by row; input columns with a value beyond 6 stay in full precision.
    """
    # It warns, at every layer of every call, that inputs are cast on the way to 8 bits.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    class Linear(Linear8bitLt):
        """For inputs of any number of axes, which bitsandbytes takes on some devices only."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    for parent in list(network.modules()):
        if type(parent).__name__ in WHOLE:
            continue
        for name, layer in parent.named_children():
            if type(layer) is torch.nn.Linear:
                with torch.device("meta"):
                    quantised = Linear(
                        layer.in_features, layer.out_features, layer.bias is not None,
                        has_fp16_weights=False, threshold=6.0,
                    )  # fmt: skip
                quantised.weight = Int8Params(
                    layer.weight.data, requires_grad=False, has_fp16_weights=False
                ).to(where)
                quantised.bias = layer.bias
                setattr(parent, name, quantised.eval())
    torch.nn.Module.to(network, where)


def add_loras(pipe: Any, loras: tuple[tuple[Path, float], ...], fuse: bool) -> None:
    """Load LoRAs; fused into the weights, so that they cost nothing at run time, where the weights
    are not quantised."""
    need("peft", "LoRA weights need peft")
    names = [f"lora{i}" for i in range(len(loras))]
    for adapter, (path, _) in zip(names, loras, strict=True):
        try:
            pipe.load_lora_weights(
                os.fspath(path.parent), weight_name=path.name, adapter_name=adapter,
                use_safetensors=True, local_files_only=True,
            )  # fmt: skip
        except FAILURES as error:
            raise ModelError(f"{path} does not fit the model: {first_line(error)}") from error
        if not any(adapter in found for found in pipe.get_list_adapters().values()):
            raise ModelError(f"{path} does not fit the model: it has no layers of it")
    pipe.set_adapters(names, [scale for _, scale in loras])
    if fuse:
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()


def add_words(pipe: Any, path: Path) -> None:
    """Load a learned word into each text encoder the file has vectors for."""
    from safetensors.torch import load_file as load_tensors

    tensors = load_tensors(path)
    pairs = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}
    try:
        if set(tensors) <= set(pairs):
            for key, value in tensors.items():
                words, encoder = pairs[key]
                pipe.load_textual_inversion(
                    {path.stem: value}, token=path.stem, tokenizer=getattr(pipe, words),
                    text_encoder=getattr(pipe, encoder),
                )  # fmt: skip
        else:
            token = path.stem if set(tensors) == {"emb_params"} else None
            pipe.load_textual_inversion(tensors, token=token)
    except FAILURES as error:
        raise ModelError(f"{path} does not fit the model: {first_line(error)}") from error


def _listed(name: str, value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (str, os.PathLike)):
        return (value,)
    if not isinstance(value, Sequence):
        raise InputError(f"{name} must be a path or a list, got a {type(value).__name__}")
    return value


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{name} must be given as a path, got {value!r}")
    return Path(value).expanduser()


def _adapter(one: Any) -> tuple[Path, float]:
    path, scale = one if isinstance(one, tuple) and len(one) == 2 else (one, 1.0)
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not abs(scale) < 100:
        raise InputError(f"lora must have a scale between -100 and 100, got {scale!r}")
    path = _path("lora", path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ModelError(
                f"lora must be a safetensors file or a folder with one, got {len(found)} in {path}"
            )
        path = found[0]
    check_weights_file(path, (".safetensors",))
    return path, float(scale)


def need(package: str, why: str, source: str = "'textseg[models]'") -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingDependencyError(f"{package} is missing: {why}; pip install {source}")


def first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if "meta tensor" in str(error):
        return "some of its weights are missing"
    if "Unable to load weights from checkpoint" in str(error):
        return "it is damaged or half-downloaded"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]} ..."
