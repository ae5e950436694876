"""The steps overlapped on one machine: loader threads, the model here, finishing in processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ..faults import Fault
from ..workers import Threads, spread
from .sources import Item
from .stages import Draft, Drafter, Failure, Finisher, Job, Loaded, Record, load

LOADERS = 2
AHEAD = 4
"""Images loaded ahead of the model at most."""


def run_local(job: Job, items: Iterable[Item], workers: int) -> Generator[Record, None, None]:
    """Work through images.

    Memory holds at most `AHEAD` loaded images and two drafts for each worker.

    Args:
        job: what to do.
        items: the images, taken one by one.
        workers: processes that refine and write; 0 does it here, between the model's calls.

    Yields:
        records, in the items' order with no workers, else as they are done.

    Raises:
        TextsegError: the model cannot be loaded, or workers die before they can begin.
    """
    drafter, finisher = Drafter(job), Finisher(job)

    def lost(draft: Draft | Failure, why: str) -> Record:
        return finisher.finish(Failure(draft.item, Fault("finish", why)))

    with Threads(job.threads):
        drafts = (drafter.draft(loaded) for loaded in _loaded(job, items))
        if workers:
            yield from spread(_finisher, job, drafts, workers, lost)
        else:
            for draft in drafts:
                yield finisher.finish(draft)


def _loaded(job: Job, items: Iterable[Item]) -> Iterator[Loaded | Failure]:
    pool = ThreadPoolExecutor(LOADERS, thread_name_prefix="textseg-load")
    window: deque[Future[Loaded | Failure]] = deque()
    try:
        for item in items:
            window.append(pool.submit(load, job, item))
            if len(window) >= AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finisher(job: Job) -> Callable[[Draft | Failure], Record]:
    """What a worker process does; there are several, so each has one thread."""
    finisher = Finisher(job)
    threads = Threads(1)

    def finish(draft: Draft | Failure) -> Record:
        record = finisher.finish(draft)
        threads.hold()
        return record

    return finish
