"""Masks from what was measured: cut quickly first, then as their options say."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clicks import correct
from ...options import RefineOptions
from ..pictures import Picture
from ..session import Session
from ..work import NO_HINTS, Correction, Hints, Layer
from .words import ROUGH

if TYPE_CHECKING:
    from ...cutting import Measurement
    from ...masks import Segmentation

_log = logging.getLogger(__name__)

QUICK_GUIDED = 0.02
"""Radius of the guided filter that stands in for the dense CRF until that is done."""


def quick_layer(
    measured: Measurement,
    refine: RefineOptions,
    picture: Picture,
    hints: Hints = NO_HINTS,
    corrections: tuple[Correction, ...] = (),
) -> Layer:
    """A layer cut at once: without the CRF, and large pictures at the size they are shown at."""
    quick = refine
    if refine.crf:
        quick = replace(refine, crf=False, guided=refine.guided or QUICK_GUIDED)
    size = picture.pixels.shape[:2]
    seen = hints.scaled(size, picture.view.shape[:2])
    found = correct(measured, picture.view, seen.points, seen.boxes, quick)
    settled = found.mask.shape == size and quick == refine
    found = replace(_at_size(found, size), image=picture.pixels)
    return Layer(measured, refine, found, hints, settled, corrections)


def cut_again(layer: Layer, picture: Picture, **changes: Any) -> Layer:
    """A layer with some fields changed, cut at once."""
    now = replace(layer, **changes)
    return quick_layer(now.measured, now.refine, picture, now.hints, now.corrections)


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


def _settled(layer: Layer, picture: Picture) -> Layer:
    """A layer cut as its options say; with its quick cut where that fails."""
    try:
        hints = layer.hints
        found = correct(layer.measured, picture.pixels, hints.points, hints.boxes, layer.refine)
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
