"""The work at hand: a picture, its queries with their masks, and the last edit.

Everything a step can change is in the frozen `Work`, so that going back is looking at an earlier
one. Arrays are shared between steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..clicks import Box, Point
from ..options import ContrastOptions, RefineOptions
from .pictures import Picture

if TYPE_CHECKING:
    from ..cutting import Measurement
    from ..edits import Edit
    from ..masks import Segmentation


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

    def covers(self, at: int) -> bool:
        """Whether it is a stroke over a pixel, counted along the rows."""
        return self.stroke is not None and bool(self.stroke[at // 8] >> (7 - at % 8) & 1)

    def say(self) -> str:
        """What was done, in words."""
        if self.stroke is not None:
            area = int(np.unpackbits(self.stroke).sum())
            done = "painted in" if self.kind == "add" else "erased"
            return f"{done} {area} pixels"
        if self.kind == "invert":
            return "inverted"
        return f"{'grown' if self.kind == 'grow' else 'shrunk'} by {self.pixels} pixels"


@dataclass(frozen=True)
class Hints:
    """What was pointed at: see `textseg.correct`.

    Attributes:
        points: (x, y, label) in pixels of the picture, label 1 for a place of the thing.
        boxes: (left, top, right, bottom) in pixels.
    """

    points: tuple[Point, ...] = ()
    boxes: tuple[Box, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.points or self.boxes)

    def scaled(self, before: tuple[int, ...], after: tuple[int, ...]) -> Hints:
        """The same places in a picture of another size, both (height, width)."""

        def at(x: float, y: float) -> tuple[float, float]:
            return x * after[1] / before[1], y * after[0] / before[0]

        return Hints(
            tuple((*at(x, y), label) for x, y, label in self.points),
            tuple((*at(*box[:2]), *at(*box[2:])) for box in self.boxes),
        )


NO_HINTS = Hints()


@dataclass(frozen=True, eq=False)
class Layer:
    """One query's mask.

    Attributes:
        measured: what the model found.
        refine: the options it is to be cut with.
        found: as these and the hints cut it; a quick stand-in while not `settled`.
        hints: the clicks and boxes that it is cut by.
        settled: whether `found` is cut with exactly these.
        corrections: done to the cut mask by hand, in order; they stay when a threshold moves.
    """

    measured: Measurement
    refine: RefineOptions
    found: Segmentation
    hints: Hints = NO_HINTS
    settled: bool = True
    corrections: tuple[Correction, ...] = ()

    @property
    def query(self) -> str:
        return self.measured.query

    @property
    def by_hand(self) -> bool:
        """Whether anything was done to it by hand."""
        return bool(self.hints or self.corrections)

    @property
    def inverted(self) -> bool:
        """Whether the mask is what the cut left out."""
        return sum(one.kind == "invert" for one in self.corrections) % 2 == 1

    @property
    def absent(self) -> bool:
        """Whether the mask is empty as the presence is too low."""
        return self.found.presence < self.found.refine_options.min_presence

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
        given: what it was made with, by name, as far as it differs from the usual.
        style: the picture whose colours it took.
    """

    picture: Picture
    caption: str
    contrast: ContrastOptions
    refine: RefineOptions
    layers: tuple[Layer, ...] = ()
    selected: int = 0
    approved: bool = False
    edit: Edit | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    style: Picture | None = None

    @property
    def layer(self) -> Layer | None:
        """The selected layer, if there is one."""
        return self.layers[self.selected] if self.layers else None

    def with_layer(self, layer: Layer, **changes: Any) -> Work:
        """A copy in which the selected layer is another one."""
        layers = list(self.layers)
        layers[self.selected] = layer
        return replace(self, layers=tuple(layers), **changes)
