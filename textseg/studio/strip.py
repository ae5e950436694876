"""The history as a strip of small pictures, a button each."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from .history import History
from .views import overlay
from .work import Work

if TYPE_CHECKING:
    from ..edits import Edit

SIDE = 112
"""Longest side of a small picture in pixels."""
SCRIPT = """element.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-step]");
  if (button) trigger("click", { step: Number(button.dataset.step) });
});
watch("value", () => {
  const list = element.querySelector("ol"), now = list?.querySelector("[aria-current]");
  const middle = (place, side) => now[`offset${place}`] - list[`client${side}`] / 2;
  if (now) list.scrollTo(middle("Left", "Width"), middle("Top", "Height"));
});"""

_small: WeakKeyDictionary[Work, str] = WeakKeyDictionary()


def strip(history: History) -> str:
    """An ordered list of the steps, with the present one marked."""
    steps, before = [], None
    for number, step in enumerate(history.steps):
        edit, before = (step.work.edit if step.work.edit is not before else None), step.work.edit
        now = ' aria-current="step"' if number == history.at else ""
        undone = ' class="ts-undone"' if number > history.at else ""
        steps.append(
            f'<li{undone}><button type="button" data-step="{number}"{now}>'
            f'<img alt="" src="{_thumbnail(step.work, edit)}"/><span>{escape(step.label)}</span>'
            "</button></li>"
        )
    return f'<ol class="ts-strip" aria-label="Steps so far">{"".join(steps)}</ol>'


def _thumbnail(work: Work, edit: Edit | None) -> str:
    """The edit that a step made, or else the picture with its masks, small, as a data URL."""
    if work not in _small:
        from ..image import resize_image

        shown = overlay(work) if edit is None else edit.image
        shrink = min(1.0, SIDE / max(shown.shape[:2]))
        height, width = (max(1, round(side * shrink)) for side in shown.shape[:2])
        _small[work] = _url(resize_image(shown, (height, width)))
    return _small[work]


def _url(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
