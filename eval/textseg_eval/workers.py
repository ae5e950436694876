"""One image to rows, in this process or in several."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from textseg.faults import Guard
from textseg.workers import Threads, available_cores, peak_memory, spread

from .datasets import Example
from .methods import Answer, Method, MethodSpec, Query, build
from .protocols import Protocol
from .taggers import Tagger, TaggerSpec, build_tagger

__all__ = ["Job", "Task", "Worker", "available_cores", "peak_memory", "read_stored", "work"]


@dataclass(frozen=True)
class Job:
    """What every worker does, the same for all images.

    Attributes:
        protocol: how images are asked and counted.
        specs: the methods, by the name of their run.
        tagger: what names the classes of an image, under `predicted`.
        threads: threads of each worker. Fixed, since the last bits of a prediction depend on it.
    """

    protocol: Protocol
    specs: Mapping[str, MethodSpec]
    tagger: TaggerSpec | None = None
    threads: int = 1


@dataclass(frozen=True)
class Task:
    """One image and the runs that still want it.

    Attributes:
        example: the image.
        part: "calibration" or "test".
        thresholds: k of the fixed threshold by run, or None.
    """

    example: Example
    part: str
    thresholds: Mapping[str, int | None] = field(default_factory=dict)


class Worker:
    """Builds each method once and answers tasks."""

    def __init__(self, job: Job, threads: Threads) -> None:
        self.job, self._threads = job, threads
        self._methods: dict[str, Method] = {}
        self._tagger: Tagger | None = None

    def method(self, name: str) -> Method:
        if name not in self._methods:
            self._methods[name] = build(self.job.specs[name])
            self._threads.hold()
        return self._methods[name]

    def answer(self, task: Task) -> dict[str, dict[str, Any]]:
        """The record of each run that wants this image; of a failure, with a `Fault`'s fields."""
        # A copy, so that what the truth caches goes away with it.
        example = replace(task.example, truth=copy.copy(task.example.truth))
        head = {"image_id": example.image_id, "file_name": example.file_name, "part": task.part}
        methods = {name: self.method(name) for name in task.thresholds}
        if self.job.tagger is not None and self._tagger is None:
            self._tagger = build_tagger(self.job.tagger)
        with Guard(example.file_name) as guard:
            image = None
            if self._tagger or any(m.needs_image for m in methods.values()):
                guard.at("decode")
                image = read_stored(example.path)
            if self._tagger is not None:
                guard.at("tag")
                assert image is not None
                example = replace(example, tags=tuple(self._tagger(example, image)))
            guard.at("ask")
            queries = self.job.protocol.queries(example)
            return {
                name: head | self._measure(method, example, image, queries, task.thresholds[name])
                for name, method in methods.items()
            }
        return {name: head | guard.fault.record() for name in methods}

    def _measure(
        self,
        method: Method,
        example: Example,
        image: np.ndarray | None,
        queries: list[Query],
        threshold: int | None,
    ) -> dict[str, Any]:
        """What a record says of one method."""
        with Guard(example.file_name) as guard:
            start = time.perf_counter()
            guard.at("predict")
            answer, resized = self._ask(method, example, image, queries)
            asked = time.perf_counter()
            guard.at("score")
            rows = self.job.protocol.rows(example, queries, answer, threshold)
            scored = time.perf_counter()
            record = {"threshold": threshold, "rows": rows, "seconds": round(asked - start, 6),
                      "scoring_seconds": round(scored - asked, 6)}  # fmt: skip
            return record | ({"resized": True} if resized else {})
        return guard.fault.record()

    def _ask(
        self, method: Method, example: Example, image: np.ndarray | None, queries: list[Query]
    ) -> tuple[Answer, bool]:
        height, width = example.truth.height, example.truth.width
        if not queries:
            nothing = np.zeros((0, height, width), bool)
            return Answer(None, nothing, np.zeros(0)), False
        answer = method.about(example, image, queries)
        maps = answer.scores if answer.scores is not None else answer.masks
        assert maps is not None
        if maps.shape[1:] == (height, width):
            return answer, False
        return answer.resized(height, width), True


def read_stored(path: str) -> np.ndarray:
    """An image's pixels as stored, (H, W, 3) uint8: annotations know no EXIF orientation."""
    from textseg.image import load_image

    return load_image(path, upright=False)


def work(job: Job, tasks: Iterable[Task], workers: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Answer tasks, in any order.

    Args:
        job: what to do.
        tasks: taken one by one as they can be worked on.
        workers: number of processes; 1 works in this one.

    Raises:
        TextsegError: a worker raised it, or two died at one image.
    """
    if workers == 1:
        with Threads(job.threads) as threads:
            worker = Worker(job, threads)
            for task in tasks:
                yield worker.answer(task)
        return
    yield from spread(_answerer, job, tasks, workers)


def _answerer(job: Job) -> Callable[[Task], dict[str, dict[str, Any]]]:
    """What one worker process does."""
    threads = Threads(job.threads)
    threads.hold()
    return Worker(job, threads).answer
