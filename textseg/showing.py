"""Results as a person sees them: one line at the prompt, a picture in a notebook or a window."""

from __future__ import annotations

import io
import reprlib
import sys
from typing import TYPE_CHECKING

from .errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE = 1024
"""Of the picture a notebook shows, in pixels; files and windows have every pixel."""

_quotes = reprlib.Repr()
_quotes.maxstring = 60


class Shown:
    """A result that can be looked at: its class says which picture that is, by `_look`."""

    def show(self) -> None:
        """Opens the picture in the system's viewer; in a notebook, shows it there.

        Raises:
            MissingDependencyError: the system has no viewer for pictures.
        """
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        # A shell with a kernel has a page to show things on; one in a terminal has none.
        if getattr(shell, "kernel", None) is not None:
            from IPython.display import display

            display(self)
            return
        from PIL import ImageShow

        if not ImageShow.show(self._look(), title=repr(self)):
            raise MissingDependencyError(
                "a viewer for pictures is missing on this system; save(...) writes a file instead"
            )

    def _look(self, longest: int | None = None) -> Image:
        """The picture; where only `longest` pixels of a side are wanted, it may be as small."""
        raise NotImplementedError

    def _repr_png_(self) -> bytes:
        """The picture as IPython asks for it, PNG, at most `LONGEST_SIDE` pixels long and wide."""
        picture, buffer = self._look(LONGEST_SIDE), io.BytesIO()
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        picture.save(buffer, "PNG")
        return buffer.getvalue()


def quoted(text: str) -> str:
    """The text in quotes, a long one without its middle.

    >>> quoted("the dog"), len(quoted("dog " * 100))
    ("'the dog'", 60)
    """
    return _quotes.repr(text)


def size_text(height: int, width: int) -> str:
    """Width by height, as people name sizes of pictures.

    >>> size_text(480, 640)
    '640x480'
    """
    return f"{width}x{height}"
