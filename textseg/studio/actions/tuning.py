"""The options a mask is cut with; no model runs for them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from ...options import NO_REFINEMENT, RefineOptions, override
from ..session import Session
from .cutting import QUICK_GUIDED, cut_again
from .words import Done, say

REFINEMENTS: dict[str, dict[str, Any]] = {
    "none": dict(NO_REFINEMENT),
    "guided": {**NO_REFINEMENT, "guided": QUICK_GUIDED, "min_area": 0.001, "max_hole": 0.001},
    "crf": {**NO_REFINEMENT, "crf": True, "min_area": 0.001, "max_hole": 0.001},
}
"""Fields of `RefineOptions` that each choice of refinement sets; "model" is what the model was
calibrated with."""


def retune(session: Session, **changes: Any) -> Done:
    """Cut the selected query's mask with other `RefineOptions`; runs no model."""
    # Masks settle meanwhile, in another thread: the lock keeps either from undoing the other.
    with session.lock:
        work = session.work
        layer = work.layer
        if layer is None:
            refine = override(work.refine, changes)
            session.change("Changed the mask's options", lambda now: replace(now, refine=refine))
            return Done("The next mask is cut this way.")
        refine = override(layer.refine, changes)
        if refine == layer.refine:
            return Done(say(layer))
        cut = cut_again(layer, work.picture, refine=refine)
        name, value = next(iter(changes.items()))
        label = f"Threshold {value:.2f}" if name == "level" else "Changed the mask's options"
        session.change_layer(label, cut, merges=f"{name} of {work.selected}")
        return Done(say(cut), about=(layer.query,))


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
