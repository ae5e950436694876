"""Work that takes a while, in a thread of its own, with progress and an end on request."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InputError
from ..progress import Progress
from .actions import Done
from .session import Session

STAGES = {
    "contrast": "Comparing predictions",
    "refine": "Cutting the mask",
    "naming": "Naming what is there",
    "encoding": "Encoding the picture",
    "decoding": "Decoding the edit",
    "assessing": "Looking at what came of it",
    "fill": "Filling the region",
    "transport": "Changing the colours",
}
_EVERY = 0.1
_WAIT = 20.0


@dataclass(frozen=True)
class Underway:
    """How far a job is: `done` of `total` of a stage."""

    done: int
    total: int
    stage: str

    @property
    def said(self) -> str:
        """In words."""
        part, _, stage = self.stage.rpartition(": ")
        said = f"{STAGES.get(stage, 'Making the picture')}: {self.done} of {self.total}"
        return f"{said} ({part})" if part else said


def run(
    session: Session, job: Callable[[Progress], Done], *, unasked: bool = False
) -> Iterator[Underway | Done]:
    """Run a job, say how far it is, and at last what it did.

    A session runs one job at a time. What runs unasked gives way to what was asked for. A reader
    who goes away ends the job at its next step.

    Args:
        job: called with a progress callback, in another thread.
        unasked: end when `Session.stop_caption` is set, not `Session.stop`.

    Raises:
        InputError: another job runs. CancelledError: it was ended. Whatever the job raises.
    """
    stop = session.stop_caption if unasked else session.stop
    if not unasked:
        session.stop_caption.set()
    if not session.busy.acquire(timeout=0 if unasked else _WAIT):
        raise InputError("job must wait for the one that runs; cancel that first")
    stop.clear()
    told: queue.SimpleQueue[Underway | Done | BaseException] = queue.SimpleQueue()

    def progress(done: int, total: int, stage: str) -> bool:
        told.put(Underway(done, total, stage))
        return not stop.is_set()

    def work() -> None:
        try:
            outcome: Done | BaseException = job(progress)
        except BaseException as error:
            outcome = error
        session.busy.release()
        told.put(outcome)

    try:
        threading.Thread(target=work, name="textseg-studio-job", daemon=True).start()
    except BaseException:
        session.busy.release()
        raise
    shown = 0.0
    try:
        while True:
            word = told.get()
            if isinstance(word, BaseException):
                raise word
            if isinstance(word, Done):
                yield word
                return
            if time.monotonic() - shown >= _EVERY:
                shown = time.monotonic()
                yield word
    except GeneratorExit:
        stop.set()
        raise


def cancel(session: Session) -> bool:
    """Ask the job that runs to end at its next step; whether there is one."""
    session.stop.set()
    return session.busy.locked()
