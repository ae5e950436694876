"""Option dataclasses: frozen, import-light, saved with every result.

Defaults are the values of DiffEdit (arXiv 2210.11427) where the paper gives them. A model folder
may carry calibrated ones (`Backbone.contrast_defaults`, `Backbone.refine_defaults`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from .checks import (
    FRACTION,
    FRACTIONS,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Rule,
    between,
    check,
    one_of,
    option,
    validate,
    whole,
)
from .errors import InputError

Measure = Literal["contrast", "evidence"]
REFERENCES: tuple[str, ...] = ("null", "absent", "swap", "erase")
THRESHOLD_RULES: tuple[str, ...] = ("paper", "otsu", "quantile", "fixed", "calibrated")

NO_REFINEMENT: dict[str, Any] = {
    "crf": False, "guided": 0.0, "min_area": 0.0, "max_hole": 0.0, "opening": 0.0, "closing": 0.0,
}  # fmt: skip
"""The fields of `RefineOptions` that leave a mask as the threshold cuts it."""


THRESHOLD = Rule(
    f"one of {', '.join(THRESHOLD_RULES)} or a number in [0, 1]",
    lambda v: v in THRESHOLD_RULES if isinstance(v, str) else SHARE.holds(v),
)
_POINTS = Rule(
    "0, or a whole number from 16 to 8192",
    lambda v: whole(0, 8192).holds(v) and not 0 < v < 16,
    {"ge": 0, "le": 8192},
)
_REFERENCE = Rule("a strategy or a text", lambda v: isinstance(v, str) and len(v) <= 2000)
_SCHEDULER = Rule(
    "'ddim' or the name of a diffusers scheduler",
    lambda v: isinstance(v, str) and v.isidentifier(),
)


@dataclass(frozen=True)
class ContrastOptions:
    """How a query is contrasted with its reference.

    Attributes:
        reference: "null", "absent", "swap" or "erase", strategies for the reference prompt, or any
            other text, taken as that prompt itself.
        measure: "contrast", the unsigned noise difference of DiffEdit, or "evidence", how much
            better the query explains the true noise (signed).
        strength: noise levels in (0, 1] as fractions of the training steps T; the maps of several
            levels are averaged.
        samples: noise draws per level, 1 to 1000.
        seed: with the image's identity, seeds the noise.
        batch_size: draws evaluated in one call of the model, 1 to 1024, or 0 for as many as the
            device's free memory holds. Part of the options because the last bits of a prediction
            depend on it; a result says how many it was.
        stop_risk: above 0, in [0, 1), draws are no longer made once the mask is stable: once the
            share of it that further draws are expected to change, by the spread over draws in each
            cell, is at most this. Fewer than `samples` draws are then used; 0 always makes all.
        naming: for models that name what they see, such as mini, in [0, 1]: above 0, the contrast
            of a cell is multiplied by this power of how likely the query's noun is there, against
            where it is likeliest. Other models' contrast stays as it is.
    """

    reference: str = option("null", _REFERENCE)
    measure: Measure = option("contrast", one_of("contrast", "evidence"))
    strength: tuple[float, ...] = option((0.5,), FRACTIONS, slider=(0.01, 1, 0.01))
    samples: int = option(10, whole(1, 1000), "draws", slider=(1, 32, 1))
    seed: int = option(0, SEED)
    batch_size: int = option(10, whole(0, 1024), "draws")
    stop_risk: float = option(0.0, between(0, 1, "[)"))
    naming: float = option(0.0, SHARE)

    def __post_init__(self) -> None:
        given: Any = self.strength
        given = tuple(given) if isinstance(given, Iterable) else (given,)
        object.__setattr__(self, "strength", given)
        validate(self)
        object.__setattr__(self, "strength", tuple(map(float, given)))


@dataclass(frozen=True)
class RefineOptions:
    """How a contrast map becomes a mask.

    Attributes:
        threshold: rule that turns the map into a score in [0, 1] and the score into a mask.
            "paper": clamp at `clamp` times the mean, rescale to [0, 1], cut at `level`.
            "otsu": the same score, cut at Otsu's threshold.
            "quantile": the same score, cut so that the fraction `level` of pixels is left out.
            "fixed": the map itself clipped to [0, 1], cut at `level`.
            "calibrated": score = c / (c + max(floor, relative * peak)), cut at `level`, where peak
            is the 99th percentile of the map c.
            A number cuts at that `level` the score that "paper" makes or, given over other
            options, the score of their rule.
        level: cut in [0, 1].
        clamp: multiple of the mean above which the map is cut off ("paper", "otsu", "quantile"),
            above 0.
        floor: of "calibrated": what c is measured against at least, in units of the map.
        relative: of "calibrated": share of the map's peak that c is measured against, in [0, 1].
        min_presence: below this presence the mask is empty; 0 never empties it.
        guided: radius of the guided filter on the score, as a fraction of the image's longer side;
            0 switches it off.
        crf: dense CRF on or off.
        crf_iterations: mean-field steps, 1 to 50.
        crf_appearance: weight of the appearance kernel, by which pixels of like colours agree.
        crf_alpha: its reach in pixels, for an image of 500 pixels on its longer side.
        crf_beta: its reach in colour, of 0 to 255.
        crf_smoothness: weight of the smoothness kernel, by which neighbours agree.
        crf_gamma: its reach in pixels, for an image of 500 pixels on its longer side.
        crf_points: places, up to 8192, that the CRF pools the pixels to for its appearance kernel;
            more are more exact and slower. 0 sums on a grid instead, more exactly, in several times
            the time.
        crf_spacing: with `crf_points` 0, of the nodes of that grid, 0.3 to 1.5 standard deviations
            of the kernel; 0.45 is right to half a percent, 0.9 to a few and several times as fast.
        crf_stride: with `crf_points` 0, 1 to 16; above 1 the CRF's steps but the last run on every
            so-manieth row and column, which is faster; images of 4,096 pixels and fewer are not
            strided.
        opening: radius of a morphological opening, which cuts off what is thin, as a fraction of
            the image's longer side; 0 switches it off.
        closing: radius of a morphological closing, which closes gaps, likewise.
        min_area: objects below this fraction of the image's area go.
        max_hole: holes below this fraction of the image's area are filled.
    """

    threshold: str | float = option("paper", THRESHOLD)
    level: float = option(0.5, SHARE, slider=(0, 1, 0.01))
    clamp: float = option(3.0, POSITIVE)
    floor: float = option(0.1, POSITIVE)
    relative: float = option(0.5, SHARE)
    min_presence: float = option(0.0, SHARE)
    guided: float = option(0.0, SHARE)
    crf: bool = True
    crf_iterations: int = option(5, whole(1, 50), "steps")
    crf_appearance: float = option(10.0, NOT_NEGATIVE)
    crf_alpha: float = option(80.0, POSITIVE, "pixels")
    crf_beta: float = option(13.0, POSITIVE)
    crf_smoothness: float = option(3.0, NOT_NEGATIVE)
    crf_gamma: float = option(3.0, POSITIVE, "pixels")
    crf_points: int = option(1024, _POINTS, "places")
    crf_spacing: float = option(0.9, between(0.3, 1.5))
    crf_stride: int = option(1, whole(1, 16))
    opening: float = option(0.0, SHARE)
    closing: float = option(0.0, SHARE)
    min_area: float = option(0.001, SHARE)
    max_hole: float = option(0.001, SHARE)

    def __post_init__(self) -> None:
        validate(self)
        if not isinstance(self.threshold, str):
            object.__setattr__(self, "level", self.threshold)
            object.__setattr__(self, "threshold", "paper")

    @classmethod
    def off(cls, **changes: Any) -> RefineOptions:
        """Threshold only: no filter, CRF, morphology or area rule."""
        return cls(**(NO_REFINEMENT | changes))


@dataclass(frozen=True)
class EditOptions:
    """How a masked region is edited (DiffEdit steps 2 and 3).

    Attributes:
        encode_ratio: fraction r of the schedule the image is encoded to, in (0, 1].
        steps: DDIM steps over the full schedule, 1 to 1000; encoding and decoding use r * steps.
        guidance_scale: classifier-free guidance of the decoding; 1 means none.
        negative_prompt: prompt of the unconditional branch in decoding.
        seed: seeds the methods that draw noise.
        fixed_point: fixed-point refinements per encoding step, 0 to 50.
        feather: blur radius of the mask at latent size, in latent cells.
        grow: how far a region that was found grows before the edit, as a fraction of the longer
            side, 0 to 0.5, so that rims and shadows go with it and the seam lies outside the
            object; a given mask only if asked to. What is inverted or recoloured does not grow.
        crop: above 0, only the part of the picture around the region is edited, at the model's own
            size: the region's box and this share of its longer side on every side, 0 to 100, as
            square as the picture allows. For regions much smaller than the picture. 0 is off.
        invert_mask: edit everything but the region.
        composite: paste the input's pixels back outside the mask, bit for bit.
        seam: width in pixels of the blended seam just inside the mask's edge.
    """

    encode_ratio: float = option(0.5, FRACTION, slider=(0.05, 1, 0.05))
    steps: int = option(50, whole(1, 1000), "steps", slider=(5, 200, 1))
    guidance_scale: float = option(7.5, NOT_NEGATIVE, slider=(1, 20, 0.5))
    negative_prompt: str = ""
    seed: int = option(0, SEED)
    fixed_point: int = option(0, whole(0, 50))
    feather: float = option(0.0, between(0, 64), "cells")
    grow: float = option(0.015, between(0, 0.5), slider=(0, 0.1, 0.005))
    crop: float = option(0.0, between(0, 100), slider=(0, 2, 0.05))
    invert_mask: bool = False
    composite: bool = True
    seam: int = option(3, whole(0, 1000), "pixels")

    __post_init__ = validate


@dataclass(frozen=True)
class GenerateOptions:
    """How an image is made from a prompt.

    Attributes:
        steps: sampling steps, 1 to 1000.
        guidance_scale: classifier-free guidance; 1 means none.
        negative_prompt: prompt of the unconditional branch.
        seed: seeds the first image's noise; image i of a batch has seed + i.
        scheduler: "ddim", or the name of a diffusers scheduler, as "DPMSolverMultistepScheduler".
        height: in pixels, rounded to what the model can make; 0 is the model's own.
        width: likewise.
    """

    steps: int = option(50, whole(1, 1000), "steps", slider=(5, 200, 1))
    guidance_scale: float = option(7.5, NOT_NEGATIVE, slider=(1, 20, 0.5))
    negative_prompt: str = ""
    seed: int = option(0, SEED)
    scheduler: str = option("ddim", _SCHEDULER)
    height: int = option(0, whole(0, 8192), "pixels")
    width: int = option(0, whole(0, 8192), "pixels")

    __post_init__ = validate


_Options = TypeVar("_Options", ContrastOptions, RefineOptions, EditOptions, GenerateOptions)


def override(options: _Options, changes: Mapping[str, Any]) -> _Options:
    """Options with some fields changed; a number as `threshold` cuts the score of their rule.

    >>> override(RefineOptions(threshold="calibrated"), {"threshold": 0.3}).level
    0.3
    """
    if isinstance(options, RefineOptions):
        changes = spell_threshold(str(options.threshold), changes)
    return replace(options, **changes)


def field_names(*kinds: type) -> frozenset[str]:
    """The names of the fields of option dataclasses."""
    return frozenset(field.name for kind in kinds for field in fields(kind))


def unknown_option(name: str, *kinds: type, without: Collection[str] = ()) -> InputError:
    """The error to raise on an option that none of the dataclasses has, or that is left out."""
    allowed = sorted(field_names(*kinds) - set(without))
    close = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return InputError(f"option must be one of {', '.join(allowed)}, got {name!r}{hint}")


def spell_threshold(rule: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes to options with that rule, with a number as `threshold` written as rule and level.

    Raises:
        InputError: the level is given twice, or is out of range.
    """
    number = changes.get("threshold")
    if number is None or isinstance(number, str):
        return dict(changes)
    check("threshold", number, THRESHOLD.words, SHARE.holds(number))
    check("level", changes.get("level"), "left out where threshold is a number",
          "level" not in changes)  # fmt: skip
    # "otsu" and "quantile" find the cut themselves, in the score of "paper".
    rule = "paper" if rule in ("otsu", "quantile") else rule
    return {**changes, "threshold": rule, "level": number}
