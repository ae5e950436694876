"""Masks corrected by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import InputError
from ..pictures import Picture
from ..session import Session
from ..work import NO_HINTS, Correction
from .checks import selected
from .cutting import cut_again
from .words import Done, say


def correct(session: Session, correction: Correction) -> Done:
    """Change the selected mask by hand.

    Raises:
        InputError: there is no mask.
    """
    with session.lock:
        layer = selected(session)
        better = replace(layer, corrections=(*layer.corrections, correction))
        label = correction.say().capitalize()
        session.change_layer(label, better)
    return Done(f"{label}. {say(better)}")


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
    with session.lock:
        layer = replace(selected(session), corrections=())
        if layer.hints:
            layer = cut_again(layer, session.work.picture, hints=NO_HINTS)
        session.change_layer("Took back all corrections", layer)
    return Done(say(layer), about=(layer.query,))
