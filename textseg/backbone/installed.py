"""Which classes the installed diffusers and transformers have, read from their source: importing
them takes seconds, and a folder is checked before."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def has_class(library: str, kind: str, model_type: str = "") -> bool:
    """Whether a library has a class of models or schedulers.

    Args:
        library: "diffusers" or "transformers".
        model_type: as in a configuration of transformers, where the class is looked for first.

    >>> has_class("diffusers", "FluxTransformer2DModel"), has_class("diffusers", "FluxUNet")
    (True, False)
    >>> has_class("transformers", "Qwen3Model", "qwen3"), has_class("transformers", "Qwen9Model")
    (True, False)
    """
    if library == "diffusers":
        return f'"{kind}"' in _exports()
    own = model_type if re.fullmatch(r"\w+", model_type) else "auto"
    return _defines(own, kind) or _defines("*", kind)


def named(library: str) -> str:
    """A library with its version, for a message."""
    return f"the installed {library} {version(library)}"


@lru_cache(maxsize=1)
def _exports() -> str:
    return (_folder_of("diffusers") / "__init__.py").read_text(encoding="utf-8")


@lru_cache(maxsize=64)
def _defines(model_type: str, kind: str) -> bool:
    """Whether one of transformers' folders of models, or "*" for any, defines a class."""
    start = re.compile(rf"^class {re.escape(kind)}\b".encode(), re.MULTILINE)
    files = (_folder_of("transformers") / "models").glob(f"{model_type}/modeling_*.py")
    return any(start.search(file.read_bytes()) for file in files)


def _folder_of(library: str) -> Path:
    spec = find_spec(library)
    assert spec is not None and spec.origin is not None, f"{library} is a dependency"
    return Path(spec.origin).parent
