"""Where models lie: the package, textseg's own folder, the Hugging Face cache; and their upkeep.

Nothing here downloads except `download_model`, which only `textseg models download` calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, ModelError, ModelNotFoundError
from .families import BY_PIPELINE, SUPPORTED, Family, refusal

EMBEDDED = Path(__file__).resolve().parent.parent / "models"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelInfo:
    """One model found on this machine.

    Attributes:
        name: what `load` takes.
        family: as in `Backbone.family`, or the pipeline's class name when it is not supported.
        size: bytes on disk.
        path: the pipeline folder.
        complete: whether `load` would find every file whole.
        problem: what is missing or unsupported, or "".
    """

    name: str
    family: str
    size: int
    path: Path
    complete: bool
    problem: str = ""


def models_folder() -> Path:
    """textseg's own models folder, which need not exist yet.

    `$TEXTSEG_HOME/models` if that is set, else `textseg/models` in the platform's folder for user
    data: `$XDG_DATA_HOME` or `~/.local/share`, `~/Library/Application Support`, `%LOCALAPPDATA%`.
    """
    home = os.environ.get("TEXTSEG_HOME")
    if home:
        return Path(home).expanduser() / "models"
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "textseg" / "models"


def find_model(name: str | os.PathLike[str]) -> Path:
    """The pipeline folder of a model on this machine; downloads nothing.

    Args:
        name: "mini" or another model of the package, a folder, a name in `models_folder()`, or a
            hub id in the Hugging Face cache. They are tried in this order.

    Raises:
        ModelNotFoundError: no such model here; says how to get it.
        ModelError: the name is that of a single file.
    """
    text = os.fspath(name)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InputError(f"model must be a name or a folder, got {name!r}")
    if _HUB_ID.fullmatch(text) and (EMBEDDED / text / "model_index.json").is_file():
        return EMBEDDED / text
    path = Path(text).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelError(f"model must be a diffusers pipeline folder, got the single file {text!r}")
    if _HUB_ID.fullmatch(text):
        own = _own_folder(text)
        if own.is_dir():
            return own
        cached = _cached_snapshot(text)
        if cached is not None:
            return cached
    raise ModelNotFoundError(_how_to_get(text))


def find_source(name: str | os.PathLike[str]) -> Path:
    """As `find_model`, but a single file of weights is returned too.

    Raises:
        ModelError: the file is a pickle, no safetensors file, or damaged.
    """
    text = os.fspath(name)
    path = Path(text).expanduser() if isinstance(text, str) and "\0" not in text else Path()
    if not path.is_file():
        return find_model(name)
    check_weights_file(path, (".safetensors",))
    return path


def check_weights_file(path: Path, endings: tuple[str, ...]) -> None:
    """Check that a single file of weights is there, whole, and of a kind that cannot run code.

    Args:
        endings: those allowed.
    """
    ending = path.suffix.lower()
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


def list_models() -> list[ModelInfo]:
    """Every model `load` could name here: the package's, textseg's own, the Hugging Face cache's.

    Cached repositories without a `model_index.json` are no pipelines and are left out.
    """
    found: list[tuple[str, Path]] = []
    for base in (EMBEDDED, models_folder()):
        if base.is_dir():
            folders = sorted(p for p in base.iterdir() if (p / "model_index.json").is_file())
            found += [(p.name.replace("--", "/"), p) for p in folders]
    cache = _hub_cache()
    for entry in sorted(cache.glob("models--*")) if cache.is_dir() else ():
        name = entry.name.removeprefix("models--").replace("--", "/")
        path = _cached_snapshot(name)
        if path is not None and (path / "model_index.json").is_file():
            found.append((name, path))
    return [_describe(name, path) for name, path in found]


def download_model(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    configs_only: bool = False,
) -> Path:
    """Fetch what textseg needs of a hub model into the Hugging Face cache: configurations,
    tokenizer and safetensors weights, no pickles, no safety checker.

    Args:
        name: hub id such as "sd-legacy/stable-diffusion-v1-5".
        revision: branch, tag or commit.
        variant: "fp16" fetches the half-precision files instead.
        configs_only: leave the weights out: enough to load a single-file checkpoint beside.

    Returns:
        the pipeline folder, checked to be whole (unless it is without weights).

    Raises:
        ModelError: unsupported family, no network, no such repository.
    """
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or "/" not in name:
        raise InputError(f"model must be a hub id like OWNER/NAME, got {name!r}")
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9]+", variant):
        raise InputError(f"variant must be a word such as fp16, got {variant!r}")
    from huggingface_hub import hf_hub_download, snapshot_download

    suffix = f".{variant}" if variant else ""
    patterns = ["model_index.json", "textseg.json", "README.md", "LICENSE*", "*/*config.json",
                "tokenizer*/*"]  # fmt: skip
    try:
        index = Path(hf_hub_download(name, "model_index.json", revision=revision))
        weights = {} if configs_only else _family(index.parent).weights
        for part, stem in weights.items():
            patterns += [f"{part}/{stem}{suffix}.safetensors",
                         f"{part}/{stem}{suffix}-*-of-*.safetensors",
                         f"{part}/{stem}.{variant}-*-of-*.safetensors",
                         f"{part}/{stem}.safetensors.index{suffix}.json"]  # fmt: skip
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["safety_checker/*", "feature_extractor/*"],
            )
        )
    except ModelError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{name!r} could not be downloaded: {reason[0]}") from error
    if not configs_only:
        check_model(folder)
    return folder


def remove_model(name: str) -> int:
    """Delete a model from textseg's own folder or from the Hugging Face cache.

    Returns:
        bytes freed.

    Raises:
        InputError: the name is a path, or a model of the package.
        ModelNotFoundError: no such model in either place.
    """
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or ".." in name:
        raise InputError(f"model must be a model's name (folders are not removed), got {name!r}")
    for base, folder in (
        (models_folder(), _own_folder(name)),
        (_hub_cache(), _hub_cache() / f"models--{name.replace('/', '--')}"),
    ):
        if folder.is_dir():
            if folder.is_symlink() or folder.resolve().parent != base.resolve():
                raise InputError(f"model must lie inside {base}, got {folder}")
            size = _size(folder)
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise ModelError(f"{folder} could not be removed: {error.strerror}") from error
            return size
    if (EMBEDDED / name).is_dir():
        raise InputError(f"{name!r} is part of the package and cannot be removed")
    raise ModelNotFoundError(f"no model {name!r} in {models_folder()} or {_hub_cache()}")


def family_of(folder: Path) -> str:
    """The family of a pipeline folder, from its `model_index.json`.

    Raises:
        ModelError: no pipeline folder, or an unsupported family.
    """
    return _family(folder).name


def find_family(folder: Path) -> Family:
    """The family of a pipeline folder, without the optional parts that its index leaves out.

    Raises:
        ModelError: as `family_of`.
    """
    family = _family(folder)
    index = read_json(folder / "model_index.json", folder)
    without = {part for part in family.optional if index.get(part) in (None, [None, None])}
    return family.without(without) if without else family


def _family(folder: Path) -> Family:
    index = read_json(folder / "model_index.json", folder)
    name = index.get("_class_name")
    family = BY_PIPELINE.get(name) if isinstance(name, str) else None
    if family is None:
        raise ModelError(f"{folder} holds a {name}; supported families: {SUPPORTED}")
    reason = refusal(index)
    if reason:
        raise ModelError(f"{folder} holds {reason}")
    return family


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
    family = find_family(folder)
    for part in family.networks:
        config = read_json(folder / part / "config.json", folder)
        if "auto_map" in config:
            raise ModelError(f"{folder / part} asks for code of its own, which is never run")
    read_json(folder / "scheduler" / "scheduler_config.json", folder)
    parts = (*family.networks, *family.tokenizers)
    unfinished = [path for part in parts for path in (folder / part).glob("*.incomplete")]
    if unfinished:
        raise ModelError(f"{unfinished[0]} is a half-finished download; fetch the model again")
    variants = {
        part: _check_weights(folder / part, stem)
        for part, stem in family.weights.items()
        if part not in without
    }
    for part, kind in family.tokenizers.items():
        _check_tokenizer(folder / part, kind)
    return variants


def _check_tokenizer(folder: Path, kind: str) -> None:
    if (folder / "tokenizer.json").is_file():
        return
    for name in ("spiece.model",) if kind.startswith("T5") else ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing; the model is incomplete")


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
        loras: weights loaded beside it; a `textseg.json` that `textseg train --lora` wrote beside
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


def _check_weights(folder: Path, stem: str) -> str | None:
    for variant in (None, "fp16"):
        suffix = f".{variant}" if variant else ""
        index = folder / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            shards = set(read_json(index, folder).get("weight_map", {}).values())
            for shard in sorted(shards):
                if Path(shard).name != shard or not shard.endswith(".safetensors"):
                    raise ModelError(f"{index} names {shard!r}, which is no file of weights")
                _check_safetensors(folder / shard)
            return variant
        path = folder / f"{stem}{suffix}.safetensors"
        if path.exists():
            _check_safetensors(path)
            return variant
    path = folder / f"{stem}.safetensors"
    if path.is_symlink():
        raise ModelError(f"{path} is missing; the model is incomplete, fetch it again")
    pickles = sorted(p for pattern in ("*.bin", "*.ckpt", "*.pt") for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{pickles[0]} is a pickle, which can run code when loaded; {path.name} is needed"
        )
    raise ModelError(f"{path} is missing; the model is incomplete")


def _check_safetensors(path: Path) -> None:
    """Header length and tensor extents against the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start.startswith(b"version "):
                raise ModelError(f"{path} is a Git LFS pointer, not the weights; fetch them")
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
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


