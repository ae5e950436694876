"""From what a model measured to a mask, without the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from .contact_sheet import LONGER_SIDE, heat
from .errors import InputError
from .image import load_image
from .masks import Segmentation
from .option_table import documented
from .options import (
    ContrastOptions,
    RefineOptions,
    field_names,
    override,
    unknown_option,
)
from .progress import report
from .refine import Refiner
from .saving import as_picture
from .showing import Shown, quoted, size_text

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from .arguments import RefineArguments
    from .image import ImageLike
    from .progress import Progress

_EMPTIED = "the mask is empty: presence "
_COMPETING = "; competing with "
_CORRECTED = "; corrected by "


@dataclass(frozen=True, eq=False)
class Measurement(Shown):
    """What a model found for one query, before it is cut into a mask.

    In a notebook it shows the contrast: its range from dark blue to yellow.

    Attributes:
        query: as it was asked.
        prompts: of the query side and of the reference side.
        contrast: (h, w) float32 at the model's size, the map that is cut: the contrast, or the
            evidence where the option `measure` says so.
        presence: 0 to 1, how sure the model is that the object is there.
        contrast_options: what it was measured with.
        refine_options: what it is cut with unless told otherwise.
        model, version: who measured it, and with which textseg.
        notes: what the user should know.
    """

    query: str
    prompts: tuple[str, str]
    contrast: np.ndarray
    presence: float
    contrast_options: ContrastOptions
    refine_options: RefineOptions
    model: str
    version: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        said = f"{quoted(self.query)}, {size_text(*self.contrast.shape)}"
        return f"Measurement({said}, presence {self.presence:.2f})"

    def _look(self, longest: int | None = None) -> Image:
        times = max(1, LONGER_SIDE // max(self.contrast.shape))
        return as_picture(heat(self.contrast).repeat(times, axis=0).repeat(times, axis=1))


@overload
def cut(
    measurement: Measurement,
    image: np.ndarray,
    refine: RefineOptions | None = None,
    *,
    exclusive: bool = False,
    progress: Progress | None = None,
) -> Segmentation: ...
@overload
def cut(
    measurement: Sequence[Measurement],
    image: np.ndarray,
    refine: RefineOptions | None = None,
    *,
    exclusive: bool = False,
    progress: Progress | None = None,
) -> list[Segmentation]: ...
def cut(
    measurement: Measurement | Sequence[Measurement],
    image: np.ndarray,
    refine: RefineOptions | None = None,
    *,
    exclusive: bool = False,
    progress: Progress | None = None,
) -> Segmentation | list[Segmentation]:
    """Threshold and refine what was measured.

    Args:
        measurement: one, or several of the same image.
        image: (H, W, 3) uint8, of any size.
        refine: the options; those of the (first) measurement if None.
        exclusive: the measurements and the background compete, so that no pixel is in two masks.
            Those whose presence is below `min_presence` do not take part.
        progress: called as progress(done, total, "refine").

    Returns:
        a result for one measurement, a list for several. The mask is empty, and a note says so,
        where the presence is below `min_presence`.

    Raises:
        InputError: the image is not (H, W, 3) uint8; CancelledError: `progress` returned False.
    """
    if isinstance(measurement, Measurement):
        return cut([measurement], image, refine=refine, exclusive=exclusive, progress=progress)[0]
    if not measurement:
        return []
    refiner = Refiner(image, refine or measurement[0].refine_options)
    return cut_with(refiner, measurement, exclusive=exclusive, progress=progress)


def cut_with(
    refiner: Refiner,
    measurements: Sequence[Measurement],
    *,
    exclusive: bool = False,
    progress: Progress | None = None,
) -> list[Segmentation]:
    """`cut` by a refiner, which holds the image and the options."""
    least = refiner.options.min_presence
    rivals = [one for one in measurements if one.presence >= least] if exclusive else []
    won: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    if rivals:
        pairs = zip(*refiner.refine_exclusive(np.stack([r.contrast for r in rivals])), strict=True)
        won = {id(rival): pair for rival, pair in zip(rivals, pairs, strict=True)}
    results = []
    for one in measurements:
        notes = one.notes
        mask, score = won[id(one)] if id(one) in won else refiner.refine(one.contrast)
        if id(one) in won:
            others = ", ".join(repr(rival.query) for rival in rivals if rival is not one)
            notes = _beside_pairing(notes, f"{_COMPETING}{others or 'the background'}")
        results.append(result_of(one, refiner.image, mask, score, refiner.options, notes))
        report(progress, len(results), len(measurements), "refine")
    return results


def result_of(
    measurement: Measurement,
    image: np.ndarray,
    mask: np.ndarray,
    score: np.ndarray,
    refine: RefineOptions,
    notes: tuple[str, ...],
    corrected: str = "",
) -> Segmentation:
    """What was measured, with the mask it was cut into; empty, and a note says so, where the
    presence is below `min_presence`. `measurement_of` undoes it.

    Args:
        corrected: by what the mask was corrected, for the notes.
    """
    if corrected:
        notes = _beside_pairing(notes, f"{_CORRECTED}{corrected}")
    if measurement.presence < refine.min_presence:
        mask = np.zeros_like(mask)
        least = f"{refine.min_presence:g}"
        notes = (*notes, f"{_EMPTIED}{measurement.presence:.3g} is below {least}")
    return Segmentation(
        mask=mask,
        score=score,
        presence=measurement.presence,
        query=measurement.query,
        prompts=measurement.prompts,
        contrast_options=measurement.contrast_options,
        refine_options=refine,
        model=measurement.model,
        version=measurement.version,
        notes=notes,
        image=image,
        contrast=measurement.contrast,
    )


def _beside_pairing(notes: tuple[str, ...], said: str) -> tuple[str, ...]:
    """Notes with more in the first, on the pairing: further ones are what the user should mind."""
    first, *rest = notes or ("",)
    return (f"{first}{said}", *rest)


@overload
def remask(
    segmentation: Segmentation,
    *,
    image: ImageLike | None = None,
    exclusive: bool = False,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    **overrides: Unpack[RefineArguments],
) -> Segmentation: ...
@overload
def remask(
    segmentation: Sequence[Segmentation],
    *,
    image: ImageLike | None = None,
    exclusive: bool = False,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    **overrides: Unpack[RefineArguments],
) -> list[Segmentation]: ...
@documented(RefineOptions)
def remask(
    segmentation: Segmentation | Sequence[Segmentation],
    *,
    image: ImageLike | None = None,
    exclusive: bool = False,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Segmentation | list[Segmentation]:
    """Cut again what a result holds: its contrast map.

    Args:
        segmentation: one result, or several of the same image.
        image: the image, where the results do not hold it.
        exclusive: the results compete, as in `cut`.
        refine: options to start from; those of the (first) result if None.
        allow_url: whether `image` may be a URL to fetch.
        progress: called as progress(done, total, "refine").
        **overrides: fields of `RefineOptions`, by name.

    Raises:
        InputError: a result without its contrast map, no image, or an unknown option.
    """
    several = [segmentation] if isinstance(segmentation, Segmentation) else list(segmentation)
    if not several:
        return []
    pixels = several[0].image if image is None else load_image(image, allow_url=allow_url)
    if pixels is None:
        raise InputError("image must be given for results that do not hold it, got none")
    for one in several:
        if one.mask.shape != pixels.shape[:2]:
            raise InputError(
                f"image must have the mask's size {one.mask.shape}, got {pixels.shape[:2]}"
            )
    if unknown := sorted(set(overrides) - field_names(RefineOptions)):
        raise unknown_option(unknown[0], RefineOptions)
    options = override(refine or several[0].refine_options, overrides)
    measured = [measurement_of(one) for one in several]
    results = cut(measured, pixels, refine=options, exclusive=exclusive, progress=progress)
    return results[0] if isinstance(segmentation, Segmentation) else results


def measurement_of(segmentation: Segmentation) -> Measurement:
    """What a result was cut from.

    Raises:
        InputError: the result does not hold its contrast map.
    """
    one = segmentation
    if one.contrast is None:
        raise InputError(f"segmentation must hold its contrast map, got none for {one.query!r}")
    notes = (
        note.partition(_COMPETING)[0].partition(_CORRECTED)[0]
        for note in one.notes
        if not note.startswith(_EMPTIED)
    )
    return Measurement(
        query=one.query,
        prompts=one.prompts,
        contrast=one.contrast,
        presence=one.presence,
        contrast_options=one.contrast_options,
        refine_options=one.refine_options,
        model=one.model,
        version=one.version,
        notes=tuple(notes),
    )
