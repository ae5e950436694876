"""One image to rows, in this process or in several."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from textseg.errors import ImageError, TextsegError

from .coco import Example
from .methods import Answer, Method, MethodSpec, Query, build
from .protocols import Protocol
from .taggers import Tagger, TaggerSpec, build_tagger


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

    def __init__(self, job: Job, threads: _Threads) -> None:
        self.job, self._threads = job, threads
        self._methods: dict[str, Method] = {}
        self._tagger: Tagger | None = None

    def method(self, name: str) -> Method:
        if name not in self._methods:
            self._methods[name] = build(self.job.specs[name])
            self._threads.hold()
        return self._methods[name]

    def answer(self, task: Task) -> dict[str, dict[str, Any]]:
        """The record of each run that wants this image."""
        # A copy, so that what the truth caches goes away with it.
        example = replace(task.example, truth=copy.copy(task.example.truth))
        head = {"image_id": example.image_id, "file_name": example.file_name, "part": task.part}
        methods = {name: self.method(name) for name in task.thresholds}
        try:
            image = None
            if self.job.tagger or any(m.needs_image for m in methods.values()):
                image = read_stored(example.path)
            if self.job.tagger is not None:
                self._tagger = self._tagger or build_tagger(self.job.tagger)
                assert image is not None
                example = replace(example, tags=tuple(self._tagger(example, image)))
            queries = self.job.protocol.queries(example)
        except ImageError as error:
            failure = {**head, "error": " ".join(str(error).split())}
            return dict.fromkeys(methods, failure)
        records = {}
        for name, method in methods.items():
            start = time.perf_counter()
            try:
                answer, resized = self._ask(method, example, image, queries)
                asked = time.perf_counter()
                rows = self.job.protocol.rows(example, queries, answer, task.thresholds[name])
            except ImageError as error:
                records[name] = {**head, "error": " ".join(str(error).split())}
                continue
            scored = time.perf_counter()
            records[name] = {**head, "rows": rows, "seconds": round(asked - start, 6),
                             "scoring_seconds": round(scored - asked, 6)}  # fmt: skip
            if resized:
                records[name]["resized"] = True
        return records

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
    from PIL import Image

    from textseg.image import load_image

    image = load_image(path)
    with Image.open(path) as picture:
        if picture.getexif().get(0x0112, 1) == 1:
            return image
        return np.asarray(picture.convert("RGB"))


def work(job: Job, tasks: Iterable[Task], workers: int) -> Iterator[dict[str, dict[str, Any]]]:
    """Answer tasks, in any order.

    Args:
        job: what to do.
        tasks: taken one by one as they can be worked on.
        workers: number of processes; 1 works in this one.

    Raises:
        TextsegError: a worker raised it, or a worker died.
    """
    if workers == 1:
        with _Threads(job.threads) as threads:
            worker = Worker(job, threads)
            for task in tasks:
                yield worker.answer(task)
        return
    yield from _spread(job, iter(tasks), workers)


def _spread(job: Job, tasks: Iterator[Task], workers: int) -> Iterator[dict[str, dict[str, Any]]]:
    # Plain pipes rather than a pool: a worker whose parent was killed reads the end of its pipe
    # and leaves, where a pool's workers would wait for ever.
    context = multiprocessing.get_context("spawn")
    lines: dict[Connection, BaseProcess] = {}
    waiting: dict[Connection, int] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, job), daemon=True)
            process.start()
            theirs.close()
            lines[ours], waiting[ours] = process, 0
        # Two tasks a worker, so that none waits for the parent.
        for line in [*lines, *lines]:
            _send(line, tasks, waiting)
        while any(waiting.values()):
            for line in wait([line for line, count in waiting.items() if count]):
                assert isinstance(line, Connection)
                try:
                    answer = line.recv()
                except (EOFError, ConnectionResetError):
                    lines[line].join(5)
                    raise TextsegError(
                        f"a worker died (exit code {lines[line].exitcode}); "
                        "give the same command again to go on from here"
                    ) from None
                if isinstance(answer, BaseException):
                    raise answer
                waiting[line] -= 1
                _send(line, tasks, waiting)
                yield answer
    finally:
        for line, process in lines.items():
            line.close()
            process.terminate()
            process.join()


def _send(line: Connection, tasks: Iterator[Task], waiting: dict[Connection, int]) -> None:
    task = next(tasks, None)
    if task is not None:
        # Where the worker died, reading from it says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.send(task)
        waiting[line] += 1


def _serve(line: Connection, job: Job) -> None:
    """A worker process: tasks in, records out, until the pipe ends."""
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _Threads(job.threads) as threads:
            worker = Worker(job, threads)
            while True:
                line.send(worker.answer(line.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except TextsegError as error:
        line.send(error)
    except Exception as error:
        # Not every exception survives the pipe; its text does.
        line.send(RuntimeError(f"{error}\n{traceback.format_exc()}"))


class _Threads:
    """Numerical libraries on a fixed number of threads, and back; only those already imported."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._before: dict[str, int] = {}

    def hold(self) -> None:
        """Set the libraries that were imported since the last call."""
        for name, (read, write) in _THREAD_CALLS.items():
            module = sys.modules.get(name)
            if module is not None and name not in self._before:
                self._before[name] = getattr(module, read)()
                getattr(module, write)(self.count)

    def __enter__(self) -> _Threads:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        for name, count in self._before.items():
            getattr(sys.modules[name], _THREAD_CALLS[name][1])(count)


_THREAD_CALLS = {
    "torch": ("get_num_threads", "set_num_threads"),
    "cv2": ("getNumThreads", "setNumThreads"),
}


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
