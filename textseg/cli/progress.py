"""What is going on, for people: on stderr, and only on a terminal.

A line from the first moment on, which says what is loading; a bar, when the work takes a while.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps

from ..faults import Fault

_log = logging.getLogger(__name__)
_ARGUMENT = re.compile(r"(?<![\w'\"])([a-z]+(?:_[a-z]+)+)(?:=True\b|(?= must ))")

_shown = False
_open: list[Progress] = []


def one_line(error: BaseException | str) -> str:
    """An error's message without line breaks, its Python arguments written as flags."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _ARGUMENT.sub(lambda found: "--" + found[1].replace("_", "-"), text)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show meanwhile what the library logs, with the time since the start and tracebacks."""
    handler = _Lines()
    handler.setFormatter(logging.Formatter("textseg: %(relativeCreated)d ms: %(message)s"))
    logger = logging.getLogger("textseg")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if _open:
            _open[-1].line(text, error=True)
        else:
            end_wait()
            print(text, file=sys.stderr, flush=True)


def report_failure(progress: Progress, source: str, fault: Fault, *, json: bool) -> None:
    """Say why an image could not be done; its traceback goes to the log."""
    message = one_line(fault.error)
    if source not in message and repr(source)[1:-1] not in message:
        message = f"{source}: {message}"
    seen = _log.isEnabledFor(logging.INFO)
    hint = "; --verbose shows where" if fault.trace and not seen else ""
    progress.line(f"textseg: error: {message}{hint}", error=True)
    if fault.trace:
        _log.info("%s", fault.trace.rstrip())
    if json:
        progress.line(dumps({"image": source, "error": message}))


def show_wait(text: str) -> None:
    """Show a line until `end_wait`, if standard error is a terminal."""
    global _shown
    _shown = sys.stderr.isatty()
    if _shown:
        sys.stderr.write(text)
        sys.stderr.flush()


def end_wait() -> None:
    """Take the line of `show_wait` away, if there is one."""
    global _shown
    if _shown:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
        _shown = False


class Progress:
    """A bar that appears after two seconds of work, if standard error is a terminal.

    Args:
        unit: what is counted, as "image".
        quiet: never show it.
    """

    def __init__(self, unit: str, *, quiet: bool = False) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=1,
            unit=unit,
            delay=2.0,
            leave=False,
            miniters=0,
            file=sys.stderr,
            disable=quiet or not sys.stderr.isatty(),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
        )

    def start(self, title: str, done: float, total: float) -> None:
        """Name the work under way and say how much of how much is done."""
        self._bar.set_description_str(title, refresh=False)
        self.update(done, total)

    def update(self, done: float, total: float) -> None:
        """Say how much of how much is done; fits the library's progress callbacks."""
        if done:
            end_wait()
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def line(self, text: str, *, error: bool = False) -> None:
        """Print a whole line without tearing the bar."""
        end_wait()
        self._bar.clear()
        print(text, file=sys.stderr if error else sys.stdout, flush=True)

    def __enter__(self) -> Progress:
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _open.remove(self)
        end_wait()
        self._bar.close()
