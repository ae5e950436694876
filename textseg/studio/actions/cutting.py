"""Masks from what was measured: cut quickly first, then as their options say."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...cutting import cut as cut_mask
from ...cutting import measurement_of
from ...options import RefineOptions
from ..pictures import Picture
from ..state import Layer, Session
from .words import ROUGH

if TYPE_CHECKING:
    from ...cutting import Measurement
    from ...masks import Segmentation

_log = logging.getLogger(__name__)

QUICK_GUIDED = 0.02
"""Radius of the guided filter that stands in for the dense CRF until that is done."""


def quick_layer(measured: Measurement, refine: RefineOptions, picture: Picture) -> Layer:
    """A layer cut at once: without the CRF, and large pictures at the size they are shown at."""
    quick = refine
    if refine.crf:
        quick = replace(refine, crf=False, guided=refine.guided or QUICK_GUIDED)
    notes = tuple(note for note in measured.notes if note != ROUGH)
    found = cut_mask(replace(measured, notes=notes), picture.view, quick)
    size = picture.pixels.shape[:2]
    settled = found.mask.shape == size and quick == refine
    return Layer(replace(_at_size(found, size), image=picture.pixels), refine, settled)


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
