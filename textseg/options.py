"""Option dataclasses: frozen, import-light, saved with every result.

Defaults are the values of DiffEdit (arXiv 2210.11427) where the paper gives them. A model folder
may carry calibrated ones (`Backbone.contrast_defaults`, `Backbone.refine_defaults`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from .checks import check as _check
from .checks import check_whole as _check_whole
from .checks import is_number as _number

Measure = Literal["contrast", "evidence"]
REFERENCES: tuple[str, ...] = ("null", "absent", "swap", "erase")
EDIT_METHODS: tuple[str, ...] = (
    "diffedit", "diffedit-no-encoding", "encode-decode", "sdedit", "inpaint", "opencv-inpaint",
    "poisson",
)  # fmt: skip
THRESHOLD_RULES: tuple[str, ...] = ("paper", "otsu", "quantile", "fixed", "calibrated")

NO_REFINEMENT: dict[str, Any] = {
    "crf": False, "guided": 0.0, "min_area": 0.0, "max_hole": 0.0, "opening": 0.0, "closing": 0.0,
}  # fmt: skip
"""The fields of `RefineOptions` that leave a mask as the threshold cuts it."""


def _check_guidance(value: float) -> None:
    ok = _number(value) and 0 <= value < float("inf")
    _check("guidance_scale", value, "a number of at least 0", ok)


@dataclass(frozen=True)
class ContrastOptions:
    """How a query is contrasted with its reference.

    Attributes:
        reference: a strategy of `REFERENCES`, or any other text, taken as the reference prompt.
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

    reference: str = "null"
    measure: Measure = "contrast"
    strength: tuple[float, ...] = (0.5,)
    samples: int = 10
    seed: int = 0
    batch_size: int = 10
    stop_risk: float = 0.0
    naming: float = 0.0

    def __post_init__(self) -> None:
        given: Any = (self.strength,) if _number(self.strength) else self.strength
        try:
            levels = tuple(float(s) for s in given)
        except (TypeError, ValueError):
            levels = ()
            _check("strength", given, "a number or numbers in (0, 1]", False)
        object.__setattr__(self, "strength", levels)
        fits = bool(levels) and all(0 < s <= 1 for s in levels)
        _check("strength", levels, "one or more numbers in (0, 1]", fits)
        _check(
            "reference",
            self.reference,
            "a strategy or a text",
            isinstance(self.reference, str) and len(self.reference) <= 2000,
        )
        _check(
            "measure",
            self.measure,
            "'contrast' or 'evidence'",
            self.measure in ("contrast", "evidence"),
        )
        _check_whole("samples", self.samples, 1, 1000)
        _check_whole("batch_size", self.batch_size, 0, 1024)
        _check(
            "seed",
            self.seed,
            "a whole number from 0 to 2**63 - 1",
            isinstance(self.seed, int)
            and not isinstance(self.seed, bool)
            and 0 <= self.seed < 2**63,
        )
        _check(
            "stop_risk",
            self.stop_risk,
            "a number in [0, 1)",
            _number(self.stop_risk) and 0 <= self.stop_risk < 1,
        )
        _check(
            "naming",
            self.naming,
            "a number in [0, 1]",
            _number(self.naming) and 0 <= self.naming <= 1,
        )


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
        level: cut in [0, 1].
        clamp: multiple of the mean above which the map is cut off ("paper", "otsu", "quantile"),
            above 0.
        floor, relative: see "calibrated"; floor in units of the map, relative in [0, 1].
        min_presence: below this presence the mask is empty; 0 never empties it.
        guided: radius of the guided filter on the score, as a fraction of the image's longer side;
            0 switches it off.
        crf: dense CRF on or off.
        crf_iterations: mean-field steps, 1 to 50.
        crf_appearance, crf_alpha, crf_beta: weight, reach in pixels and reach in colour (0 to 255)
            of the appearance kernel, for an image of 500 pixels on its longer side.
        crf_smoothness, crf_gamma: weight and reach in pixels of the smoothness kernel.
        crf_points: places, up to 8192, that the CRF pools the pixels to for its appearance kernel;
            more are more exact and slower. 0 sums on a grid instead, more exactly, in several times
            the time.
        crf_spacing: with `crf_points` 0, of the nodes of that grid, 0.3 to 1.5 standard deviations
            of the kernel; 0.45 is right to half a percent, 0.9 to a few and several times as fast.
        crf_stride: with `crf_points` 0, 1 to 16; above 1 the CRF's steps but the last run on every
            so-manieth row and column, which is faster; images of 4,096 pixels and fewer are not
            strided.
        opening, closing: radii of morphological opening and closing, as fractions of the image's
            longer side; 0 switches them off.
        min_area, max_hole: objects and holes below this fraction of the image's area go.
    """

    threshold: str = "paper"
    level: float = 0.5
    clamp: float = 3.0
    floor: float = 0.1
    relative: float = 0.5
    min_presence: float = 0.0
    guided: float = 0.0
    crf: bool = True
    crf_iterations: int = 5
    crf_appearance: float = 10.0
    crf_alpha: float = 80.0
    crf_beta: float = 13.0
    crf_smoothness: float = 3.0
    crf_gamma: float = 3.0
    crf_points: int = 1024
    crf_spacing: float = 0.9
    crf_stride: int = 1
    opening: float = 0.0
    closing: float = 0.0
    min_area: float = 0.001
    max_hole: float = 0.001

    def __post_init__(self) -> None:
        _check(
            "threshold",
            self.threshold,
            f"one of {', '.join(THRESHOLD_RULES)}",
            self.threshold in THRESHOLD_RULES,
        )
        for name in (
            "level",
            "relative",
            "min_presence",
            "guided",
            "opening",
            "closing",
            "min_area",
            "max_hole",
        ):
            value = getattr(self, name)
            _check(name, value, "a number in [0, 1]", _number(value) and 0 <= value <= 1)
        for name in ("clamp", "floor", "crf_alpha", "crf_beta", "crf_gamma"):
            value = getattr(self, name)
            _check(name, value, "a number above 0", _number(value) and 0 < value < float("inf"))
        for name in ("crf_appearance", "crf_smoothness"):
            value = getattr(self, name)
            _check(
                name, value, "a number of at least 0", _number(value) and 0 <= value < float("inf")
            )
        _check_whole("crf_iterations", self.crf_iterations, 1, 50)
        _check_whole("crf_points", self.crf_points, 0, 8192)
        _check("crf_points", self.crf_points, "0 or at least 16", not 0 < self.crf_points < 16)
        _check_whole("crf_stride", self.crf_stride, 1, 16)
        _check(
            "crf_spacing",
            self.crf_spacing,
            "a number from 0.3 to 1.5",
            _number(self.crf_spacing) and 0.3 <= self.crf_spacing <= 1.5,
        )

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
        invert_mask: edit everything but the region.
        composite: paste the input's pixels back outside the mask, bit for bit.
        seam: width in pixels of the blended seam just inside the mask's edge.
    """

    encode_ratio: float = 0.5
    steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    seed: int = 0
    fixed_point: int = 0
    feather: float = 0.0
    invert_mask: bool = False
    composite: bool = True
    seam: int = 3

    def __post_init__(self) -> None:
        _check(
            "encode_ratio",
            self.encode_ratio,
            "a number in (0, 1]",
            _number(self.encode_ratio) and 0 < self.encode_ratio <= 1,
        )
        for name, low, high in (("steps", 1, 1000), ("fixed_point", 0, 50), ("seam", 0, 1000)):
            _check_whole(name, getattr(self, name), low, high)
        _check_guidance(self.guidance_scale)
        _check(
            "feather",
            self.feather,
            "a number in [0, 64]",
            _number(self.feather) and 0 <= self.feather <= 64,
        )
        _check(
            "seed",
            self.seed,
            "a whole number from 0 to 2**63 - 1",
            isinstance(self.seed, int)
            and not isinstance(self.seed, bool)
            and 0 <= self.seed < 2**63,
        )


