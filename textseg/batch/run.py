"""A whole batch: plan, journal, runner, index."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..checks import MAYBE_TEXT, Rule, option, validate, whole
from ..faults import log_entry
from .index import write_index
from .journal import Journal
from .local import run_local
from .sources import Item, Plan
from .stages import Job, Record
from .storage import Folder, scheme_of


def _is_count(value: Any) -> bool:
    return value is None or whole(1, 2**31).holds(value)


@dataclass(frozen=True)
class Engine:
    """What does the work; the results do not depend on it.

    Attributes:
        workers: processes that refine and write, 0 for none.
        ray: whether to run on Ray; the rest is only for it.
        address: of the cluster, or None.
        actors: models in memory at once, or None.
    """

    workers: int = option(0, whole(0, 4096))
    ray: bool = False
    address: str | None = option(None, MAYBE_TEXT)
    actors: int | None = option(None, Rule("None, or a whole number of at least 1", _is_count))

    __post_init__ = validate


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        done, total: images with a record, and all.
        failed: images that could not be done in this call.
        rate: images a second since this call began.
    """

    done: int
    total: int
    failed: int
    rate: float


@dataclass(frozen=True)
class Summary:
    """What a call did.

    Attributes:
        images: in the plan.
        before: done by earlier calls.
        failed: could not be done.
        masks: of all images, empty ones too.
        empty: how many of them are empty.
        seconds: time taken.
        files: that cover the whole run, by name.
        log: where the tracebacks of this call's failures are, by name; "" without any.
    """

    images: int
    before: int
    failed: int
    masks: int
    empty: int
    seconds: float
    files: tuple[str, ...]
    log: str = ""


def run_batch(
    job: Job,
    plan: Plan,
    engine: Engine,
    sources: Sequence[str],
    queries: Sequence[str] = (),
    *,
    progress: Callable[[Progress], None] | None = None,
    failed: Callable[[Item, str], None] | None = None,
) -> Summary:
    """Do all images of a plan that an earlier call did not, then write the index of all.

    Args:
        job, plan, engine: what to do, to which images, and where.
        sources, queries: as given, for the record: others need another output.
        progress: called after every image.
        failed: called with each image that cannot be done, and why.

    Raises:
        InputError: the output holds a run with other settings.
        OutputError: the journal, the log of errors or the index cannot be written.
        TextsegError: the model cannot be loaded, workers die before they can begin, or Ray failed.
    """
    folder = Folder(job.output)
    places = [place if scheme_of(place) else os.path.abspath(place) for place in sources]
    asked = list(dict.fromkeys(queries))
    identity = {**job.identity(), "sources": places, "queries": asked}
    start = time.monotonic()
    with Journal(folder, identity) as journal:
        keys = {job.key(item): item for item in plan.items}
        left = [item for key, item in keys.items() if not journal.done(key)]
        before, broken, log = len(keys) - len(left), 0, ""
        if left:
            with closing(_run(job, left, engine)) as records:
                for number, record in enumerate(records, 1):
                    if entry := log_entry(record["name"], record):
                        log = folder.log(entry, record["image_id"])
                    journal.append([record])
                    if "error" in record:
                        broken += 1
                        if failed is not None:
                            failed(keys[record["image_id"]], record["error"])
                    if progress is not None:
                        rate = number / max(time.monotonic() - start, 1e-9)
                        progress(Progress(before + number, len(keys), broken, rate))
        files = write_index(job, plan, journal, folder)
        areas = [area for key in keys for area in _areas(journal.get(key))]
    return Summary(
        images=len(keys),
        before=before,
        failed=broken,
        masks=len(areas),
        empty=areas.count(0),
        seconds=time.monotonic() - start,
        files=tuple(files),
        log=log,
    )


def _run(job: Job, items: list[Item], engine: Engine) -> Generator[Record, None, None]:
    if not engine.ray:
        return run_local(job, items, engine.workers)
    from .on_ray import run_ray

    return run_ray(job, items, address=engine.address, actors=engine.actors, workers=engine.workers)


def _areas(record: dict[str, Any] | None) -> list[int]:
    return [result["area"] for result in (record or {}).get("results", ())]
