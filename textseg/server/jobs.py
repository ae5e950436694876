"""Work that outlives its request: progress to watch, a result to fetch, for who started it only."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from starlette.responses import Response

from ..errors import CancelledError
from .answers import Refusal, refusal_of
from .engine import Work
from .settings import ServerOptions

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
HEARTBEAT = 15.0
"""Seconds after which a silent stream of events says that it is alive."""


@dataclass(eq=False)
class Job:
    """A piece of work and what became of it.

    Attributes:
        id: 43 characters nobody can guess.
        caller: who started it, from `gate.identity`.
        render: see `verbs.Task`.
        error: why there is no result.
        watched, fetched: whether somebody listened to its events, and took its result.
    """

    caller: str
    render: Callable[[Any, str], Response]
    work: Work
    id: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    created: float = field(default_factory=time.time)
    ended: float | None = None
    state: str = WAITING
    progress: tuple[int, int, str] = (0, 0, "")
    result: Any = None
    error: Refusal | None = None
    size: int = 0
    watched: bool = False
    fetched: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def describe(self) -> dict[str, Any]:
        """The job as its owner sees it, JSON-able."""
        done, total, stage = self.progress
        record: dict[str, Any] = {
            "id": self.id,
            "kind": self.work.kind,
            "state": self.state,
            "progress": {"done": done, "total": total, "stage": stage},
            "links": {
                "self": f"/v1/jobs/{self.id}",
                "events": f"/v1/jobs/{self.id}/events",
                "result": f"/v1/jobs/{self.id}/result",
            },
        }
        if self.error is not None:
            record["error"] = {"kind": self.error.kind, "message": self.error.message}
        return record

    def note(self, done: int, total: int, stage: str) -> None:
        """Take in a step of progress; on the event loop's thread."""
        if self.state in (WAITING, RUNNING):
            self.state, self.progress = RUNNING, (done, total, stage)
            self._tell()

    def end(self, state: str, result: Any = None, error: Refusal | None = None) -> None:
        """Take in the outcome."""
        self.state, self.result, self.error, self.ended = state, result, error, time.time()
        self.size = sum(array.nbytes for array in _arrays(result))
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events: the job as it stands, every change, the outcome."""
        self.watched = True
        while True:
            # The job may end while an event is being sent; the outcome is then still to be told.
            changed, over = self._changed, self.ended is not None
            name = self.state if over else "progress"
            yield f"event: {name}\ndata: {json.dumps(self.describe())}\n\n".encode()
            if over:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield b": still here\n\n"


class Jobs:
    """The jobs of all callers; each sees its own."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job) -> None:
        """Take in a job that was submitted; follows its work to the end."""
        self._sweep()
        unfinished = sum(one.ended is None for one in self)
        if unfinished >= self._options.max_jobs:
            raise Refusal(429, "busy", "The server holds too many jobs.", {"Retry-After": "30"})
        self._jobs[job.id] = job
        job.work.done.add_done_callback(lambda done: self._ended(job, done))

    def get(self, id: str, caller: str) -> Job:
        """A caller's job; another's is as unknown as one that never was.

        Raises:
            Refusal: 404.
        """
        self._sweep()
        job = self._jobs.get(id)
        if job is None or not hmac.compare_digest(job.caller, caller):
            raise Refusal(404, "no_such_job", "There is no such job, or it was forgotten.")
        return job

    def remove(self, job: Job) -> None:
        """Forget a job and its result."""
        self._jobs.pop(job.id, None)

    def _ended(self, job: Job, done: asyncio.Future[Any]) -> None:
        job.work.forget()
        error = done.exception()
        if error is None:
            job.end(DONE, done.result())
        elif isinstance(error, CancelledError):
            job.end(CANCELLED, error=refusal_of(error))
        else:
            job.end(FAILED, error=refusal_of(error))
        self._sweep()

    def _sweep(self) -> None:
        """Forget what is too old, and the oldest of what is too much."""
        oldest = time.time() - self._options.keep_seconds
        ended = sorted(
            (one for one in self if one.ended is not None), key=lambda one: one.ended or 0.0
        )
        size = sum(job.size for job in ended)
        count = len(self._jobs)
        for job in ended:
            too_old = job.ended is not None and job.ended < oldest
            # The last one stays, whatever its size: somebody is about to fetch it.
            too_much = size > self._options.keep_bytes and job is not ended[-1]
            if too_old or too_much or count > self._options.max_jobs:
                self.remove(job)
                size, count = size - job.size, count - 1


def _arrays(result: Any) -> Iterator[np.ndarray]:
    """The arrays a result holds."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, (list, tuple)):
        for one in result:
            yield from _arrays(one)
    elif hasattr(result, "__dataclass_fields__"):
        yield from _arrays(list(vars(result).values()))
