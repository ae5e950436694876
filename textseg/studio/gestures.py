"""What a pointer did on the picture, as `gestures.js` tells it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import InputError
from . import actions
from .actions import Done
from .pictures import Picture
from .session import Session

MOST_PLACES = 10_000


def answer(session: Session, told: Any) -> Done:
    """Do what a gesture means.

    Args:
        told: {"kind": "point", "at": [x, y], "label": 1 or 0}; {"kind": "box", "from": [x, y],
            "to": [x, y]}; or {"kind": "add" or "erase", "path": [[x, y], ...], "width": w} of a
            stroke; x, y and w are fractions of the picture's width, height and longer side.

    Raises:
        InputError: it is told in another form, or there is no mask to correct.
    """
    picture = session.work.picture
    kind = told.get("kind") if isinstance(told, dict) else None
    if kind == "point":
        x, y = _pixel(picture, told.get("at"))
        return actions.point(session, x, y, int(bool(told.get("label"))))
    if kind == "box":
        (a, b), (c, d) = _pixel(picture, told.get("from")), _pixel(picture, told.get("to"))
        return actions.draw_box(session, (min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1))
    if kind in ("add", "erase"):
        return actions.paint(session, kind, _stroke(picture, told.get("path"), told.get("width")))
    raise InputError(f"gesture must be a point, a box or a stroke, got {kind!r}")


def _pixel(picture: Picture, at: Any) -> tuple[int, int]:
    """x, y of the pixel at fractions of a picture; places beside it are brought to its edge."""
    height, width = picture.pixels.shape[:2]
    if not (isinstance(at, list) and len(at) == 2 and all(map(_finite, at))):
        raise InputError(f"place must be two fractions of the picture, got {at!r}")
    return (
        min(max(math.floor(at[0] * width), 0), width - 1),
        min(max(math.floor(at[1] * height), 0), height - 1),
    )


def _stroke(picture: Picture, path: Any, width: Any) -> np.ndarray:
    """What a stroke covers, (H, W) bool."""
    import cv2

    if not (isinstance(path, list) and 1 <= len(path) <= MOST_PLACES):
        raise InputError(f"path must be a list of 1 to {MOST_PLACES} places, got another")
    if not (_finite(width) and 0 < width <= 1):
        raise InputError(f"width must be in (0, 1], got {width!r}")
    size = picture.pixels.shape[:2]
    across = max(1, round(width * max(size)))
    places = np.array([_pixel(picture, at) for at in path], np.int32)
    covered = np.zeros(size, np.uint8)
    cv2.polylines(covered, [places], isClosed=False, color=1, thickness=across)
    for x, y in places[[0, -1]].tolist():
        cv2.circle(covered, (x, y), across // 2, 1, cv2.FILLED)
    return covered.astype(bool)


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