def _own_folder(name: str) -> Path:
    return models_folder() / name.replace("/", "--")


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cached_snapshot(name: str) -> Path | None:
    """The snapshot of a cached hub model: that of `main`, else the newest."""
    entry = _hub_cache() / f"models--{name.replace('/', '--')}"
    snapshots = entry / "snapshots"
    if not snapshots.is_dir():
        return None
    main = entry / "refs" / "main"
    if main.is_file():
        folder = snapshots / main.read_text().strip()
        if folder.is_dir():
            return folder
    folders = [p for p in snapshots.iterdir() if p.is_dir()]
    return max(folders, key=lambda p: p.stat().st_mtime, default=None)


def _how_to_get(text: str) -> str:
    if text == "mini":
        return "model 'mini' is missing from this installation; install the textseg package again"
    if _HUB_ID.fullmatch(text) and "/" in text:
        return f"no model {text!r} on this machine; get it with `textseg models download {text}`"
    return (
        f"no model {text!r} on this machine; give a folder, 'mini', or a hub id after "
        "`textseg models download OWNER/NAME`"
    )


def _describe(name: str, path: Path) -> ModelInfo:
    family, problem = "", ""
    try:
        family = family_of(path)
        check_model(path)
    except ModelError as error:
        problem = str(error)
        if not family:
            try:
                family = str(read_json(path / "model_index.json", path).get("_class_name"))
            except ModelError:
                family = "unknown"
    return ModelInfo(name, family, _size(path), path, not problem, problem)


def _size(folder: Path) -> int:
    """Bytes under a folder; files that several links lead to count once."""
    files = {p.resolve() for p in folder.rglob("*") if p.is_file()}
    return sum(p.stat().st_size for p in files)
