"""What a pipeline folder must hold, and whether it does; nothing is loaded."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import installed
from .families import (
    ALL,
    ANY,
    AUTOENCODERS,
    BY_PIPELINE,
    ELSEWHERE,
    SUPPORTED,
    Family,
    refusal,
)

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
LONGEST_HEADER = 100_000_000
"""Bytes of the longest header that safetensors itself reads."""


def find_family(folder: Path) -> Family:
    """The family of a pipeline folder, from its `model_index.json`, without the optional parts that
    the index leaves out.

    Raises:
        ModelError: no pipeline folder, or an unsupported family.
    """
    if folder.is_dir() and not (folder / "model_index.json").exists():
        raise ModelError(
            f"{folder / 'model_index.json'} is missing; the model folder is not a diffusers "
            f"pipeline{_nearby(folder)}"
        )
    index = read_json(folder / "model_index.json", folder)
    name = index.get("_class_name")
    family = BY_PIPELINE.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(
            f"{folder} holds a {name}; supported families: {SUPPORTED} (docs/models.md says of "
            "every pipeline why it is or is not)"
        )
    reason = refusal(index)
    if reason:
        raise ModelError(f"{folder} holds {reason}")
    kin = sorted((one for one in ALL if one.networks == family.networks), key=lambda k: not k.mark)
    config = folder / family.denoiser / "config.json"
    if any(one.mark for one in kin) and config.is_file():
        told = read_json(config, folder)
        family = next(one for one in kin if not one.mark or told.get(one.mark) is not None)
    return family.without({p for p in family.optional if index.get(p) in (None, [None, None])})


def _nearby(folder: Path) -> str:
    """What was probably meant by a folder that is no pipeline."""
    if (folder.parent / "model_index.json").is_file():
        return f", but a part of one; give {folder.parent}"
    inner = sorted(path.parent for path in folder.glob("*/model_index.json"))
    if len(inner) == 1:
        return f"; give {inner[0]}"
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1 and not (folder / "config.json").exists():
        return f"; a model in a single file: give {files[0]}"
    return ""


def check_model(folder: Path, without: frozenset[str] = frozenset()) -> dict[str, str | None]:
    """Check that every file `load` needs is there and whole.

    Args:
        without: parts whose weights come from elsewhere.

    Returns:
        for each part with weights ("unet", "vae", "text_encoder", ...) the variant to load ("fp16"
        or None).

    Raises:
        ModelError: names the first file that is missing, half-downloaded, truncated or a pickle, or
        the part that asks for code of its own.
    """
    variants, problems = survey_model(folder, without)
    if problems:
        raise problems[0]
    return variants


def survey_model(
    folder: Path, without: frozenset[str] = frozenset()
) -> tuple[dict[str, str | None], list[ModelError]]:
    """As `check_model`, but with everything that is wrong in place of the first.

    Raises:
        ModelError: no pipeline folder, or an unsupported family.
    """
    family = find_family(folder)
    variants: dict[str, str | None] = {}
    problems: list[ModelError] = []

    def check_config(part: str) -> None:
        check_there(part)
        told = read_json(folder / part / "config.json", folder)
        if "auto_map" in told and family.networks[part] not in ELSEWHERE:
            raise ModelError(f"{folder / part} asks for code of its own, which is never run")
        _check_class(folder, family, part, told)

    def check_there(part: str) -> None:
        if not (folder / part).is_dir():
            apart = family.apart.get(part)
            hint = f": its published folder lacks it; put {apart} there" if apart else ""
            raise ModelError(f"{folder / part} is missing; the model is incomplete{hint}")

    def check_finished(part: str) -> None:
        for path in (folder / part).glob("*.incomplete"):
            raise ModelError(f"{path} is a half-finished download; fetch the model again")

    def check_weights(part: str) -> None:
        variants[part], files = _weight_files(folder / part, family.weights[part])
        for path in files:
            _check_safetensors(path)

    def check_tokenizer(part: str) -> None:
        check_there(part)
        _check_tokenizer(folder / part, family.tokenizers[part])

    networks, tokenizers = list(family.networks), list(family.tokenizers)
    there = [part for part in networks if part not in without and (folder / part).is_dir()]
    for check, parts in (
        (check_config, networks),
        (lambda _: _check_scheduler(folder), [""]),
        (check_finished, [*networks, *tokenizers]),
        (check_weights, there),
        (check_tokenizer, tokenizers),
    ):
        for part in parts:
            try:
                check(part)
            except ModelError as error:
                problems.append(error)
    return variants, problems


def weigh_model(folder: Path) -> dict[str, Counter[str]]:
    """Part of a checked pipeline folder -> dtype -> how many numbers of it its files hold, from the
    files' headers."""
    family = find_family(folder)
    return {
        part: weigh_files(_weight_files(folder / part, stem)[1])
        for part, stem in family.weights.items()
    }


