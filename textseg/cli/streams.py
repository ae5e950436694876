"""The standard streams of a process, whatever was made of them: closed, full or read no more."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO

from ..errors import InputError


class StdoutError(BaseException):
    """Standard output takes no more. It ends the command, as KeyboardInterrupt does: whoever deals
    with what goes wrong with one image, or passes over an `OSError`, is not meant."""


class _Stdout(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StdoutError(f"cannot write standard output: {error.strerror}") from error


class _Stderr(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            # There is nobody left to tell, and the work goes on.
            return len(data)


def prepare_streams() -> None:
    """Give `main` three streams: writing to a bad standard output raises `StdoutError`, to a bad
    standard error does nothing; a closed standard input is empty.

    Streams that another program, such as a test, has put there stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, so that no file opened later becomes a stream.
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(_Stdout(1, "w", closefd=False), sys.stdout)
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Stderr(2, "w", closefd=False), sys.stderr, line_buffering=True)


def _text(raw: io.FileIO, old: Any, line_buffering: bool = False) -> Any:
    """A text stream like `old`; file names need not be valid in its encoding."""
    if old is not None and old.isatty():
        old.reconfigure(errors="backslashreplace")
        return old
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace",
        line_buffering=line_buffering or bool(old and old.line_buffering),
        write_through=bool(old and old.write_through),
    )


def discard_stdout() -> None:
    """Leave nothing to flush at exit, when the interpreter would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def standard_input() -> BinaryIO:
    """Where IMAGE - is read from.

    Raises:
        InputError: it is a terminal.
    """
    if sys.stdin.isatty():
        raise InputError("IMAGE - reads an image from standard input, got none")
    return sys.stdin.buffer
