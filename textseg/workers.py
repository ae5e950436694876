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
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
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
) -> Iterator[_Answer]:
    """Answer tasks in processes, in any order.

    Each worker holds two tasks at most, so that none waits for the parent and memory stays flat.

    Args:
        build: called once in each worker with `job`; what it returns answers tasks. A function of a
            module, since it travels by name.
        job: what all workers are told.
        tasks: taken one by one as they can be worked on.
        workers: number of processes, at least 1.

    Raises:
        TextsegError: a worker raised it, or a worker died.
    """
    # Plain pipes rather than a pool: a worker whose parent was killed reads the end of its pipe
    # and leaves, where a pool's workers would wait for ever.
    context = multiprocessing.get_context("spawn")
    lines: dict[Connection, BaseProcess] = {}
    waiting: dict[Connection, int] = {}
    left = iter(tasks)
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, build, job), daemon=True)
            process.start()
            theirs.close()
            lines[ours], waiting[ours] = process, 0
        for line in [*lines, *lines]:
            _send(line, left, waiting)
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
                _send(line, left, waiting)
                yield answer
    finally:
        for line, process in lines.items():
            line.close()
            process.terminate()
            process.join()


def _send(line: Connection, tasks: Iterator[Any], waiting: dict[Connection, int]) -> None:
    task = next(tasks, None)
    if task is not None:
        # Where the worker died, reading from it says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            line.send(task)
        waiting[line] += 1


def _serve(line: Connection, build: Callable[[Any], Callable[[Any], Any]], job: Any) -> None:
    """A worker process: tasks in, answers out, until the pipe ends."""
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    inbox: queue.Queue[Any] = queue.Queue(maxsize=1)
    threading.Thread(target=_read, args=(line, inbox), daemon=True).start()
    try:
        answer = build(job)
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