def weigh_files(paths: Iterable[Path]) -> Counter[str]:
    """dtype, as safetensors writes it ("F32", "BF16"), -> how many numbers of it files hold."""
    numbers: Counter[str] = Counter()
    for path in paths:
        for name, tensor in _header(path).items():
            if name != "__metadata__":
                numbers[tensor["dtype"]] += math.prod(tensor["shape"])
    return numbers


def check_weights_file(path: Path, endings: tuple[str, ...]) -> None:
    """Check that a single file of weights is there, whole, and of a kind that cannot run code.

    Args:
        endings: those allowed.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        raise ModelError(f"{path} is a folder; a file of weights was expected")
    if not path.is_file():
        raise ModelError(f"{path} is missing; a file of weights was expected")
    if ending in PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when loaded; only {' and '.join(endings)} "
            "files are read"
        )
    if ending not in endings:
        hint = "; give it as transformer= beside a pipeline folder" if ending == ".gguf" else ""
        raise ModelError(f"{path} must be a {' or '.join(endings)} file{hint}")
    if ending == ".safetensors":
        _check_safetensors(path)
    else:
        _check_gguf(path)


def verify_model(folder: Path) -> int:
    """Compare the files of a model in the Hugging Face cache with the digests they are stored
    under: SHA-256 for large files, Git's SHA-1 for small ones.

    Returns:
        the number of files compared; 0 for folders outside the cache, which have no digests.

    Raises:
        ModelError: names the first file that is not what was published.
    """
    compared = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_symlink()):
        blob = path.resolve()
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        if not blob.is_file():
            raise ModelError(f"{path} is missing; the model is incomplete, fetch it again")
        digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(usedforsecurity=False)
        if len(blob.name) == 40:
            digest.update(f"blob {blob.stat().st_size}\0".encode())
        with blob.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != blob.name:
            raise ModelError(f"{path} is not what was published: its digest is another; fetch it")
        compared += 1
    return compared


def read_json(path: Path, folder: Path) -> dict[str, Any]:
    """A JSON object of a model folder; raises `ModelError` that names a missing or broken file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "not a diffusers pipeline" if path.parent == folder else "incomplete"
        raise ModelError(f"{path} is missing; the model folder is {what}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value


def read_calibration(folder: Path | None, loras: Iterable[Path] = ()) -> dict[str, Any]:
    """What a model folder says about itself: `textseg.json`, with `synonyms.json` as the key
    "synonyms"; see `Backbone.calibration`.

    Args:
        folder: None for a model without one.
        loras: weights loaded beside it; a `textseg.json` that `textseg train --rank` wrote beside
            those takes the place of the folder's, key by key.

    Raises:
        ModelError: names the file that is broken.
    """
    calibration: dict[str, Any] = {}
    if folder is not None and (folder / "textseg.json").is_file():
        calibration = read_json(folder / "textseg.json", folder)
    if folder is not None and (folder / "synonyms.json").is_file():
        synonyms = read_json(folder / "synonyms.json", folder)
        if not all(isinstance(noun, str) and noun.strip() for noun in synonyms.values()):
            raise ModelError(f"{folder / 'synonyms.json'} must lead from words to nouns")
        calibration["synonyms"] = {word.lower(): noun for word, noun in synonyms.items()}
    for weights in loras:
        file = weights.parent / "textseg.json"
        record = read_json(file, weights.parent) if file.is_file() else {}
        if "lora" in record:
            calibration |= record
    return calibration


def _weight_files(folder: Path, stem: str) -> tuple[str | None, list[Path]]:
    """The variant of a part's weights ("fp16" or None) and their files, which may be missing."""
    for variant in (None, "fp16"):
        suffix = f".{variant}" if variant else ""
        index = folder / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            shards = sorted(set(read_json(index, folder).get("weight_map", {}).values()))
            for shard in shards:
                if Path(shard).name != shard or not shard.endswith(".safetensors"):
                    raise ModelError(f"{index} names {shard!r}, which is no file of weights")
            return variant, [folder / shard for shard in shards]
        path = folder / f"{stem}{suffix}.safetensors"
        if path.exists():
            return variant, [path]
    path = folder / f"{stem}.safetensors"
    if path.is_symlink():
        raise ModelError(f"{path} is missing; the model is incomplete, fetch it again")
    pickles = sorted(p for pattern in ("*.bin", "*.ckpt", "*.pt") for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{pickles[0]} is a pickle, which can run code when loaded; {path.name} is needed"
        )
    raise ModelError(f"{path} is missing; the model is incomplete")


def _header(path: Path) -> dict[str, Any]:
    """The header of a whole safetensors file."""
    with path.open("rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is not a GGUF file")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _check_safetensors(path: Path) -> None:
    """Header length and tensor extents against the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start.startswith(b"version "):
                raise ModelError(f"{path} is a Git LFS pointer, not the weights; fetch them")
            if start.startswith(b"GGUF"):
                raise ModelError(
                    f"{path} is a GGUF file; rename it to .gguf and give it as transformer= beside "
                    "a pipeline folder"
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > LONGEST_HEADER:
                raise ValueError("it does not begin as one")
            header = json.loads(file.read(length)) if 8 + length <= size else None
        ends = [v["data_offsets"][1] for k, v in (header or {}).items() if k != "__metadata__"]
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; the model is incomplete") from None
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    whole = None if header is None else 8 + length + max(ends, default=0)
    if whole != size:
        expected = "more" if whole is None else str(whole)
        raise ModelError(f"{path} is damaged: {size} bytes where its header says {expected}")


def _check_class(folder: Path, family: Family, part: str, config: dict[str, Any]) -> None:
    """Whether the installed libraries have the classes of a network that its configuration and the
    index name."""
    if part == family.autoencoder:
        kind = config.get("_class_name", family.networks[part])
        if kind not in AUTOENCODERS:
            raise ModelError(
                f"{folder / part} is a {kind}; supported are {', '.join(AUTOENCODERS)}"
            )
        return
    if family.networks[part] in ELSEWHERE:
        return  # whatever the index calls it
    library, kind = _named(folder, part)
    if family.networks[part] == ANY and (library != "transformers" or kind is None):
        raise ModelError(f"{folder / 'model_index.json'} names no class of transformers as {part}")
    _check_installed(folder / "model_index.json", part, library, kind, config.get("model_type"))
    if library == "diffusers":
        _check_installed(folder / part / "config.json", part, library, config.get("_class_name"))


def _check_scheduler(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    told = read_json(path, folder).get("_class_name")
    if not str(told).endswith("Scheduler"):
        raise ModelError(f"{path} names no scheduler, got {told!r}")
    _check_installed(path, "scheduler", "diffusers", told)
    _check_installed(folder / "model_index.json", "scheduler", *_named(folder, "scheduler"))


def _named(folder: Path, part: str) -> tuple[Any, Any]:
    """Library and class that the index names for a part; None for what it leaves out."""
    named = read_json(folder / "model_index.json", folder).get(part)
    return (named[0], named[1]) if isinstance(named, list) and len(named) == 2 else (None, None)


def _check_installed(path: Path, part: str, library: Any, kind: Any, model_type: Any = "") -> None:
    known = library in ("diffusers", "transformers") and kind is not None
    if known and not installed.has_class(library, str(kind), str(model_type)):
        raise ModelError(
            f"{path} names a {kind} as {part}, which {installed.named(library)} does not have"
        )


def _check_tokenizer(folder: Path, kind: str) -> None:
    if (folder / "tokenizer.json").is_file():
        return
    if kind.startswith("Auto"):
        lone = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
        if not any((folder / name).is_file() for name in lone):
            raise ModelError(f"{folder / 'tokenizer.json'} is missing; the model is incomplete")
        return
    files = {"T5": ("spiece.model",), "Ch": ("tokenizer.model",), "Pr": ("tokenizer.json",),
             "By": ("tokenizer_config.json",)}  # fmt: skip
    for name in files.get(kind[:2], ("vocab.json", "merges.txt")):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing; the model is incomplete")
