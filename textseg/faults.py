"""What goes wrong with one image, held off from the others: a line to say, a traceback to log.

Each step of the work on an image runs under a `Guard`. Any exception in it becomes a `Fault`, which
travels as texts; what concerns the whole run goes on its way: KeyboardInterrupt and its like, and
our own errors about anything but input and output (the model, a missing package, a cancelled run).
"""

from __future__ import annotations

import builtins
import os
import signal
import time
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import errors
from .errors import InputError, OutputError, TextsegError

LOG = "errors.log"
"""The file beside the results that tracebacks are appended to."""

VARIABLE = "TEXTSEG_FAULT"
"""Environment variable by which tests make stages fail, in worker processes too:
"predict:bird.jpg:IndexError" raises that where bird.jpg comes to that stage, "*" stands for any
image, and commas part several. "SIGKILL" kills the process."""


@dataclass(frozen=True)
class Fault:
    """Why one image could not be done.

    Attributes:
        stage: what was being done, as "decode".
        error: what went wrong, on one line; with its type where nobody foresaw it.
        trace: the traceback, "" where it was foreseen.
    """

    stage: str
    error: str
    trace: str = ""

    def record(self) -> dict[str, str]:
        """The fields of a failed image's record; `log_entry` takes "trace" out again."""
        return {"error": self.error, "stage": self.stage, "trace": self.trace}


class Guard:
    """Keeps what goes wrong with one image from stopping the work on others.

    Attributes:
        fault: what went wrong; there after the block, if it did not end.

    >>> with Guard("park.jpg") as guard:
    ...     guard.at("refine")
    ...     [][0]
    >>> guard.fault.stage, guard.fault.error
    ('refine', 'IndexError: list index out of range')
    """

    fault: Fault

    def __init__(self, image: str) -> None:
        self._image, self._stage = image, ""

    def at(self, stage: str) -> None:
        """Say what is done next."""
        self._stage = stage
        _inject(stage, self._image)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None or not of_one_image(error):
            return False
        self.fault = Fault(self._stage, say(error), trace_of(error))
        return True


def of_one_image(error: BaseException) -> bool:
    """Whether an error in the work on one image leaves the next one alone."""
    ours = isinstance(error, TextsegError)
    return isinstance(error, (InputError, OutputError) if ours else Exception)


def say(error: BaseException) -> str:
    """An error's message without line breaks; behind its type where it is none of ours."""
    if isinstance(error, TextsegError):
        text = str(error) or type(error).__name__
    elif isinstance(error, MemoryError) and not str(error):
        text = "MemoryError: out of memory"
    else:
        text = "".join(traceback.format_exception_only(error))
    return " ".join(text.split())


def trace_of(error: BaseException) -> str:
    """The traceback of an error, "" of one of ours."""
    ours = isinstance(error, TextsegError)
    return "" if ours else "".join(traceback.format_exception(error))


def log_entry(image: str, record: MutableMapping[str, Any]) -> str:
    """What the log says of an image's record, whose traceback is taken out; "" for nothing."""
    trace = record.pop("trace", "")
    if not trace:
        return ""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"{now} {image}, {record['stage']}: {record['error']}\n{trace}\n"


def append_entry(path: Path, entry: str) -> None:
    """Add an entry to a log.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(entry)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _inject(stage: str, image: str) -> None:
    for fault in os.environ.get(VARIABLE, "").split(","):
        where, _, rest = fault.partition(":")
        name, _, kind = rest.rpartition(":")
        if where == stage and name in (image, "*"):
            if kind == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise (getattr(errors, kind, None) or getattr(builtins, kind))(f"injected at {stage}")
