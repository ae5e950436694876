"""Masks corrected by pointing at the picture; see `textseg.correct`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...clicks import Box
from ..pictures import Picture
from ..session import Session
from ..work import Correction, Hints, Layer
from .checks import selected
from .cutting import cut_again
from .words import Done, say


def point(session: Session, x: int, y: int, label: int) -> Done:
    """Say of one place that it is of the selected thing, or that it is not.

    Strokes that say otherwise there are taken back.

    Args:
        x, y: pixel of the picture.
        label: 1 if it is of the thing, 0 if not.

    Raises:
        InputError: there is no mask, or the place is not in the picture.
    """
    with session.lock:
        work, layer = session.work, selected(session)
        hint = 1 - label if layer.inverted else label
        points = (*layer.hints.points, (float(x), float(y), hint))
        better = cut_again(layer, work.picture, hints=replace(layer.hints, points=points))
        if better.mask[y, x] != label:
            better = _overruled(better, work.picture, x, y, label)
        title = f"{'Added' if label else 'Took away'} a place"
        session.change_layer(title, better)
    return _done(title, better)


def draw_box(session: Session, box: tuple[int, int, int, int]) -> Done:
    """Say that the selected thing lies inside a box; boxes that it crosses are replaced by it.

    Args:
        box: left, top, right, bottom in pixels of the picture.

    Raises:
        InputError: there is no mask, or the box is not in the picture.
    """
    with session.lock:
        work, layer = session.work, selected(session)
        if layer.inverted:
            outside = np.ones(layer.mask.shape, bool)
            outside[box[1] : box[3], box[0] : box[2]] = False
            erased = Correction("erase", stroke=np.packbits(outside))
            better = replace(layer, corrections=(*layer.corrections, erased))
        else:
            apart = (one for one in layer.hints.boxes if not _cross(one, box))
            hints = Hints(layer.hints.points, (*apart, box))
            better = cut_again(layer, work.picture, hints=hints)
        session.change_layer("Drew a box", better)
    return _done("Drew a box", better)


def _done(title: str, layer: Layer) -> Done:
    return Done(f"{title}. {say(layer)}", about=(layer.query,), title=f"{title}.")


def _cross(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and (
        max(one[1], other[1]) < min(one[3], other[3])
    )


def _overruled(layer: Layer, picture: Picture, x: int, y: int, label: int) -> Layer:
    """A layer in which a place is as a click says, whatever was done by hand before."""
    at = y * picture.pixels.shape[1] + x
    kept = tuple(one for one in layer.corrections if not one.covers(at))
    layer = replace(layer, corrections=kept)
    if layer.mask[y, x] == label:
        return layer
    radius = max(1, max(picture.pixels.shape[:2]) // 100)
    rows, columns = np.ogrid[: layer.mask.shape[0], : layer.mask.shape[1]]
    disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    dab = Correction("add" if label else "erase", stroke=np.packbits(disc))
    return replace(layer, corrections=(*kept, dab))
