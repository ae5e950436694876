"""The options as keyword arguments, for editors and type checkers: a field each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from .clicks import Box, Point
    from .options import Measure
    from .progress import Progress


class ContrastArguments(TypedDict, total=False):
    """The fields of `ContrastOptions`."""

    reference: str
    measure: Measure
    strength: float | Iterable[float]
    samples: int
    seed: int
    batch_size: int
    stop_risk: float
    naming: float


class RefineArguments(TypedDict, total=False):
    """The fields of `RefineOptions`."""

    threshold: str | float
    level: float
    clamp: float
    floor: float
    relative: float
    min_presence: float
    guided: float
    crf: bool
    crf_iterations: int
    crf_appearance: float
    crf_alpha: float
    crf_beta: float
    crf_smoothness: float
    crf_gamma: float
    crf_points: int
    crf_spacing: float
    crf_stride: int
    opening: float
    closing: float
    min_area: float
    max_hole: float


class MeasureArguments(ContrastArguments, RefineArguments, total=False):
    """What `Segmenter.measure` takes besides the query."""

    caption: str | None
    progress: Progress | None


class QueryArguments(MeasureArguments, total=False):
    """What `Segmenter.query` takes besides the query."""

    exclusive: bool
    points: Sequence[Point]
    boxes: Sequence[Box]


class OutpaintArguments(TypedDict, total=False):
    """The fields of `EditOptions` that have a part in extending a picture."""

    encode_ratio: float
    steps: int
    guidance_scale: float
    negative_prompt: str
    seed: int
    fixed_point: int
    feather: float
    seam: int


class EditArguments(ContrastArguments, RefineArguments, total=False):
    """The fields of `EditOptions`, and what `Segmenter.query` takes to find the region."""

    caption: str | None
    encode_ratio: float
    steps: int
    guidance_scale: float
    negative_prompt: str
    fixed_point: int
    feather: float
    grow: float
    crop: float
    invert_mask: bool
    composite: bool
    seam: int


class GenerateArguments(TypedDict, total=False):
    """The fields of `GenerateOptions`."""

    steps: int
    guidance_scale: float
    negative_prompt: str
    seed: int
    scheduler: str
    height: int
    width: int
