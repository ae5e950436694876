"""Pictures and queries: open, ask, ask again, select, forget."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...options import ContrastOptions, RefineOptions
from ..pictures import Picture
from ..state import Session, Work
from .checks import same_layer, same_picture, selected
from .cutting import quick_layer
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


def split_queries(text: str) -> list[str]:
    """Queries of a text that has commas or line breaks between them, each once."""
    parts = (" ".join(part.split()) for part in re.split(r"[,;\n]", text))
    return list(dict.fromkeys(part for part in parts if part))


def ask(session: Session, text: str, progress: Progress | None = None) -> Done:
    """Find what one or several queries name; each becomes a layer. A known one is selected.

    Raises:
        InputError: no query, or too many; CancelledError: `progress` returned False.
    """
    work = session.work
    texts = split_queries(text)
    known = [layer.query.casefold() for layer in work.layers]
    new = [query for query in texts if query.casefold() not in known]
    if not texts:
        raise InputError("query must say what to find, got nothing")
    if len(known) + len(new) > MOST_QUERIES:
        raise InputError(f"queries must be at most {MOST_QUERIES} per picture; remove one first")
    if not new:
        return select(session, known.index(texts[0].casefold()))
    found, rows = _measure(session, work, new, work.contrast, work.refine, progress)
    layers = tuple(quick_layer(one, work.refine, work.picture) for one in found)

    def alter(now: Work) -> Work:
        same_picture(now, work)
        return replace(now, layers=(*now.layers, *layers), selected=len(now.layers), approved=False)

    session.change(f"Found {', '.join(new)}", alter)
    return Done(" ".join(say(layer) for layer in layers), rows, tuple(new))


def requery(session: Session, progress: Progress | None = None, **changes: Any) -> Done:
    """Ask the selected query again with other `ContrastOptions`; the next queries start from
    them where there is no query yet."""
    work = session.work
    layer = work.layer
    if layer is None:
        contrast = replace(work.contrast, **changes)
        session.change("Changed the contrast", lambda now: replace(now, contrast=contrast))
        return Done("The next query is asked this way.")
    contrast = replace(layer.found.contrast_options, **changes)
    if contrast == layer.found.contrast_options and contrast.reference != "erase":
        return Done(say(layer))
    found, rows = _measure(session, work, [layer.query], contrast, layer.refine, progress)
    again = replace(
        quick_layer(found[0], layer.refine, work.picture), corrections=layer.corrections
    )

    def alter(now: Work) -> Work:
        same_layer(now, layer)
        return now.with_layer(again, approved=False)

    shown = ", ".join(f"{name} {value}" for name, value in changes.items())
    session.change(f"Asked again: {shown}"[:80], alter)
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


def remove(session: Session) -> Done:
    """Forget the selected query."""
    layer = selected(session)

    def alter(now: Work) -> Work:
        left = tuple(one for one in now.layers if one is not layer)
        at = min(now.selected, max(len(left) - 1, 0))
        return replace(now, layers=left, selected=at, approved=False)

    session.change(f"Removed {layer.query}", alter)
    return Done(f"“{layer.query}” is gone.")


def _measure(
    session: Session,
    work: Work,
    texts: list[str],
    contrast: ContrastOptions,
    refine: RefineOptions,
    progress: Progress | None,
) -> tuple[list[Measurement], int]:
    """What the model finds, and the rows of the UNet it took."""
    options = {
        field.name: getattr(of, field.name) for of in (contrast, refine) for field in fields(of)
    }
    session.encode()
    before = session.segmenter.evaluations
    found = session.segmenter.measure(
        texts, caption=work.caption or None, progress=progress, **options
    )
    return found, session.segmenter.evaluations - before
