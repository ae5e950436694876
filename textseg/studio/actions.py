"""What can be done in the studio, on a `Session` and without a browser.

Each function takes one step of the history and returns what to tell the user. What the model
computes is kept by the segmenter, and a mask is first cut quickly (`Layer.settled` is False then):
`settle` cuts it as its options say.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cutting import cut as cut_mask
from ..cutting import measurement_of
from ..errors import InputError
from ..options import NO_REFINEMENT, ContrastOptions, EditOptions, RefineOptions, override
from ..vocabulary import find_unknown_note
from .pictures import Picture
from .state import Correction, Layer, Session, Work

if TYPE_CHECKING:
    from ..captioning import Caption
    from ..cutting import Measurement
    from ..masks import Segmentation
    from ..progress import Progress

_log = logging.getLogger(__name__)

ROUGH = "the mask has quick edges: the final cut failed"
"""Note of a mask whose refinement failed."""

QUICK_GUIDED = 0.02
"""Radius of the guided filter that stands in for the dense CRF until that is done."""

MOST_QUERIES = 10
REFINEMENTS: dict[str, dict[str, Any]] = {
    "none": dict(NO_REFINEMENT),
    "guided": {**NO_REFINEMENT, "guided": QUICK_GUIDED, "min_area": 0.001, "max_hole": 0.001},
    "crf": {**NO_REFINEMENT, "crf": True, "min_area": 0.001, "max_hole": 0.001},
}
"""Fields of `RefineOptions` that each choice of refinement sets; "model" is what the model was
calibrated with."""


@dataclass(frozen=True)
class Done:
    """What to tell the user.

    Attributes:
        said: a sentence.
        rows: noisy images the UNet was run on for it.
        about: the queries the sentence is about, where it may change as their masks settle.
    """

    said: str
    rows: int = 0
    about: tuple[str, ...] = ()


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
    layers = tuple(_quick(one, work.refine, work.picture) for one in found)

    def alter(now: Work) -> Work:
        _same_picture(now, work)
        return replace(now, layers=(*now.layers, *layers), selected=len(now.layers), approved=False)

    session.change(f"Found {', '.join(new)}", alter)
    return Done(" ".join(_say(layer) for layer in layers), rows, tuple(new))


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
        return Done(_say(layer))
    found, rows = _measure(session, work, [layer.query], contrast, layer.refine, progress)
    again = replace(_quick(found[0], layer.refine, work.picture), corrections=layer.corrections)

    def alter(now: Work) -> Work:
        _same_layer(now, layer)
        return now.with_layer(again, approved=False)

    shown = ", ".join(f"{name} {value}" for name, value in changes.items())
    session.change(f"Asked again: {shown}"[:80], alter)
    return Done(_say(again), rows, (layer.query,))


def retune(session: Session, **changes: Any) -> Done:
    """Cut the selected query's mask with other `RefineOptions`; runs no model."""
    work = session.work
    layer = work.layer
    if layer is None:
        refine = override(work.refine, changes)
        session.change("Changed the mask's options", lambda now: replace(now, refine=refine))
        return Done("The next mask is cut this way.")
    refine = override(layer.refine, changes)
    if refine == layer.refine:
        return Done(_say(layer))
    again = _quick(measurement_of(layer.found), refine, work.picture)
    cut = replace(again, corrections=layer.corrections)
    name, value = next(iter(changes.items()))
    label = f"Threshold {value:.2f}" if name == "level" else "Changed the mask's options"

    def alter(now: Work) -> Work:
        _same_layer(now, layer)
        return now.with_layer(cut, approved=False)

    session.change(label, alter, merges=f"{name} of {work.selected}")
    return Done(_say(cut), about=(layer.query,))


def refinement_of(session: Session, choice: str) -> dict[str, Any]:
    """The fields of `RefineOptions` that a choice of `REFINEMENTS`, or "model", sets."""
    if choice != "model":
        return REFINEMENTS[choice]
    calibrated = asdict(session.segmenter.refine)
    return {name: calibrated[name] for name in NO_REFINEMENT}


