"""textseg over HTTP: one model, shared by every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import MissingDependencyError
from .settings import ServerOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..backbone.base import Backbone
    from ..captioning import BlipCaptioner

__all__ = ["ServerOptions", "build_server"]


def build_server(
    model: Backbone,
    options: ServerOptions | None = None,
    captioner: BlipCaptioner | None = None,
) -> FastAPI:
    """The ASGI application that `textseg serve` runs.

    Args:
        model: what every request is answered with.
        options: limits, tokens and the like; the defaults if None.
        captioner: what captions; the model itself if None.

    Raises:
        MissingDependencyError: the packages of the extra "server" are not installed.
    """
    need_extra()
    from .app import build

    return build(model, options or ServerOptions(), captioner)


def need_extra() -> None:
    """Raises MissingDependencyError unless the packages of the extra "server" are installed."""
    from importlib.util import find_spec

    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"the server needs {name}, which is not installed; pip install 'textseg[server]'"
            )