@dataclass(frozen=True)
class GenerateOptions:
    """How an image is made from a prompt.

    Attributes:
        steps: sampling steps, 1 to 1000.
        guidance_scale: classifier-free guidance; 1 means none.
        negative_prompt: prompt of the unconditional branch.
        seed: seeds the first image's noise; image i of a batch has seed + i.
        scheduler: "ddim", or the name of a diffusers scheduler, as "DPMSolverMultistepScheduler".
        height, width: size in pixels, rounded to what the model can make; 0 is the model's own.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    seed: int = 0
    scheduler: str = "ddim"
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        ranges = (
            ("steps", 1, 1000),
            ("seed", 0, 2**63 - 1),
            ("height", 0, 8192),
            ("width", 0, 8192),
        )
        for name, low, high in ranges:
            _check_whole(name, getattr(self, name), low, high)
        _check_guidance(self.guidance_scale)
        _check(
            "scheduler",
            self.scheduler,
            "'ddim' or the name of a diffusers scheduler",
            isinstance(self.scheduler, str) and self.scheduler.isidentifier(),
        )


def field_docs(options: type) -> dict[str, str]:
    """What an option dataclass's "Attributes:" section says of each field.

    >>> field_docs(EditOptions)["steps"][:10]
    'DDIM steps'
    """
    _, _, section = (options.__doc__ or "").partition("Attributes:\n")
    described: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if not line.strip():
            break
        entry = re.match(r" {8}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            described |= dict.fromkeys(names, entry[2])
        else:
            described |= {name: f"{described[name]} {line.strip()}" for name in names}
    return described