def refinement_name(session: Session, refine: RefineOptions) -> str:
    """The choice that options come from, "" for none of them."""
    now = {name: getattr(refine, name) for name in NO_REFINEMENT}
    names = ("model", *REFINEMENTS)
    return next((name for name in names if refinement_of(session, name) == now), "")


def settle(session: Session) -> bool:
    """Cut the masks that were cut quickly as their options say; no step of the history.

    One that cannot be cut so stays as it is, with a note that says so.

    Returns:
        whether a mask was settled.
    """
    with session.cutting:
        work = session.work
        cut = {layer: _settled(layer, work.picture) for layer in work.layers if not layer.settled}
        with session.lock:
            now = session.work
            if any(layer in cut for layer in now.layers):
                layers = tuple(cut.get(layer, layer) for layer in now.layers)
                session.history.amend(replace(now, layers=layers))
    return bool(cut)


def sum_up(session: Session, queries: tuple[str, ...]) -> str:
    """How the masks of some queries are now."""
    return " ".join(_say(layer) for layer in session.work.layers if layer.query in queries)


def correct(session: Session, correction: Correction) -> Done:
    """Change the selected mask by hand.

    Raises:
        InputError: there is no mask.
    """
    layer = _layer(session)
    better = replace(layer, corrections=(*layer.corrections, correction))
    label = correction.say().capitalize()
    session.change(label, lambda now: now.with_layer(better, approved=False))
    return Done(f"{label}. {_say(better)}")


def paint(session: Session, kind: str, painted: np.ndarray) -> Done:
    """Add a painted region to the selected mask, or erase it.

    Args:
        kind: "add" or "erase".
        painted: (h, w) bool, at any size.

    Raises:
        InputError: nothing was painted, or there is no mask.
    """
    import cv2

    if kind not in ("add", "erase"):
        raise InputError(f"kind must be 'add' or 'erase', got {kind!r}")
    if not painted.any():
        raise InputError("strokes must be painted first, got none")
    height, width = session.work.picture.pixels.shape[:2]
    region = cv2.resize(
        painted.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    ).astype(bool)
    return correct(session, Correction(kind, stroke=np.packbits(region)))  # pyright: ignore[reportArgumentType]


def reach(picture: Picture) -> int:
    """Pixels by which one click grows or shrinks a mask of this picture."""
    return max(1, round(max(picture.pixels.shape[:2]) / 240))


def undo_corrections(session: Session) -> Done:
    """Take back everything done to the selected mask by hand."""
    layer = replace(_layer(session), corrections=())
    session.change("Took back all corrections", lambda now: now.with_layer(layer, approved=False))
    return Done(_say(layer))


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
    return Done(_say(work.layers[index]))


def remove(session: Session) -> Done:
    """Forget the selected query."""
    layer = _layer(session)

    def alter(now: Work) -> Work:
        left = tuple(one for one in now.layers if one is not layer)
        at = min(now.selected, max(len(left) - 1, 0))
        return replace(now, layers=left, selected=at, approved=False)

    session.change(f"Removed {layer.query}", alter)
    return Done(f"“{layer.query}” is gone.")


def approve(session: Session) -> Done:
    """Say that the selected mask is right; it can be edited then.

    Raises:
        InputError: there is no mask, or it is empty.
    """
    settle(session)
    layer = _layer(session)
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
    from ..editing import edit as edit_image

    work = session.work
    layer = _layer(session)
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
        _same_picture(now, work)
        return replace(now, edit=done)

    becomes = f"became “{done.prompt}”" if prompt.strip() else "was removed"
    session.change(f"{layer.query} {becomes}", alter)
    notes = "".join(f" Note: {note}." for note in done.notes)
    return Done(f"“{layer.query}” {becomes}.{notes}")


def edit_options(session: Session) -> EditOptions:
    """The options edits start from."""
    from ..editing import edit_defaults

    return edit_defaults(session.segmenter.model)


