"""Work spread over processes that leave when their parent does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from .errors import TextsegError

_Job = TypeVar("_Job")
_Task = TypeVar("_Task")
_Answer = TypeVar("_Answer")


def spread(
    build: Callable[[_Job], Callable[[_Task], _Answer]],
    job: _Job,
    tasks: Iterable[_Task],
    workers: int,
    lost: Callable[[_Task, str], _Answer] | None = None,
) -> Iterator[_Answer]:
    """Answer tasks in processes, in any order.

    Each worker holds two tasks at most, so that none waits for the parent and memory stays flat.
    One that dies (killed, out of memory) is replaced, and what it held is done again.

    Args:
        build: called once in each worker with `job`; what it returns answers tasks. A function of a
            module, since it travels by name.
        job: what all workers are told.
        tasks: taken one by one as they can be worked on.
        workers: number of processes, at least 1.
        lost: the answer for a task at which two workers died, from the task and a line that says
            so; without it that ends the work.

    Raises:
        TextsegError: a worker raised it, two died at one task that `lost` does not answer, or more
            than `workers` in a row died before they could begin.
    """
    left = (_Held(task) for task in tasks)
    again: deque[_Held] = deque()
    crew: dict[Connection, _Worker] = {}
    stillborn = 0

    def hand(worker: _Worker) -> None:
        if held := again.popleft() if again else next(left, None):
            worker.take(held)

    try:
        for _ in range(workers):
            worker = _Worker(build, job)
            crew[worker.line] = worker
        for worker in [*crew.values(), *crew.values()]:
            hand(worker)
        while any(worker.held for worker in crew.values()):
            for line in wait([line for line, worker in crew.items() if worker.held]):
                assert isinstance(line, Connection)
                worker = crew[line]
                try:
                    answer = line.recv()
                except (EOFError, OSError):  # OSError: it died in the middle of an answer
                    code = crew.pop(line).end(patience=5)
                    stillborn = 0 if worker.ready else stillborn + 1
                    held = list(worker.held)
                    # A worker does its tasks in order: the first is what it died at.
                    held[0].deaths += worker.ready
                    if held[0].deaths > 1 or stillborn > workers:
                        if lost is None or stillborn > workers:
                            raise TextsegError(
                                f"a worker died (exit code {code}); "
                                "give the same command again to go on from here"
                            ) from None
                        yield lost(held.pop(0).task, f"two workers died at it (exit code {code})")
                    again.extendleft(reversed(held))
                    worker = _Worker(build, job)
                    crew[worker.line] = worker
                    hand(worker)
                    hand(worker)
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                if not worker.ready:
                    worker.ready, stillborn = True, 0
                    continue
                worker.held.popleft()
                hand(worker)
                yield answer
    finally:
        for worker in crew.values():
            worker.end()


@dataclass
class _Held:
    """A task, and how many workers died at it."""

    task: Any
    deaths: int = 0


class _Worker:
    """A process, our end of its pipe and the tasks in its hands, the first of which it works on."""

    # Plain pipes rather than a pool: a worker whose parent was killed reads the end of its pipe
    # and leaves, where a pool's workers would wait for ever.
    def __init__(self, build: Callable[[Any], Callable[[Any], Any]], job: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, job), daemon=True)
        self._process.start()
        theirs.close()
        self.held: deque[_Held] = deque()
        self.ready = False

    def take(self, held: _Held) -> None:
        # Where the worker died, reading from it says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.line.send(held.task)
        self.held.append(held)

    def end(self, patience: float = 0) -> int | None:
        """The exit code of the process, which is given so many seconds to end by itself."""
        self.line.close()
        self._process.join(patience)
        self._process.terminate()
        self._process.join()
        return self._process.exitcode


def _serve(line: Connection, build: Callable[[Any], Callable[[Any], Any]], job: Any) -> None:
    """A worker process: tasks in, answers out, until the pipe ends."""
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.Queue[Any] = queue.Queue(maxsize=1)
    threading.Thread(target=_read, args=(line, inbox), daemon=True).start()
    try:
        answer = build(job)
        line.send(None)
        while True:
            task = inbox.get()
            if isinstance(task, BaseException):
                raise task
            line.send(answer(task))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except TextsegError as error:
        line.send(error)
    except Exception as error:
        # Not every exception survives the pipe; its text does.
        line.send(RuntimeError(f"{error}\n{traceback.format_exc()}"))


def _read(line: Connection, inbox: queue.Queue[Any]) -> None:
    """Take the next task while one is worked on: the parent's sending of a large one would wait."""
    try:
        while True:
            inbox.put(line.recv())
    except BaseException as error:
        inbox.put(error)


class Threads:
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

    def __enter__(self) -> Threads:
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
