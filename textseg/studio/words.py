"""What the status line says, as HTML."""

from __future__ import annotations

from html import escape

from ..errors import TextsegError
from .jobs import Underway

LOST = "The studio was started again. Reload the page to go on."
BROKEN = "Something went wrong inside the studio; its log says what."


def plain(error: TextsegError) -> str:
    """An error's message as a sentence."""
    text = " ".join(str(error).split())
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def status(
    said: str, rows: int = 0, seconds: float = 0.0, *, bad: bool = False, timed: bool = False
) -> str:
    """A sentence and what it took.

    Args:
        bad: it tells of something that went wrong.
        timed: say what it took even if no model ran.
    """
    cost = ""
    if rows or timed:
        ran = f"{rows} predictions of the model" if rows else "no model ran"
        cost = f"<small>{ran}, {duration(seconds)}</small>"
    kind = " ts-bad" if bad else ""
    opening = f'<div class="ts-status{kind}" role="status" aria-live="polite">'
    return f"{opening}<p>{escape(said)}</p>{cost}</div>"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def underway(word: Underway) -> str:
    """How far a job is, with a bar."""
    share = 100 * word.done / max(word.total, 1)
    return (
        f'<div class="ts-status"><p>{escape(word.said)}</p><div class="ts-progress" '
        f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}">'
        f'<div style="width:{share:.1f}%"></div></div></div>'
    )
