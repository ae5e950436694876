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


def edit(
    session: Session, prompt: str, ratio: float, guidance: float, steps: float, *, progress: Any
) -> Done:
    return actions.edit(
        session,
        prompt or "",
        progress,
        encode_ratio=round(float(ratio), 4),
        guidance_scale=round(float(guidance), 4),
        steps=int(steps),
    )


def go_on(session: Session) -> Done:
    edit = session.work.edit
    if edit is None:
        return Done("There is no edit yet.")
    picture = pictures.picture_of_edit(edit, session.work.picture.name)
    return actions.open_picture(session, picture)


def travel(session: Session, *, by: int) -> Done:
    return go(session, session.history.at + by)


def go(session: Session, index: int | None) -> Done:
    with session.lock:
        session.changes += 1
        session.history.go(session.history.at if index is None else int(index))
        return Done(f"Back at: {session.history.steps[session.history.at].label}.")
