"""The studio: see the mask, correct it, approve it, edit, in the browser.

Needs Gradio, which `pip install 'textseg[studio]'` brings.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingDependencyError
from .settings import StudioSettings

if TYPE_CHECKING:
    import fastapi
    import gradio

    from ..backbone.base import Backbone

__all__ = ["StudioSettings", "build_app", "mount"]


def build_app(
    model: Backbone | str | os.PathLike[str] | None = None, **settings: Any
) -> gradio.Blocks:
    """The studio as a Gradio app; `mount` puts it on a server.

    One model serves all visitors, who take turns at it; everything else is each visitor's own.
    Nothing is sent anywhere, and nothing is fetched.

    Args:
        model: a loaded model or the name of one; "mini" if None.
        settings: fields of `StudioSettings`.

    Raises:
        MissingDependencyError: Gradio is not installed. InputError: an unknown setting.
        ModelError, ModelNotFoundError: the model cannot be loaded.
    """
    chosen = _settings(settings)
    require_gradio()
    from ..backbone.shared import shared
    from .app import build

    return build(shared("mini" if model is None else model), chosen)


def mount(
    app: fastapi.FastAPI,
    path: str = "/",
    model: Backbone | str | os.PathLike[str] | None = None,
    **settings: Any,
) -> fastapi.FastAPI:
    """Put the studio on a FastAPI application, with its looks and its limits.

    Args:
        app: where it goes.
        path: below which it answers.
        model, settings: as for `build_app`.

    Returns:
        the application it was given. Its `state.end_streams()` lets go of the pages that are still
        open, for a server that is about to stop.
    """
    blocks = build_app(model, **settings)
    import asyncio

    import gradio

    from .pictures import MAX_FILE_BYTES
    from .streams import Streams
    from .theme import theme

    ended = asyncio.Event()
    app.add_middleware(Streams, ended=ended)
    app.state.end_streams = ended.set

    return gradio.mount_gradio_app(
        app,
        blocks,
        path=path,
        theme=theme(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_FILE_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def require_gradio() -> None:
    """Raises MissingDependencyError unless Gradio is installed, and switches its telemetry off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "the studio needs gradio: pip install 'textseg[studio]'"
        ) from error


def _settings(given: dict[str, Any]) -> StudioSettings:
    try:
        return replace(StudioSettings(), **given)
    except TypeError:
        known = ", ".join(StudioSettings.__dataclass_fields__)
        wrong = next(name for name in given if name not in StudioSettings.__dataclass_fields__)
        raise InputError(f"setting must be one of {known}, got {wrong!r}") from None
