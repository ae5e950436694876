"""From an approved mask to an edit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...options import EditOptions
from ..session import Session
from ..work import Work
from .checks import same_picture, selected
from .cutting import settle
from .words import Done

if TYPE_CHECKING:
    from ...progress import Progress


def approve(session: Session) -> Done:
    """Say that the selected mask is right; it can be edited then.

    Raises:
        InputError: there is no mask, or it is empty.
    """
    settle(session)
    layer = selected(session)
    if not layer.mask.any():
        raise InputError(f"mask must not be empty to be approved, got none for {layer.query!r}")
    if not session.work.approved:
        session.change(f"Approved {layer.query}", lambda now: replace(now, approved=True))
    return Done(f"“{layer.query}” is approved. Say what it becomes.")


def edit(
    session: Session,
    prompt: str,
    progress: Progress | None = None,
    **changes: Any,
) -> Done:
    """Turn the approved region into what a prompt says.

    Args:
        prompt: what it becomes; "" removes it.
        changes: fields of `EditOptions`.

    Raises:
        InputError: the mask is not approved; CancelledError: `progress` returned False.
    """
    from ...editing import edit as edit_image

    work = session.work
    layer = selected(session)
    if not work.approved:
        raise InputError(f"mask must be approved before it is edited, got none for {layer.query!r}")
    if prompt.strip():
        # What was approved is what changes; only what is taken out takes its rims along.
        changes = {"grow": 0.0} | changes
    done = edit_image(
        work.picture.pixels,
        layer.query,
        prompt.strip(),
        model=session.segmenter,
        mask=layer.result,
        progress=progress,
        **changes,
    )
    done = replace(done, input_xmp=work.picture.xmp)

    def alter(now: Work) -> Work:
        same_picture(now, work)
        return replace(now, edit=done)

    becomes = f"became “{done.prompt}”" if prompt.strip() else "was removed"
    session.change(f"{layer.query} {becomes}", alter)
    notes = "".join(f" Note: {note}." for note in done.notes)
    return Done(f"“{layer.query}” {becomes}.{notes}")


def edit_options(session: Session) -> EditOptions:
    """The options edits start from."""
    from ...editing import edit_defaults

    return edit_defaults(session.segmenter.model)
