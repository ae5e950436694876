"""How long work tells how far it is, and is stopped."""

from __future__ import annotations

from collections.abc import Callable

from .errors import CancelledError

Progress = Callable[[int, int, str], object]
"""Called as progress(done, total, stage) after every step; returning False stops the work."""


def report(progress: Progress | None, done: int, total: int, stage: str) -> None:
    """Tell the callback, if there is one, how far the work is.

    Raises:
        CancelledError: it answers False.
    """
    if progress is not None and progress(done, total, stage) is False:
        raise CancelledError(f"stopped at step {done} of {total} of {stage}")
