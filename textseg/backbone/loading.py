"""Loading: a folder or a single file, and what a user brings beside it.

Only safetensors and GGUF files are read; nothing touches the network.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import (
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    TextsegError,
)
from .families import BY_PIPELINE, CONSISTENCY, LATENT_UNET, Family
from .latent_unet import LatentUNet, pick_device, pick_dtype
from .piped import quietly
from .registry import (
    check_model,
    check_weights_file,
    find_family,
    find_model,
    find_source,
    read_calibration,
    read_json,
)

OFFLOADS = ("model", "layer", "disk")
QUANTIZATIONS = ("8bit",)
PathLike = str | os.PathLike[str]
Loras = PathLike | Sequence[PathLike | tuple[PathLike, float]] | None
_FAILURES = (OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, ImportError)


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
            transformer = Path(transformer).expanduser()
            check_weights_file(transformer, (".safetensors", ".gguf"))
            if quantize is not None:
                raise InputError(f"quantize must be left out beside transformer, got {quantize!r}")
        words = () if embedding is None else _listed(embedding)
        files = tuple(Path(word).expanduser() for word in words)
        for path in files:
            check_weights_file(path, (".safetensors",))
        adapters = tuple(_adapter(one) for one in (() if lora is None else _listed(lora)))
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


def load_model(
    name: PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    beside: Beside | None = None,
) -> LatentUNet:
    """What `textseg.load` does."""
    beside = beside or Beside()
    source = find_source(name)
    if source.is_file():
        return load_file(source, name=os.fspath(name), device=device, dtype=dtype, beside=beside)
    if beside.config is not None:
        raise InputError(f"config must be left out for a folder, got {os.fspath(beside.config)!r}")
    return load_folder(source, name=os.fspath(name), device=device, dtype=dtype, beside=beside)


def load_folder(
    folder: Path,
    *,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    beside: Beside | None = None,
) -> LatentUNet:
    """Load a pipeline folder of any family.

    Raises:
        ModelError: names the file that is missing, damaged or unsupported.
    """
    beside, name = beside or Beside(), name or str(folder)
    where = pick_device(device)
    what = pick_dtype(dtype, where)
    _check_offload(beside, where)
    family = find_family(folder)
    if family.name in (LATENT_UNET.name, CONSISTENCY.name):
        told = read_json(folder / "unet" / "config.json", folder).get("time_cond_proj_dim")
        family = CONSISTENCY if told is not None else LATENT_UNET
        if not beside:
            return _class_of(family).from_folder(folder, name=name, device=where, dtype=what)
    given = frozenset({family.denoiser} if beside.transformer else ())
    variants = check_model(folder, given)
    calibration = read_calibration(folder, [path for path, _ in beside.lora])
    try:
        with quietly(), warnings.catch_warnings():
            # About settings of older schedulers, which textseg does not use.
            warnings.simplefilter("ignore", FutureWarning)
            parts = _load_parts(folder, family, variants, what, where, beside)
            pipe = _assemble(family, parts)
    except TextsegError:
        raise
    except _FAILURES as error:
        raise ModelError(f"{folder} cannot be loaded: {_first_line(error)}") from error
    return _finish(pipe, family, beside.name(name), calibration, where, what, beside)


def load_file(
    path: Path,
    *,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    beside: Beside | None = None,
) -> LatentUNet:
    """Load a single-file checkpoint, with the configurations and tokenizers of a folder.

    Raises:
        ModelNotFoundError: the configurations are not on this machine; says how to get them.
        ModelError: no safetensors file, or none of a supported family.
    """
    import diffusers

    beside, name = beside or Beside(), name or str(path)
    where = pick_device(device)
    what = pick_dtype(dtype, where)
    _check_offload(beside, where)
    if beside.transformer is not None or beside.quantize is not None:
        raise InputError(
            "transformer and quantize must be left out for a single file, got one of them"
        )
    check_weights_file(path, (".safetensors",))
    folder = find_model(beside.config) if beside.config is not None else _config_of(path)
    family = find_family(folder)
    missing: dict[str, Any] = {}
    if "text_encoder_3" in family.optional and not _has_t5(path):
        family = family.without({"text_encoder_3"})
        missing = {"text_encoder_3": None, "tokenizer_3": None}
    try:
        with quietly():
            pipe = getattr(diffusers, family.pipeline).from_single_file(
                os.fspath(path), config=os.fspath(folder), torch_dtype=what, local_files_only=True,
                **missing,
            )  # fmt: skip
    except _FAILURES as error:
        raise ModelError(f"{path} cannot be loaded: {_first_line(error)}") from error
    calibration = read_calibration(None, [path for path, _ in beside.lora])
    return _finish(pipe, family, beside.name(name), calibration, where, what, beside)


def _finish(
    pipe: Any,
    family: Family,
    name: str,
    calibration: dict[str, Any],
    where: torch.device,
    what: torch.dtype,
    beside: Beside,
) -> LatentUNet:
    """Add LoRAs and words, put the parts where they run, and wrap the pipeline."""
    quantised = beside.quantize is not None or (
        beside.transformer is not None and beside.transformer.suffix == ".gguf"
    )
    with quietly():
        for path in beside.embedding:
            _add_words(pipe, path)
        if beside.lora:
            _add_loras(pipe, beside.lora, fuse=not quantised)
    for part in family.networks:
        network = getattr(pipe, part)
        network.eval().requires_grad_(False)
        if _on_disk(network):
            continue
        if part == "vae":
            torch.nn.Module.to(network, torch.float32)
        elif not (quantised and part == family.denoiser):
            torch.nn.Module.to(network, what)
        if beside.offload is None and not (beside.quantize and part == family.denoiser):
            torch.nn.Module.to(network, where)
    model = _class_of(family).from_pipeline(pipe, name, calibration)
    if beside.embedding and family in (LATENT_UNET, CONSISTENCY):
        model.expand_prompt = lambda text: pipe.maybe_convert_prompt(text, pipe.tokenizer)
    if beside.offload is None and where.type == "cpu" and family == LATENT_UNET:
        model._use_plain_attention()
    if beside.offload is not None:
        _offload(pipe, family, where, beside.offload)
    model.device, model.dtype = where, what
    return model


def _load_parts(
    folder: Path,
    family: Family,
    variants: Mapping[str, str | None],
    dtype: torch.dtype,
    device: torch.device,
    beside: Beside,
) -> dict[str, Any]:
    import diffusers
    import transformers

    parts: dict[str, Any] = dict.fromkeys(BY_PIPELINE[family.pipeline].networks)
    parts |= dict.fromkeys(BY_PIPELINE[family.pipeline].tokenizers)
    for part, kind in family.networks.items():
        if part == family.denoiser and beside.transformer is not None:
            parts[part] = _from_file(getattr(diffusers, kind), beside.transformer,
                                     folder / part, dtype)  # fmt: skip
            continue
        library: Any = transformers if part.startswith("text_encoder") else diffusers
        if part == "vae":
            kind = read_json(folder / part / "config.json", folder).get("_class_name", kind)
            if kind not in ("AutoencoderKL", "AutoencoderTiny"):
                raise ModelError(
                    f"{folder} has a {kind}; supported are AutoencoderKL, AutoencoderTiny"
                )
        precision = torch.float32 if part == "vae" else dtype
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True,
                                   "variant": variants[part]}  # fmt: skip
        options["torch_dtype" if library is diffusers else _dtype_word()] = precision
        if part == family.denoiser and beside.quantize is not None:
            options["quantization_config"] = _eight_bit()
            options["device_map"] = {"": device}
        parts[part] = getattr(library, kind).from_pretrained(folder / part, **options)
        untouched = not (beside.lora or beside.embedding or beside.quantize)
        if beside.offload == "disk" and part != "vae" and untouched:
            # Before the next part is loaded, so that one part at a time is held.
            to_disk(parts[part].eval().requires_grad_(False), device)
    for part, kind in family.tokenizers.items():
        parts[part] = getattr(transformers, kind).from_pretrained(
            folder / part, local_files_only=True
        )
    config = read_json(folder / "scheduler" / "scheduler_config.json", folder)
    scheduler: Any = getattr(diffusers, str(config.get("_class_name")), None)
    if scheduler is None or not hasattr(scheduler, "set_timesteps"):
        raise ModelError(f"{folder} has an unknown scheduler {config.get('_class_name')!r}")
    parts["scheduler"] = scheduler.from_config(config)
    index = read_json(folder / "model_index.json", folder)
    if "force_zeros_for_empty_prompt" in index:
        parts["force_zeros_for_empty_prompt"] = bool(index["force_zeros_for_empty_prompt"])
    return parts


def _assemble(family: Family, parts: dict[str, Any]) -> Any:
    import diffusers

    extra: dict[str, Any] = {}
    if family.name in (LATENT_UNET.name, CONSISTENCY.name):
        extra = {"safety_checker": None, "feature_extractor": None,
                 "requires_safety_checker": False}  # fmt: skip
        return diffusers.StableDiffusionPipeline(**parts, **extra)
    if family.name == "sdxl":
        extra = {"add_watermarker": False}
    return getattr(diffusers, family.pipeline)(**parts, **extra)


def _class_of(family: Family) -> type[LatentUNet]:
    module, name = family.backbone
    return getattr(importlib.import_module(f".{module}", __package__), name)


def _from_file(kind: Any, path: Path, config: Path, dtype: torch.dtype) -> Any:
    """A denoiser's weights from a file of their own."""
    options: dict[str, Any] = {}
    if path.suffix == ".gguf":
        _need("gguf", "GGUF weights need gguf and accelerate")
        _need("accelerate", "GGUF weights need gguf and accelerate")
        from diffusers import GGUFQuantizationConfig

        options = {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)}
    return kind.from_single_file(
        os.fspath(path), config=os.fspath(config), torch_dtype=dtype, local_files_only=True,
        **options,
    )  # fmt: skip


