"""The same steps on Ray Data: reading and finishing as tasks, the model in a pool of actors."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from os.path import abspath as absolute
from typing import Any, TypeVar

from ..errors import InputError, MissingDependencyError, TextsegError
from ..workers import Threads, available_cores
from .sources import Item
from .stages import Drafter, Finisher, Job, Record, load
from .storage import scheme_of

_What = TypeVar("_What", Item, Job)

_BATCH = 4
"""Images an actor is handed at a time."""
_BLOCK = 8
_BLOCKS = 4096
_LOAD_CORES = 0.25
"""Share of a core that a task which waits for a disk or a network is counted as."""


def run_ray(
    job: Job,
    items: Sequence[Item],
    *,
    address: str | None = None,
    actors: int | None = None,
    workers: int = 1,
) -> Generator[Record, None, None]:
    """Work through images on a Ray cluster.

    An image whose actor, task or node dies is done again elsewhere.

    Args:
        job: what to do. Paths must lead to the same files on every node.
        items: the images.
        address: of the cluster ("auto", "HOST:PORT", "ray://HOST:PORT"); None starts Ray on this
            machine for the time of the run, unless RAY_ADDRESS names a cluster.
        actors: models in memory at once. By default one for each GPU; without GPUs as many as there
            are cores for, `job.threads` each, with one core left over.
        workers: on a Ray started here, cores for reading and finishing.

    Yields:
        records, as they are done.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: more actors than the cluster has room for.
        TextsegError: the cluster cannot be reached, or the work failed on it.
    """
    ray = _import_ray()
    from ray.exceptions import RayError

    started = not ray.is_initialized()
    try:
        if started:
            _start(ray, address, job, actors, workers)
        yield from _records(ray, _anywhere(job), [_anywhere(item) for item in items], actors)
    except (RayError, ConnectionError) as error:
        raise TextsegError(f"Ray could not go on: {_cause(error)}") from error
    finally:
        if started:
            ray.shutdown()


def _import_ray() -> Any:
    # Ray reports on its use to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            "--ray needs Ray, which is not installed; pip install 'textseg[ray]'"
        ) from error
    return ray


def _start(ray: Any, address: str | None, job: Job, actors: int | None, workers: int) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, **quiet)
        return
    # Ray's workers would give way to every other program of the machine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray counts cores but does not bind work to them: what is asked for is what there is.
    models = actors or max(1, available_cores() // job.threads)
    cores = models * job.threads + max(1, workers)
    ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)


def _anywhere(what: _What) -> _What:
    """A job or an item with absolute paths: workers need not run in this folder."""
    if isinstance(what, Item):
        return what if scheme_of(what.source) else replace(what, source=absolute(what.source))
    output = what.output if scheme_of(what.output) else absolute(what.output)
    model = absolute(what.model) if os.path.isdir(what.model) else what.model
    return replace(what, output=output, model=model)


def _records(ray: Any, job: Job, items: Sequence[Item], actors: int | None) -> Iterator[Record]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    graphics, size = _pool_size(ray, job, actors)
    blocks = min(_BLOCKS, -(-len(items) // _BLOCK))
    rows = [{"data": pickle.dumps(item)} for item in items]
    told = {"fn_constructor_kwargs": {"job": job}}
    data = (
        ray.data.from_items(rows, override_num_blocks=blocks)
        .map(_load, fn_kwargs={"job": job}, num_cpus=_LOAD_CORES)
        .map_batches(
            _Model,
            **told,
            batch_size=_BATCH,
            batch_format="numpy",
            num_cpus=0 if graphics else job.threads,
            num_gpus=1 if graphics else 0,
            compute=ray.data.ActorPoolStrategy(size=size),
        )
        .map(_finish, fn_kwargs={"job": job}, num_cpus=1)
    )
    for row in data.iter_rows():
        yield json.loads(row["data"])


def _pool_size(ray: Any, job: Job, actors: int | None) -> tuple[bool, int]:
    """Whether the model runs on GPUs, and the number of actors."""
    there = ray.cluster_resources()
    cards, cores = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    graphics = bool(cards) and job.device != "cpu"
    room = cards if graphics else (cores - 1) // job.threads
    if room < 1:
        raise InputError(f"threads must leave a core of the cluster's {cores} for reading, "
                         f"got {job.threads}")  # fmt: skip
    if actors is not None and actors > room:
        kind = "GPUs" if graphics else f"cores with {job.threads} threads each and one left over"
        raise InputError(f"actors must be at most {room}, for the cluster's {kind}, got {actors}")
    return graphics, actors or room


def _cause(error: BaseException) -> str:
    """The innermost reason in a Ray error, on one line."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, BaseException):
        return _cause(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Model:
    """The actor: one model, asked for a few images at a time."""

    def __init__(self, job: Job) -> None:
        self._drafter = Drafter(job)
        Threads(job.threads).hold()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        loaded = (pickle.loads(data) for data in batch["data"])
        return {"data": [pickle.dumps(self._drafter.draft(each)) for each in loaded]}


def _load(row: dict[str, Any], job: Job) -> dict[str, bytes]:
    return {"data": pickle.dumps(load(job, pickle.loads(row["data"])))}


def _finish(row: dict[str, Any], job: Job) -> dict[str, str]:
    return {"data": json.dumps(Finisher(job).finish(pickle.loads(row["data"])))}
