"""What the picture shows, in words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..session import Session
from .checks import same_picture
from .words import Done

if TYPE_CHECKING:
    from ...captioning import Caption
    from ...progress import Progress


def describe(
    session: Session, captioner: str | None = None, progress: Progress | None = None
) -> Done:
    """Write a caption of the picture.

    Args:
        captioner: name of a captioning model; None for BLIP where it lies here, else the nouns
            that the segmenting model sees.

    Raises:
        InputError: nothing here writes captions; CancelledError: `progress` returned False.
    """
    from ...captioning import caption, find_captioner

    work = session.work
    model: Any = captioner or find_captioner(session.segmenter.model)
    said = caption(work.picture.pixels, model=model, progress=progress)
    things = tuple(f"the {noun}" for noun, _ in said.nouns[:3]) or _things_in(said, session)
    picture = replace(work.picture, caption=said.text, things=things)
    # The step stays the same: a caption is known of the picture, it is nothing the user did.
    with session.lock:
        now = session.work
        same_picture(now, work)
        session.history.amend(replace(now, picture=picture, caption=said.text))
    return Done(f"{said.model} says: {said.text}.", said.evaluations)


def recaption(session: Session, text: str) -> Done:
    """Take the user's caption."""
    text = " ".join(text.split())
    if text != session.work.caption:
        session.change("Changed the caption", lambda now: replace(now, caption=text), "caption")
    return Done("The caption is used by the reference “erase”.")


def _things_in(said: Caption, session: Session) -> tuple[str, ...]:
    from ...english import object_noun

    parts = re.split(r"\b(?:and|with|on|in|of|at|near|next to)\b|,", said.text)
    nouns = [object_noun(part, session.segmenter.model.nouns) for part in parts[1:]]
    return tuple(dict.fromkeys(f"the {noun}" for noun in nouns if noun))[:3]
