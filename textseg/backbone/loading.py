"""Loading: a folder or a single file, and what a user brings beside it.

Only safetensors and GGUF files are read; nothing touches the network.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import InputError, ModelError, ModelNotFoundError, TextsegError
from .extras import (
    FAILURES,
    Beside,
    PathLike,
    add_loras,
    add_words,
    denoiser_from_file,
    first_line,
    need,
    reads_file_of,
    to_eight_bit,
)
from .families import ANY, AUTOENCODERS, BY_PIPELINE, ELSEWHERE, LATENT_UNET, Family
from .folders import check_model, check_weights_file, find_family, read_calibration, read_json
from .latent import LatentModel, pick_device, pick_dtype
from .lean import load_lean
from .offload import offload, on_disk, to_disk
from .quiet import quietly
from .registry import find_model, find_source

TEXT_IN_FILES = {"CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"}
"""Text encoders that diffusers finds in single files."""

_log = logging.getLogger(__name__)


def load_model(
    name: PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    beside: Beside | None = None,
) -> LatentModel:
    """What `textseg.load` does."""
    begun = time.perf_counter()
    beside = beside or Beside()
    source = find_source(name)
    where = pick_device(device)
    what = pick_dtype(dtype, where)
    _check_packages(beside, where)
    read = read_file if source.is_file() else read_folder
    pipe, family, calibration = read(source, where, what, beside)
    model = _finish(pipe, family, beside.name(os.fspath(name)), calibration, where, what, beside)
    _log.info("loaded %s (%s) from %s on %s as %s in %.1f s", model.name, family.name, source,
              where, str(what).removeprefix("torch."), time.perf_counter() - begun)  # fmt: skip
    return model


def read_folder(
    folder: Path, where: torch.device, what: torch.dtype, beside: Beside
) -> tuple[Any, Family, dict[str, Any]]:
    """The parts of a pipeline folder of any family, its family and its `textseg.json`.

    Raises:
        ModelError: names the file that is missing, damaged or unsupported.
    """
    if beside.config is not None:
        raise InputError(f"config must be left out for a folder, got {os.fspath(beside.config)!r}")
    family = find_family(folder)
    given = frozenset({family.denoiser} if beside.transformer else ())
    variants = check_model(folder, given)
    _check_taken(family, beside)
    calibration = read_calibration(folder, [path for path, _ in beside.lora])
    if family.bare and not beside and (lean := load_lean(folder, variants)) is not None:
        return lean, family, calibration
    try:
        with quietly(), warnings.catch_warnings():
            # About settings of older schedulers, which textseg does not use.
            warnings.simplefilter("ignore", FutureWarning)
            parts = _load_parts(folder, family, variants, what, where, beside)
            pipe = _assemble(family, parts, bool(beside.lora or beside.embedding))
    except TextsegError:
        raise
    except AttributeError as error:
        raise ModelError(
            f"{folder} has parts that do not fit together: {first_line(error)}"
        ) from error
    except FAILURES as error:
        raise ModelError(f"{folder} cannot be loaded: {first_line(error)}") from error
    return pipe, family, calibration


def read_file(
    path: Path, where: torch.device, what: torch.dtype, beside: Beside
) -> tuple[Any, Family, dict[str, Any]]:
    """A single-file checkpoint, with the configurations and tokenizers of a folder, as
    `read_folder` gives it.

    Raises:
        ModelNotFoundError: the configurations are not on this machine; says how to get them.
        ModelError: no safetensors file, or none of a supported family.
    """
    with quietly():
        from diffusers.loaders.single_file_utils import SingleFileComponentError

    if beside.transformer is not None:
        raise InputError(
            f"transformer must be left out for a single file, got {os.fspath(beside.transformer)!r}"
        )
    check_weights_file(path, (".safetensors",))
    folder = find_model(beside.config) if beside.config is not None else _config_of(path)
    family = find_family(folder)
    if not reads_whole_file_of(family):
        raise ModelError(
            f"{path} is no file that diffusers reads a whole {family.title} model from"
            f"{_hint(family)}"
        )
    _check_taken(family, beside)
    if not _has_t5(path):
        family = family.without(set(family.optional))
    whole = BY_PIPELINE[family.pipeline]
    missing = {*whole.networks, *whole.tokenizers} - {*family.networks, *family.tokenizers}
    try:
        with quietly(), warnings.catch_warnings():
            # About names of diffusers' own that it uses itself.
            warnings.simplefilter("ignore", FutureWarning)
            pipe = _pipeline(family.pipeline).from_single_file(
                os.fspath(path), config=os.fspath(folder), torch_dtype=what, local_files_only=True,
                **dict.fromkeys(missing),
            )  # fmt: skip
    except SingleFileComponentError as error:
        raise ModelError(f"{path} lacks a part: {first_line(error)}{_hint(family)}") from error
    except FAILURES as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}") from error
    for part in family.networks:
        if part.startswith("text_encoder"):
            # Some files hold T5's table of words once, where the encoder expects it twice.
            getattr(pipe, part).tie_weights()
    return pipe, family, read_calibration(None, [path for path, _ in beside.lora])


def _finish(
    pipe: Any,
    family: Family,
    name: str,
    calibration: dict[str, Any],
    where: torch.device,
    what: torch.dtype,
    beside: Beside,
) -> LatentModel:
    """Add LoRAs and words, put the parts where they run, and wrap the pipeline."""
    gguf = beside.transformer is not None and beside.transformer.suffix == ".gguf"
    if beside.embedding or beside.lora:
        with quietly():
            for path in beside.embedding:
                add_words(pipe, path)
            if beside.lora:
                add_loras(pipe, beside.lora, fuse=not gguf)
    networks = {part: getattr(pipe, part) for part in family.networks}
    for part, network in networks.items():
        network.eval().requires_grad_(False)
        if on_disk(network):
            continue
        if part == family.autoencoder:
            torch.nn.Module.to(network, torch.float32)
        elif not (gguf and part == family.denoiser) and getattr(network, "dtype", None) != what:
            # Else parts that a network keeps in float32 would lose their precision.
            torch.nn.Module.to(network, what)
    if beside.quantize is not None:
        to_eight_bit(networks[family.denoiser], where)
    model = _class_of(family)(pipe, name, calibration)
    if beside.embedding and family.bare:
        model.expand_prompt = lambda text: pipe.maybe_convert_prompt(text, pipe.tokenizer)
    if beside.offload is not None:
        if beside.quantize is not None or (gguf and beside.offload != "model"):
            # Quantised weights are small, and cannot be taken apart.
            torch.nn.Module.to(networks.pop(family.denoiser), where)
        offload(networks, where, beside.offload)
    else:
        for network in networks.values():
            torch.nn.Module.to(network, where)
        if where.type == "cpu":
            model.settle_on_cpu()
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
    index = read_json(folder / "model_index.json", folder)
    for part, kind in family.networks.items():
        if part == family.denoiser and beside.transformer is not None:
            network = getattr(diffusers, kind)
            parts[part] = denoiser_from_file(network, beside.transformer, folder / part, dtype)
            continue
        reads_text = part.startswith("text_encoder")
        library: Any = transformers if reads_text else diffusers
        if part == family.autoencoder:
            kind = read_json(folder / part / "config.json", folder).get("_class_name", kind)
            library = importlib.import_module(AUTOENCODERS[kind])
        if kind == ANY:
            kind = index[part][1]
        elif kind in ELSEWHERE:
            library = importlib.import_module(ELSEWHERE[kind])
        precision = torch.float32 if part == family.autoencoder else dtype
        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True,
                                   "variant": variants[part]}  # fmt: skip
        options["dtype" if reads_text else "torch_dtype"] = precision
        parts[part] = getattr(library, kind).from_pretrained(folder / part, **options)
        untouched = not (beside.lora or beside.embedding or beside.quantize)
        if beside.offload == "disk" and part != family.autoencoder and untouched:
            # Before the next part is loaded, so that one part at a time is held.
            to_disk(parts[part].eval().requires_grad_(False), device)
    for part, kind in family.tokenizers.items():
        library = importlib.import_module(ELSEWHERE.get(kind, "transformers"))
        parts[part] = getattr(library, kind).from_pretrained(folder / part, local_files_only=True)
    config = read_json(folder / "scheduler" / "scheduler_config.json", folder)
    parts["scheduler"] = getattr(diffusers, config["_class_name"]).from_config(config)
    return parts | {key: index[key] for key in family.settings if key in index}


def _assemble(family: Family, parts: dict[str, Any], to_change: bool) -> Any:
    """A pipeline of the parts, where one is needed: to encode text, or to load into."""
    if family.bare and not to_change:
        return SimpleNamespace(**parts)
    return _to_load_into(family)(**parts, **family.arguments)


def _to_load_into(family: Family) -> Any:
    """The class of pipeline that LoRAs and words of a family are loaded into."""
    return _pipeline(LATENT_UNET.pipeline if family.bare else family.pipeline)


def _pipeline(name: str) -> Any:
    """diffusers' class of that name."""
    import diffusers

    with warnings.catch_warnings():
        # The module of Kolors' text encoder uses what torch means to drop.
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(diffusers, name)


