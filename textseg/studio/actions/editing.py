"""From an approved mask to an edit, and from a picture to a larger one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...options import EditOptions
from ...progress import report
from ..pictures import Picture
from ..session import Session
from ..work import Layer, Work
from .checks import same_picture, selected
from .cutting import settle
from .words import Done

if TYPE_CHECKING:
    from ...edits import Edit
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
    return Done(f"“{layer.query}” is approved. Say what is to become of it.")


def edit(session: Session, prompt: str, progress: Progress | None = None, **changes: Any) -> Done:
    """Turn the approved region into what a prompt says.

    Args:
        prompt: what it is to become; "" is to remove it.
        changes: `method`, and fields of `EditOptions`; those that are as they were are left out.

    Raises:
        InputError: the mask is not approved; CancelledError: `progress` returned False.
    """
    from ...editing import edit as edit_image

    work, layer = session.work, _approved(session)
    given = _given(session, changes)
    done = edit_image(work.picture.pixels, layer.query, prompt.strip(), model=session.segmenter,
                      mask=layer.result, progress=progress, **given)  # fmt: skip
    return _keep(session, work, done, progress, given)


def remove_object(session: Session, progress: Progress | None = None) -> Done:
    """Approve the selected mask and take out what it covers."""
    approve(session)
    return edit(session, "", progress)


def recolour(session: Session, style: Picture, progress: Progress | None = None) -> Done:
    """Give the approved region the colours of another picture.

    Raises:
        InputError: the mask is not approved.
    """
    from ...editing import edit as edit_image

    work, layer = session.work, _approved(session)
    done = edit_image(work.picture.pixels, layer.query, model=session.segmenter,
                      mask=layer.result, style=style.pixels, progress=progress)  # fmt: skip
    return _keep(session, work, done, progress, style=style)


def extend(session: Session, prompt: str, progress: Progress | None = None, **changes: Any) -> Done:
    """Extend the picture beyond its borders.

    Args:
        prompt: what the whole is to show; "" leaves it to the model.
        changes: `left`, `right`, `top`, `bottom`, and fields of `EditOptions`.

    Raises:
        InputError: nothing is to be added; CancelledError: `progress` returned False.
    """
    from ...outpainting import outpaint

    work = session.work
    given = _given(session, changes)
    done = outpaint(work.picture.pixels, prompt.strip(), model=session.segmenter,
                    progress=progress, **given)  # fmt: skip
    return _keep(session, work, done, progress, given)


def edit_options(session: Session) -> EditOptions:
    """The options edits start from."""
    from ...backbone.shared import painter_of
    from ...editing import edit_defaults

    return edit_defaults(painter_of(session.segmenter.model))


def _approved(session: Session) -> Layer:
    layer = selected(session)
    if not session.work.approved:
        raise InputError(f"mask must be approved before it is edited, got none for {layer.query!r}")
    return layer


def _given(session: Session, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes that change something."""
    usual = vars(edit_options(session)) | {"method": None}
    return {name: value for name, value in changes.items() if value != usual.get(name)}


def _keep(
    session: Session,
    work: Work,
    done: Edit,
    progress: Progress | None,
    given: Mapping[str, Any] | None = None,
    style: Picture | None = None,
) -> Done:
    """Take the step to an edit, and say what a model sees of it."""
    from ...assessing import assess

    report(progress, 0, 1, "assessing")
    # What was asked of the picture before is known; an extended one is another picture.
    looks = session.segmenter if done.extended is None else session.segmenter.model
    outcome = assess(done, model=looks)
    done = replace(done, input_xmp=work.picture.xmp, outcome=outcome)

    def alter(now: Work) -> Work:
        same_picture(now, work)
        return replace(now, edit=done, given=given or {}, style=style)

    session.change(f"Tried {outcome.tried}", alter)
    notes = "".join(f" Note: {note}." for note in done.notes)
    return Done(f"{outcome}{notes}")
