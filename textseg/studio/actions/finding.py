"""Pictures and queries: open, ask, ask again, select, forget."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...options import ContrastOptions, RefineOptions
from ..pictures import Picture
from ..session import Session
from ..work import Work
from .checks import same_layer, same_picture, selected
from .cutting import cut_again, quick_layer
from .words import Done, say

if TYPE_CHECKING:
    from ...cutting import Measurement
    from ...progress import Progress

MOST_QUERIES = 10


def open_picture(session: Session, picture: Picture) -> Done:
    """Start on a picture; the way back to the one before stays open."""
    model = session.segmenter
    work = Work(picture, picture.caption, model.contrast, model.refine)
    with session.lock:
        session.changes += 1
        session.history.push(f"Opened {picture.name}", work)
    height, width = picture.pixels.shape[:2]
    said = f"{picture.name} is open, {width} × {height} pixels. Now say what to find."
    if picture.origin == "upload" and (caveat := session.segmenter.model.caveats.get("find")):
        said += f" ({caveat})"
    return Done(said)


def ask(session: Session, query: str, progress: Progress | None = None) -> Done:
    """Find what a query names; it becomes a layer. A known one is selected.

    Raises:
        InputError: no query, or too many; CancelledError: `progress` returned False.
    """
    work = session.work
    query = " ".join(query.split())
    known = [layer.query.casefold() for layer in work.layers]
    if not query:
        raise InputError("query must say what to find, got nothing")
    if query.casefold() in known:
        return select(session, known.index(query.casefold()))
    if len(known) >= MOST_QUERIES:
        raise InputError(f"queries must be at most {MOST_QUERIES} per picture; forget one first")
    measured, rows = _measure(session, work, query, work.contrast, work.refine, progress)
    layer = quick_layer(measured, work.refine, work.picture)

    def alter(now: Work) -> Work:
        same_picture(now, work)
        return replace(now, layers=(*now.layers, layer), selected=len(now.layers), approved=False)

    session.change(f"Found {query}", alter)
    return Done(say(layer), rows, (query,))


def requery(session: Session, progress: Progress | None = None, **changes: Any) -> Done:
    """Ask the selected query again with other `ContrastOptions`; the next queries start from
    them where there is no query yet."""
    work = session.work
    layer = work.layer
    if layer is None:
        contrast = replace(work.contrast, **changes)
        session.change("Changed the contrast", lambda now: replace(now, contrast=contrast))
        return Done("The next query is asked this way.")
    contrast = replace(layer.measured.contrast_options, **changes)
    if contrast == layer.measured.contrast_options and contrast.reference != "erase":
        return Done(say(layer))
    measured, rows = _measure(session, work, layer.query, contrast, layer.refine, progress)
    shown = ", ".join(f"{name} {value}" for name, value in changes.items())
    with session.lock:
        now = same_layer(session.work, work)
        again = cut_again(now, work.picture, measured=measured)
        session.change_layer(f"Asked again: {shown}"[:80], again)
    return Done(say(again), rows, (layer.query,))


def select(session: Session, index: int) -> Done:
    """Make one query the one that the controls are about."""
    work = session.work
    if not 0 <= index < len(work.layers):
        raise InputError(f"query must be one of the {len(work.layers)} here, got number {index}")
    if index != work.selected:
        query = work.layers[index].query
        session.change(
            f"Selected {query}",
            lambda now: replace(now, selected=index, approved=False),
            merges="select",
        )
    return Done(say(work.layers[index]))


def forget(session: Session) -> Done:
    """Forget the selected query."""
    layer = selected(session)

    def alter(now: Work) -> Work:
        left = tuple(one for one in now.layers if one.query != layer.query)
        at = min(now.selected, max(len(left) - 1, 0))
        return replace(now, layers=left, selected=at, approved=False)

    session.change(f"Forgot {layer.query}", alter)
    return Done(f"“{layer.query}” is forgotten.")


def _measure(
    session: Session,
    work: Work,
    query: str,
    contrast: ContrastOptions,
    refine: RefineOptions,
    progress: Progress | None,
) -> tuple[Measurement, int]:
    """What the model finds, and the rows of the UNet it took."""
    options = {
        field.name: getattr(of, field.name) for of in (contrast, refine) for field in fields(of)
    }
    session.encode()
    before = session.segmenter.evaluations
    measured = session.segmenter.measure(
        query, caption=work.caption or None, progress=progress, **options
    )
    return measured, session.segmenter.evaluations - before