def _class_of(family: Family) -> type[LatentModel]:
    module, name = family.backbone
    return getattr(importlib.import_module(f".{module}", __package__), name)


def _check_packages(beside: Beside, where: torch.device) -> None:
    """What an option needs, before anything is loaded."""
    if beside.offload in ("model", "layer") and where.type == "cpu":
        raise InputError(
            f"offload must be 'disk' on the cpu, where the others save nothing, got "
            f"{beside.offload!r}"
        )
    if beside.offload is not None:
        need("accelerate", f"offload={beside.offload!r} needs accelerate")
    if beside.quantize is not None:
        need("bitsandbytes", f"quantize={beside.quantize!r} needs it", "bitsandbytes")


def _check_taken(family: Family, beside: Beside) -> None:
    """Whether diffusers loads into models of a family what is given."""
    refused: list[tuple[str, Path]] = []
    if beside.lora and not loads_lora_into(family):
        refused = [("lora", beside.lora[0][0])]
    elif beside.embedding and not hasattr(_to_load_into(family), "load_textual_inversion"):
        refused = [("embedding", beside.embedding[0])]
    for name, path in refused:
        raise InputError(
            f"{name} must be left out for a {family.title} model, into which diffusers loads none, "
            f"got {os.fspath(path)!r}"
        )


