"""What can be done in the studio, on a `Session` and without a browser.

Each function takes one step of the history and returns what to tell the user. What the model
computes is kept by the segmenter, and a mask is first cut quickly (`Layer.settled` is False then):
`settle` cuts it as its options say.
"""

from __future__ import annotations

from .captions import describe, recaption
from .correcting import correct, paint, reach, undo_corrections
from .cutting import settle
from .editing import approve, edit, edit_options, extend, recolour, remove_object
from .finding import ask, forget, open_picture, requery, select
from .pointing import draw_box, point
from .tuning import refinement_name, refinement_of, retune
from .words import ROUGH, Done, sum_up

__all__ = [
    "ROUGH",
    "Done",
    "approve",
    "ask",
    "correct",
    "describe",
    "draw_box",
    "edit",
    "edit_options",
    "extend",
    "forget",
    "open_picture",
    "paint",
    "point",
    "reach",
    "recaption",
    "recolour",
    "refinement_name",
    "refinement_of",
    "remove_object",
    "requery",
    "retune",
    "select",
    "settle",
    "sum_up",
    "undo_corrections",
]
