"""The compared methods, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textseg.errors import InputError

from .base import Answer, Method, MethodSpec, Query


@dataclass(frozen=True)
class Entry:
    """A line of the table of methods.

    Attributes:
        place: "module:Class" in this package; the class takes a `MethodSpec`.
        told: what it is, for `--help`.
        runs_model: whether it takes the model, device and dtype of the command line.
        has_masks: whether it has a rule of its own that makes masks of its scores.
        offered: whether `--method` takes it.
        template: what a category is asked with where nothing else is said.
    """

    place: str
    told: str
    runs_model: bool = True
    has_masks: bool = True
    offered: bool = True
    template: str = "{}"


METHODS: dict[str, Entry] = {
    "textseg": Entry("noise_contrast:NoiseContrast", "textseg itself, on any of its models"),
    "nothing": Entry("trivial:Nothing", "an empty mask for every query", runs_model=False),
    "everything": Entry("trivial:Everything", "the whole image for every query", runs_model=False),
    "centre-box": Entry(
        "trivial:CentreBox", "a centred box of half the image's area", runs_model=False
    ),
    "grabcut": Entry("trivial:GrabCut", "GrabCut started from the centred box", runs_model=False),
    "diffedit-public": Entry(
        "public_diffedit:PublicDiffEdit", "diffusers' DiffEdit pipeline as it is"
    ),
    "cross-attention": Entry(
        "cross_attention:CrossAttention", "the UNet's attention to the query", has_masks=False
    ),
    "cross-self-attention": Entry(
        "cross_attention:CrossSelfAttention",
        "the same, spread by the UNet's self-attention",
        has_masks=False,
    ),
    "clipseg": Entry(
        "clipseg:ClipSeg",
        "CLIPSeg, weights given by path",
        has_masks=False,
        template="a photo of a {}",
    ),
    "sam3": Entry("sam3:Sam3", "SAM 3, weights given by path"),
    "truth": Entry(
        "given:TruthItself",
        "the annotations themselves, to check the instrument",
        runs_model=False,
    ),
    "masks": Entry("given:GivenMasks", "masks from a COCO results file", offered=False),
}
"""By name; a new method is a file here and a line in this table."""


def build(spec: MethodSpec) -> Method:
    """Make a method ready to answer.

    Raises:
        InputError: no such method, or options it does not have.
    """
    if spec.method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {spec.method!r}")
    module, _, name = METHODS[spec.method].place.partition(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return factory(spec)


__all__ = ["METHODS", "Answer", "Entry", "Method", "MethodSpec", "Query", "build"]