def _eight_bit() -> Any:
    _need("bitsandbytes", "quantize='8bit' needs bitsandbytes and accelerate")
    _need("accelerate", "quantize='8bit' needs bitsandbytes and accelerate")
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _add_loras(pipe: Any, loras: tuple[tuple[Path, float], ...], fuse: bool) -> None:
    """Load LoRAs; fused into the weights, so that they cost nothing at run time, where the weights
    are not quantised."""
    _need("peft", "LoRA weights need peft")
    names = [f"lora{i}" for i in range(len(loras))]
    for adapter, (path, _) in zip(names, loras, strict=True):
        try:
            pipe.load_lora_weights(
                os.fspath(path.parent), weight_name=path.name, adapter_name=adapter,
                use_safetensors=True, local_files_only=True,
            )  # fmt: skip
        except _FAILURES as error:
            raise ModelError(f"{path} does not fit the model: {_first_line(error)}") from error
        if not any(adapter in found for found in pipe.get_list_adapters().values()):
            raise ModelError(f"{path} does not fit the model: it has no layers of it")
    pipe.set_adapters(names, [scale for _, scale in loras])
    if fuse:
        pipe.fuse_lora(adapter_names=names)
        pipe.unload_lora_weights()


def _add_words(pipe: Any, path: Path) -> None:
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
    except _FAILURES as error:
        raise ModelError(f"{path} does not fit the model: {_first_line(error)}") from error


