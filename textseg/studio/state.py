"""What one session holds: the work at hand, its history, and the segmenter with its caches.

Everything a step can change is in the frozen `Work`, so that going back is looking at an earlier
one. Arrays are shared between steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError
from ..options import ContrastOptions, RefineOptions
from .pictures import Picture

if TYPE_CHECKING:
    from ..backbone.base import Backbone
    from ..masks import Edit, Segmentation

MOST_STEPS = 60
SESSION_CACHE_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Correction:
    """One change by hand.

    Attributes:
        kind: what it does to the mask.
        pixels: of growing and shrinking, at the picture's size.
        stroke: what was painted, as `numpy.packbits` of a mask (H, W), for "add" and "erase".
    """

    kind: Literal["add", "erase", "grow", "shrink", "invert"]
    pixels: int = 0
    stroke: np.ndarray | None = None

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """A mask (H, W) bool to the corrected one."""
        from ..refine import dilate, erode

        if self.kind == "invert":
            return ~mask
        if self.stroke is None:
            return (dilate if self.kind == "grow" else erode)(mask, self.pixels)
        painted = np.unpackbits(self.stroke, count=mask.size).astype(bool).reshape(mask.shape)
        return mask | painted if self.kind == "add" else mask & ~painted

    def say(self) -> str:
        """What was done, in words."""
        if self.stroke is not None:
            area = int(np.unpackbits(self.stroke).sum())
            done = "painted in" if self.kind == "add" else "erased"
            return f"{done} {area} pixels"
        if self.kind == "invert":
            return "inverted"
        return f"{'grown' if self.kind == 'grow' else 'shrunk'} by {self.pixels} pixels"


@dataclass(frozen=True, eq=False)
class Layer:
    """One query's mask.

    Attributes:
        found: as the model and the options cut it; a quick stand-in while not `settled`.
        refine: the options it is to be cut with.
        settled: whether `found` is cut with exactly these.
        corrections: done by hand since, in order; they stay when a threshold moves.
    """

    found: Segmentation
    refine: RefineOptions
    settled: bool = True
    corrections: tuple[Correction, ...] = ()

    @property
    def query(self) -> str:
        return self.found.query

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool, with the corrections."""
        mask = self.found.mask
        for correction in self.corrections:
            mask = correction.apply(mask)
        return mask

    @property
    def result(self) -> Segmentation:
        """The segmentation with the corrected mask; its notes say what was corrected."""
        if not self.corrections:
            return self.found
        said = ", ".join(correction.say() for correction in self.corrections)
        notes = (*self.found.notes, f"corrected by hand: {said}")
        return replace(self.found, mask=self.mask, notes=notes)


@dataclass(frozen=True, eq=False)
class Work:
    """The state of the work after one step.

    Attributes:
        picture: what is worked on.
        caption: of the picture, as the user wants it.
        contrast, refine: what the next query starts from.
        layers: the queries so far.
        selected: index of the layer the controls are about.
        approved: whether its mask may be edited.
        edit: the last edit, or None.
    """

    picture: Picture
    caption: str
    contrast: ContrastOptions
    refine: RefineOptions
    layers: tuple[Layer, ...] = ()
    selected: int = 0
    approved: bool = False
    edit: Edit | None = None

    @property
    def layer(self) -> Layer | None:
        """The selected layer, if there is one."""
        return self.layers[self.selected] if self.layers else None

    def with_layer(self, layer: Layer, **changes: Any) -> Work:
        """A copy in which the selected layer is another one."""
        layers = list(self.layers)
        layers[self.selected] = layer
        return replace(self, layers=tuple(layers), **changes)


@dataclass(frozen=True, eq=False)
class Step:
    """An entry of the history: what was done and what came of it."""

    label: str
    work: Work
    merges: str = ""


class History:
    """Steps done and undone; the oldest are forgotten after `MOST_STEPS`."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.at = -1

    @property
    def work(self) -> Work:
        """The work as it is now.

        Raises:
            InputError: no picture was opened yet.
        """
        if self.at < 0:
            raise InputError("picture must be opened first, got none")
        return self.steps[self.at].work

    def push(self, label: str, work: Work, merges: str = "") -> None:
        """Take a step; steps undone before it are lost.

        Args:
            merges: a step with the same text here, taken just before, is replaced.
        """
        del self.steps[self.at + 1 :]
        if merges and self.steps and self.steps[-1].merges == merges and len(self.steps) > 1:
            self.steps.pop()
        self.steps.append(Step(label, work, merges))
        del self.steps[:-MOST_STEPS]
        self.at = len(self.steps) - 1

    def amend(self, work: Work) -> None:
        """Change what came of the present step without taking another."""
        self.steps[self.at] = replace(self.steps[self.at], work=work)

    def go(self, index: int) -> None:
        """Look at another step; indices out of range lead to the nearest one."""
        self.at = min(max(index, 0), len(self.steps) - 1)


class Session:
    """What belongs to one visitor and is never shared with another.

    Attributes:
        segmenter: over the model that all sessions share, with caches of its own.
        history: the steps so far.
        lock: held while the history changes.
        stop: set to end the job that runs.
        stop_caption: set to end the captioning that runs unasked.
        busy: held by the job that runs.
        cutting: held while masks are settled.
        changes: how many steps were ever taken; tells whether something happened since.
        view: how the picture is looked at.
        painting: whether the picture to paint on is in sight.
        ground: the layer it shows.
        told: the last `Done` and the seconds it took, said again when masks settle.
    """

    def __init__(self, model: Backbone) -> None:
        from ..segmenter import Segmenter

        self.segmenter = Segmenter(model, cache_bytes=SESSION_CACHE_BYTES)
        self.history = History()
        self.lock = threading.RLock()
        self.stop = threading.Event()
        self.stop_caption = threading.Event()
        self.busy = threading.Lock()
        self.cutting = threading.Lock()
        self.changes = 0
        self.view = "Overlay"
        self.painting = False
        self.ground: Layer | None = None
        self.told: tuple[Any, float] = (None, 0.0)
        self._encoded: Picture | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    @property
    def work(self) -> Work:
        return self.history.work

    def change(self, label: str, alter: Callable[[Work], Work], merges: str = "") -> Work:
        """Take a step from the present work to what `alter` makes of it."""
        with self.lock:
            self.changes += 1
            self.history.push(label, alter(self.work), merges)
            return self.work

    def encode(self) -> None:
        """Bring the segmenter to the present picture; free if it is there already."""
        picture = self.work.picture
        if self._encoded is not picture:
            self.segmenter.set_image(picture.pixels)
            self._encoded = picture
