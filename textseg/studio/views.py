"""Ways to look at a picture and its masks: (h, w, 3) uint8, at the size pictures are shown at."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..drawing import PALETTE, tint
from .work import Layer, Work

if TYPE_CHECKING:
    from PIL import Image

_FAINT, _STRONG = 0.28, 0.5
_CHECKER = (238, 214)


def color_of(index: int) -> tuple[int, int, int]:
    """The colour of a query by its place."""
    return PALETTE[index % len(PALETTE)]


def overlay(work: Work) -> np.ndarray:
    """Every mask in its query's colour, the selected one strongest and on top."""
    out = work.picture.view
    order = [i for i in range(len(work.layers)) if i != work.selected]
    for index in [*order, *([work.selected] if work.layers else [])]:
        strength = _STRONG if index == work.selected else _FAINT
        out = tint(out, _small(work.layers[index].mask, out), color_of(index), strength)
    return out


def mask(work: Work) -> np.ndarray:
    """The selected mask in white on black."""
    if work.layer is None:
        return np.zeros_like(work.picture.view)
    shown = _small(work.layer.mask, work.picture.view)
    return np.repeat(shown[..., None].astype(np.uint8) * np.uint8(255), 3, axis=2)


def cutout(work: Work) -> np.ndarray:
    """The selected pixels on a chequered ground."""
    view = work.picture.view
    rows, columns = np.indices(view.shape[:2]) // 12
    ground = np.where((rows + columns) % 2 == 0, *_CHECKER).astype(np.uint8)[..., None]
    if work.layer is None:
        return view
    return np.where(_small(work.layer.mask, view)[..., None], view, ground)


def soft_map(work: Work) -> np.ndarray:
    """The selected score from 0 to 1: the refined soft mask, over the greyed picture."""
    if work.layer is None:
        return work.picture.view
    return _heat(work, _resize(work.layer.found.score, work.picture.view, smooth=True))


def contrast(work: Work) -> np.ndarray:
    """The selected query's raw noise differences, one square per latent cell, brightest at their
    99th percentile."""
    if work.layer is None or work.layer.found.contrast is None:
        return work.picture.view
    raw = work.layer.found.contrast
    peak = float(np.percentile(raw, 99))
    cells = np.clip(raw / peak, 0, 1) if peak > 0 else np.zeros_like(raw)
    return _heat(work, _resize(cells.astype(np.float32), work.picture.view, smooth=False))


VIEWS: dict[str, Callable[[Work], np.ndarray]] = {
    "Overlay": overlay,
    "Soft map": soft_map,
    "Contrast": contrast,
    "Mask": mask,
    "Cutout": cutout,
}


def look(work: Work, view: str) -> np.ndarray:
    """The picture as one of `VIEWS` shows it; an unknown view is the overlay."""
    return VIEWS.get(view, overlay)(work)


def apart(pixels: np.ndarray) -> Image.Image:
    """Pixels as a picture whose file equals no other.

    Gradio writes equal pictures to one file, anew each time, also while a browser reads it.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.info["Comment"] = secrets.token_hex(8)
    return picture


def legend(work: Work) -> list[tuple[str, Layer]]:
    """The queries with their colours as "#rrggbb"."""
    colors = ["#{:02x}{:02x}{:02x}".format(*color_of(i)) for i in range(len(work.layers))]
    return list(zip(colors, work.layers, strict=True))


def _small(mask: np.ndarray, view: np.ndarray) -> np.ndarray:
    import cv2

    if mask.shape == view.shape[:2]:
        return mask
    size = (view.shape[1], view.shape[0])
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)


def _resize(values: np.ndarray, view: np.ndarray, *, smooth: bool) -> np.ndarray:
    import cv2

    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return cv2.resize(values, (view.shape[1], view.shape[0]), interpolation=how)


def _heat(work: Work, values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 (h, w) as colours (Inferno) over the greyed, darkened picture."""
    import cv2

    view = work.picture.view
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    levels = np.rint(values * 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.rint(0.25 * grey + 0.75 * heat).clip(0, 255).astype(np.uint8)