def _config_of(path: Path) -> Path:
    """The folder, on this machine, of the model that diffusers takes a checkpoint's layout from."""
    like = layout_of(path)
    try:
        return find_model(like)
    except ModelNotFoundError:
        raise ModelNotFoundError(
            f"{path} needs the configurations of {like!r}; get them with `textseg models download "
            f"{like} --configs`, or give a folder that has them as config="
        ) from None


def _hint(family: Family) -> str:
    """What to do with a file that holds only a family's denoiser, where that helps."""
    if not reads_file_of(family.networks[family.denoiser]):
        return ""
    return (
        f"; a file of the {family.denoiser} alone: give it as transformer= beside a pipeline folder"
    )


def layout_of(path: Path) -> str:
    """The hub id of the model that diffusers takes a safetensors file's layout from.

    Raises:
        ModelError: diffusers knows no such layout.
    """
    from diffusers.loaders import single_file_utils

    shapes = _shapes(path)
    if any(re.search(r"lora[._](A|B|up|down)\b", name) for name in shapes):
        raise ModelError(f"{path} holds a LoRA; give it as lora= beside a pipeline folder")
    like = single_file_utils.infer_diffusers_model_type(shapes)
    # What diffusers also says of any file that it does not know.
    if like == "v1" and not any(re.search(r"(^|\.)(in|out)put_blocks\.", name) for name in shapes):
        raise ModelError(
            f"{path} is laid out like no model that diffusers knows by its file; a file of a "
            "UNet or transformer alone: give it as transformer= beside a pipeline folder"
        )
    return single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[like]["pretrained_model_name_or_path"]


def reads_whole_file_of(family: Family) -> bool:
    """Whether diffusers reads all of a model, but its configurations, from one file."""
    encoders = {kind for part, kind in family.networks.items() if part.startswith("text_encoder")}
    return (
        hasattr(_pipeline(family.pipeline), "from_single_file")
        and reads_file_of(family.networks[family.denoiser])
        and encoders <= TEXT_IN_FILES
    )


def loads_lora_into(family: Family) -> bool:
    """Whether diffusers loads LoRAs into a family's denoiser."""
    import diffusers

    parts = getattr(_to_load_into(family), "_lora_loadable_modules", ())
    network = getattr(diffusers, family.networks[family.denoiser])
    return family.denoiser in parts and hasattr(network, "load_lora_adapter")


def is_whole(path: Path) -> bool:
    """Whether a safetensors file holds an autoencoder beside the denoiser."""
    return any(name.startswith(("first_stage_model.", "vae.")) for name in _shapes(path))


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
