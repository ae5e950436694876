"""Where models lie: the package, textseg's own folder, the Hugging Face cache; and their upkeep.

Nothing here downloads except `download_model`, which only `textseg models download` calls.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, ModelError, ModelNotFoundError
from .folders import check_model, check_weights_file, find_family, read_json

EMBEDDED = Path(__file__).resolve().parent.parent / "models"
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
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(f"model must be a name or a folder, got {name!r}")
    text = os.fspath(name)
    path = Path(text).expanduser() if isinstance(text, str) and "\0" not in text else Path()
    if not path.is_file():
        return find_model(name)
    check_weights_file(path, (".safetensors",))
    return path


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
                "tokenizer*/*", "processor/*"]  # fmt: skip
    try:
        index = Path(hf_hub_download(name, "model_index.json", revision=revision))
        weights = {} if configs_only else find_family(index.parent).weights
        for part, stem in weights.items():
            patterns += [f"{part}/{stem}{suffix}.safetensors",
                         f"{part}/{stem}{suffix}-*-of-*.safetensors",
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
        family = find_family(path).name
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
