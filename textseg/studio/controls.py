"""Actions with the values of the page's components."""

from __future__ import annotations

from typing import Any

from . import actions, pictures
from .actions import Done
from .session import Session
from .work import Correction


def open_file(session: Session, path: str | None, *, max_pixels: int) -> Done:
    return actions.open_picture(session, pictures.open_file(path or "", max_pixels=max_pixels))


def open_sample(session: Session, *, name: str) -> Done:
    return actions.open_picture(session, pictures.open_sample(name))


def make(session: Session, prompt: str, seed: float | None, *, progress: Any) -> Done:
    made = pictures.make_picture(session.segmenter.model, prompt or "", int(seed or 0), progress)
    return actions.open_picture(session, made)


def describe(session: Session, *, captioner: str | None, progress: Any) -> Done:
    return actions.describe(session, captioner, progress)


def ask(session: Session, text: str, *, progress: Any) -> Done:
    return actions.ask(session, text or "", progress)


def select(session: Session, index: int | None) -> Done:
    return actions.select(session, -1 if index is None else int(index))


def recaption(session: Session, text: str) -> Done:
    return actions.recaption(session, text or "")


def refine(session: Session, choice: str) -> Done:
    return actions.retune(session, **actions.refinement_of(session, choice))


def rule(session: Session, rule: str) -> Done:
    return actions.retune(session, threshold=rule)


def anyway(session: Session) -> Done:
    return actions.retune(session, min_presence=0.0)


def reference(session: Session, reference: str, *, progress: Any) -> Done:
    return actions.requery(session, progress, reference=str(reference or "null"))


def samples(session: Session, samples: float, *, progress: Any) -> Done:
    return actions.requery(session, progress, samples=int(samples))


def strength(session: Session, strength: float, *, progress: Any) -> Done:
    return actions.requery(session, progress, strength=(round(float(strength), 4),))


def correct(session: Session, *, kind: str) -> Done:
    pixels = 0 if kind == "invert" else actions.reach(session.work.picture)
    return actions.correct(session, Correction(kind, pixels))  # pyright: ignore[reportArgumentType]


def edit(session: Session, prompt: str, *settings: Any, progress: Any) -> Done:
    return actions.edit(session, prompt or "", progress, **_edit_changes(*settings))


def _edit_changes(
    ratio: float,
    guidance: float,
    steps: float,
    method: str,
    seed: float | None,
    negative: str,
    grow: float,
) -> dict[str, Any]:
    return {
        "method": method or None,
        "encode_ratio": round(float(ratio), 4),
        "guidance_scale": round(float(guidance), 4),
        "steps": int(steps),
        "seed": int(seed or 0),
        "negative_prompt": (negative or "").strip(),
        "grow": round(float(grow), 4),
    }


def remove_object(session: Session, *, progress: Any) -> Done:
    return actions.remove_object(session, progress)


def recolour(session: Session, path: str | None, *, max_pixels: int, progress: Any) -> Done:
    style = pictures.open_file(path or "", max_pixels=max_pixels)
    return actions.recolour(session, style, progress)


def extend(session: Session, prompt: str, *amounts: float | None, progress: Any) -> Done:
    sides = zip(("left", "right", "top", "bottom"), amounts, strict=True)
    added = {side: f"{amount:g}%" for side, amount in sides if amount}
    return actions.extend(session, prompt or "", progress, **added)


def go_on(session: Session) -> Done:
    edit = session.work.edit
    if edit is None:
        return Done("There is no edit yet.")
    picture = pictures.picture_of_edit(edit, session.work.picture.name)
    return actions.open_picture(session, picture)


def travel(session: Session, *, by: int) -> Done:
    return go(session, session.history.at + by)


def go(session: Session, index: Any) -> Done:
    with session.lock:
        session.changes += 1
        session.history.go(index if type(index) is int else session.history.at)
        return Done(f"Back at: {session.history.steps[session.history.at].label}.")
