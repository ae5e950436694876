"""Cut out, edit and evaluate what you name in an image, with a text-to-image diffusion model.

The public names are loaded on first use, so that `import textseg` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    CancelledError,
    ImageError,
    ImageWarning,
    InputError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    OutputError,
    ServerError,
    TextsegError,
)
from .options import ContrastOptions, EditOptions, GenerateOptions, RefineOptions

if TYPE_CHECKING:
    from .assessing import assess
    from .backbone import load
    from .captioning import caption
    from .clicks import correct
    from .client import Client
    from .cutting import Measurement, cut
    from .editing import edit
    from .edits import Edit
    from .generation import generate
    from .masks import Segmentation
    from .outcome import Outcome
    from .outpainting import outpaint
    from .segmenter import Segmenter, segment

__all__ = [
    "CancelledError",
    "Client",
    "ContrastOptions",
    "Edit",
    "EditOptions",
    "GenerateOptions",
    "ImageError",
    "ImageWarning",
    "InputError",
    "Measurement",
    "MissingDependencyError",
    "ModelError",
    "ModelNotFoundError",
    "Outcome",
    "OutputError",
    "RefineOptions",
    "Segmentation",
    "Segmenter",
    "ServerError",
    "TextsegError",
    "__version__",
    "assess",
    "caption",
    "correct",
    "cut",
    "edit",
    "generate",
    "load",
    "outpaint",
    "segment",
]

# Public name -> the module it is loaded from on first use.
_HOMES = {
    "Client": "client",
    "Edit": "edits",
    "Measurement": "cutting",
    "Outcome": "outcome",
    "Segmentation": "masks",
    "Segmenter": "segmenter",
    "assess": "assessing",
    "caption": "captioning",
    "correct": "clicks",
    "cut": "cutting",
    "edit": "editing",
    "generate": "generation",
    "load": "backbone",
    "outpaint": "outpainting",
    "segment": "segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'textseg' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