def describe(
    session: Session, captioner: str | None = None, progress: Progress | None = None
) -> Done:
    """Write a caption of the picture.

    Args:
        captioner: name of a captioning model; None for BLIP where it lies here, else the nouns
            that the segmenting model sees.

    Raises:
        InputError: nothing here writes captions; CancelledError: `progress` returned False.
    """
    from ..captioning import caption, find_captioner

    work = session.work
    model: Any = captioner or find_captioner(session.segmenter.model)
    said = caption(work.picture.pixels, model=model, progress=progress)
    things = tuple(f"the {noun}" for noun, _ in said.nouns[:3]) or _things_in(said, session)
    picture = replace(work.picture, caption=said.text, things=things)
    # The step stays the same: a caption is known of the picture, it is nothing the user did.
    with session.lock:
        now = session.work
        _same_picture(now, work)
        session.history.amend(replace(now, picture=picture, caption=said.text))
        if session._encoded is work.picture:
            session._encoded = picture
    return Done(f"{said.model} says: {said.text}.", said.evaluations)


def recaption(session: Session, text: str) -> Done:
    """Take the user's caption."""
    text = " ".join(text.split())
    if text != session.work.caption:
        session.change("Changed the caption", lambda now: replace(now, caption=text), "caption")
    return Done("The caption is used by the reference “erase”.")


def _things_in(said: Caption, session: Session) -> tuple[str, ...]:
    from ..english import object_noun

    parts = re.split(r"\b(?:and|with|on|in|of|at|near|next to)\b|,", said.text)
    nouns = [object_noun(part, session.segmenter.model.nouns) for part in parts[1:]]
    return tuple(dict.fromkeys(f"the {noun}" for noun in nouns if noun))[:3]


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


def _quick(measured: Measurement, refine: RefineOptions, picture: Picture) -> Layer:
    """A layer cut at once: without the CRF, and large pictures at the size they are shown at."""
    quick = refine
    if refine.crf:
        quick = replace(refine, crf=False, guided=refine.guided or QUICK_GUIDED)
    notes = tuple(note for note in measured.notes if note != ROUGH)
    found = cut_mask(replace(measured, notes=notes), picture.view, quick)
    size = picture.pixels.shape[:2]
    settled = found.mask.shape == size and quick == refine
    return Layer(replace(_at_size(found, size), image=picture.pixels), refine, settled)


def _settled(layer: Layer, picture: Picture) -> Layer:
    """A layer cut as its options say; with its quick cut where that fails."""
    try:
        found = cut_mask(measurement_of(layer.found), picture.pixels, layer.refine)
    except Exception:
        _log.exception("%s: the mask of %r cannot be refined", picture.name, layer.query)
        found = replace(layer.found, notes=(*layer.found.notes, ROUGH))
    return replace(layer, found=found, settled=True)


def _at_size(found: Segmentation, size: tuple[int, ...]) -> Segmentation:
    """A result with its mask and score at another size, without its image."""
    import cv2

    if found.mask.shape == size:
        return found
    shape = (size[1], size[0])
    mask = cv2.resize(found.mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
    score = cv2.resize(found.score, shape, interpolation=cv2.INTER_LINEAR)
    return replace(found, mask=mask.astype(bool), score=np.clip(score, 0, 1), image=None)


def _say(layer: Layer) -> str:
    found = layer.found
    if not layer.mask.any():
        if unknown := find_unknown_note(found.notes):
            return f"“{layer.query}” was not found: {unknown}{'' if unknown.endswith('?') else '.'}"
        if found.presence < layer.refine.min_presence:
            return (
                f"“{layer.query}” was not found: its presence is {found.presence:.2f}, "
                f"and {layer.refine.min_presence:.2f} is needed."
            )
        return f"“{layer.query}”: the mask is empty."
    share = f"{layer.mask.mean():.1%}".replace("%", " %")
    rough = " Its edges are quick ones: the final cut failed." if ROUGH in found.notes else ""
    return f"“{layer.query}”: {share} of the picture, presence {found.presence:.2f}.{rough}"


def _layer(session: Session) -> Layer:
    layer = session.work.layer
    if layer is None:
        raise InputError("query must be asked first, got none")
    return layer


def _same_picture(now: Work, then: Work) -> None:
    if now.picture.pixels is not then.picture.pixels:
        raise InputError("picture must stay the same while it is worked on; it was changed")


def _same_layer(now: Work, layer: Layer) -> None:
    if now.layer is not layer:
        raise InputError("query must stay selected while it is worked on; another one is now")
