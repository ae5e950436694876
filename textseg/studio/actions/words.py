"""What the studio says of masks, and the sentence and cost an action comes back with."""

from __future__ import annotations

from dataclasses import dataclass

from ...vocabulary import find_unknown_note
from ..session import Session
from ..work import Layer

ROUGH = "the mask has quick edges: the final cut failed"
"""Note of a mask whose refinement failed."""


@dataclass(frozen=True)
class Done:
    """What to tell the user.

    Attributes:
        said: a sentence.
        rows: noisy images the model predicted for it.
        about: the queries the sentence is about, where it may change as their masks settle.
        title: how it then still begins.
    """

    said: str
    rows: int = 0
    about: tuple[str, ...] = ()
    title: str = ""


def say(layer: Layer) -> str:
    """How a mask is now."""
    found = layer.found
    if not layer.mask.any():
        if unknown := find_unknown_note(found.notes):
            return f"“{layer.query}” was not found: {unknown}{'' if unknown.endswith('?') else '.'}"
        if layer.absent:
            return (
                f"“{layer.query}” was not found: its presence is {found.presence:.2f}, "
                f"and {layer.refine.min_presence:.2f} is needed."
            )
        return f"“{layer.query}”: the mask is empty."
    share = f"{layer.mask.mean():.1%}".replace("%", " %")
    rough = " Its edges are quick ones: the final cut failed." if ROUGH in found.notes else ""
    return f"“{layer.query}”: {share} of the picture, presence {found.presence:.2f}.{rough}"


def sum_up(session: Session, done: Done) -> str:
    """What to tell the user once the masks have settled; "" for nothing new."""
    said = [say(layer) for layer in session.work.layers if layer.query in done.about]
    return " ".join([done.title, *said]).strip() if said else ""