def _offload(pipe: Any, family: Family, where: torch.device, how: str) -> None:
    """Keep weights out of the device's memory until they are needed."""
    with quietly():
        if how == "model":
            pipe.enable_model_cpu_offload(device=where)
        elif how == "layer":
            pipe.enable_sequential_cpu_offload(device=where)
        else:
            for part in family.networks:
                if part != "vae" and not _on_disk(getattr(pipe, part)):
                    to_disk(getattr(pipe, part), where)
            torch.nn.Module.to(pipe.vae, where)


def to_disk(network: torch.nn.Module, where: torch.device) -> None:
    """Move a network's weights into a temporary folder, deleted with it; they are read back, layer
    by layer, at each use."""
    from accelerate import disk_offload

    folder = tempfile.TemporaryDirectory(prefix="textseg-offload-")
    network.offload_folder = folder  # type: ignore[assignment]
    disk_offload(network, folder.name, where)


def _on_disk(network: torch.nn.Module) -> bool:
    return hasattr(network, "offload_folder")


def _check_offload(beside: Beside, where: torch.device) -> None:
    if beside.offload in ("model", "layer") and where.type == "cpu":
        raise InputError(
            f"offload must be 'disk' on the cpu, where the others save nothing, got "
            f"{beside.offload!r}"
        )
    if beside.offload is not None:
        _need("accelerate", f"offload={beside.offload!r} needs accelerate")


def _config_of(path: Path) -> Path:
    """The folder, on this machine, of the model that diffusers takes a checkpoint's layout from."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    like = fetch_diffusers_config(_shapes(path))["pretrained_model_name_or_path"]
    try:
        return find_model(like)
    except ModelNotFoundError:
        raise ModelNotFoundError(
            f"{path} needs the configurations of {like!r}; get them with `textseg models download "
            f"{like} --configs`, or give a folder that has them as config="
        ) from None


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor without memory, of every tensor in a safetensors file."""
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="pt") as file:
        names = list(file.keys())
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names
        }


def _has_t5(path: Path) -> bool:
    return any(name.startswith("text_encoders.t5xxl.") for name in _shapes(path))


def _listed(value: Any) -> Sequence[Any]:
    return (value,) if isinstance(value, (str, os.PathLike)) else tuple(value)


def _adapter(one: Any) -> tuple[Path, float]:
    path, scale = one if isinstance(one, tuple) else (one, 1.0)
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not abs(scale) < 100:
        raise InputError(f"lora must have a scale between -100 and 100, got {scale!r}")
    path = Path(path).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ModelError(
                f"lora must be a safetensors file or a folder with one, got {len(found)} in {path}"
            )
        path = found[0]
    check_weights_file(path, (".safetensors",))
    return path, float(scale)


def _need(package: str, why: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingDependencyError(f"{why}; pip install 'textseg[models]'")


def _dtype_word() -> str:
    """transformers renamed `torch_dtype` in 4.56."""
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
