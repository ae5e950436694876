"""What is going on, for people: on stderr, and only on a terminal.

A line from the first moment on, which says what is loading; a bar, when the work takes a while.
"""

from __future__ import annotations

import sys

_shown = False


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
        return self

    def __exit__(self, *_: object) -> None:
        end_wait()
        self._bar.close()
