"""Where a picture comes from: a file, the samples in the package, a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..edits import Edit
    from ..progress import Progress

Origin = Literal["upload", "sample", "generated", "edited"]

VIEW_SIDE = 1024
"""Longest side in pixels at which pictures are shown; masks keep the picture's own size."""

MAX_FILE_BYTES = 50 * 2**20
_SAMPLES = Path(__file__).parent / "samples"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to work on, and the file it is.

    Attributes:
        pixels: (H, W, 3) uint8, read-only.
        name: of the file, as snippets and downloads call it.
        data: the file's bytes.
        origin: where it comes from.
        caption: what it shows, as far as known.
        things: queries to suggest.
        xmp: the file's XMP packet, kept in edits of it.
    """

    pixels: np.ndarray
    name: str
    data: bytes
    origin: Origin
    caption: str = ""
    things: tuple[str, ...] = ()
    xmp: str = ""

    @cached_property
    def view(self) -> np.ndarray:
        """The pixels at the size they are shown at, (h, w, 3) uint8."""
        from ..image import resize_image

        return resize_image(self.pixels, view_size(self.pixels.shape[:2]))


@dataclass(frozen=True)
class Sample:
    """A picture of the package: its file, what it shows and what can be asked of it."""

    name: str
    caption: str
    things: tuple[str, str, str]


SAMPLES: tuple[Sample, ...] = (
    Sample("farm", "a tractor, a cow and a horse", ("the horse", "the cow", "the tractor")),
    Sample("park", "a tree, a dog and a ball", ("the dog", "the tree", "the ball")),
    Sample("table", "an apple, a cup and a banana", ("the banana", "the apple", "the cup")),
    Sample("street", "a bus, a car and a traffic light",
           ("the bus", "the car", "the traffic light")),
    Sample("beach", "a boat, a kite and a crab", ("the crab", "the boat", "the kite")),
)  # fmt: skip


def view_size(size: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) at which a picture of (H, W) is shown."""
    shrink = min(1.0, VIEW_SIDE / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def sample_file(name: str) -> Path:
    """Where a sample lies.

    Raises:
        InputError: there is no sample of that name.
    """
    if name not in {sample.name for sample in SAMPLES}:
        known = ", ".join(sample.name for sample in SAMPLES)
        raise InputError(f"sample must be one of {known}, got {name!r}")
    return _SAMPLES / f"{name}.jpg"


def open_sample(name: str) -> Picture:
    """A picture of the package, with its caption and its queries."""
    data = sample_file(name).read_bytes()
    sample = next(sample for sample in SAMPLES if sample.name == name)
    return _picture(
        data,
        f"{name}.jpg",
        "sample",
        caption=f"a picture of {sample.caption}",
        things=sample.things,
    )


def open_file(path: str | Path, *, max_pixels: int, name: str | None = None) -> Picture:
    """A picture from a file that was uploaded or pasted.

    Args:
        path: where it lies.
        max_pixels: larger ones are refused before they are decoded.
        name: what to call it; the file's own name if None.

    Raises:
        ImageError: it is no picture, damaged or too large.
    """
    path = Path(path)
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"file must be at most {MAX_FILE_BYTES >> 20} MiB, got {path.name!r}")
    return _picture(path.read_bytes(), PurePath(name or path).name, "upload", max_pixels=max_pixels)


def make_picture(model: Backbone, prompt: str, seed: int, progress: Progress | None) -> Picture:
    """A picture from a prompt, labelled as made by a model.

    Raises:
        InputError: the prompt is empty; CancelledError: `progress` returned False.
    """
    from tempfile import TemporaryDirectory

    from ..file_names import query_slugs
    from ..generation import generate

    if not prompt.strip():
        raise InputError("prompt must say what to make, got nothing")
    made = generate(prompt, model=model, seed=seed, progress=progress)
    name = f"{query_slugs([prompt])[0]}.png"
    with TemporaryDirectory() as folder:
        made.save(Path(folder) / name)
        data = (Path(folder) / name).read_bytes()
    return _picture(data, name, "generated", caption=prompt)


def picture_of_edit(edit: Edit, name: str) -> Picture:
    """An edited picture as the next one to work on; it keeps its label."""
    from tempfile import TemporaryDirectory

    stem = PurePath(name).stem.removesuffix(".edited")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{stem}.edited.png"
        edit.save(path)
        return _picture(path.read_bytes(), path.name, "edited")


def _picture(data: bytes, name: str, origin: Origin, **known: Any) -> Picture:
    from ..image import MAX_PIXELS, load_image
    from ..provenance import read_label

    pixels = load_image(data, max_pixels=known.pop("max_pixels", MAX_PIXELS))
    pixels.flags.writeable = False
    return Picture(pixels, name, data, origin, xmp=read_label(data).packet, **known)
