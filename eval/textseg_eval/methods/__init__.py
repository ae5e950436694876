"""The compared methods, each imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from textseg.errors import InputError

from .base import Answer, Method, MethodSpec, Query

METHODS: dict[str, tuple[str, str]] = {
    "textseg": ("noise_contrast:NoiseContrast", "textseg itself, on any of its models"),
    "nothing": ("trivial:Nothing", "an empty mask for every query"),
    "everything": ("trivial:Everything", "the whole image for every query"),
    "centre-box": ("trivial:CentreBox", "a centred box of half the image's area"),
    "grabcut": ("trivial:GrabCut", "GrabCut started from the centred box"),
    "diffedit-public": ("public_diffedit:PublicDiffEdit", "diffusers' DiffEdit pipeline as it is"),
    "cross-attention": ("cross_attention:CrossAttention", "the UNet's attention to the query"),
    "cross-self-attention": (
        "cross_attention:CrossSelfAttention",
        "the same, spread by the UNet's self-attention",
    ),
    "clipseg": ("clipseg:ClipSeg", "CLIPSeg, weights given by path"),
    "sam3": ("sam3:Sam3", "SAM 3, weights given by path"),
    "truth": ("given:TruthItself", "the annotations themselves, to check the instrument"),
    "masks": ("given:GivenMasks", "masks from a COCO results file"),
}


SCORES_ONLY = ("cross-attention", "cross-self-attention", "clipseg")
"""Methods without a rule of their own that makes masks of their scores."""


def build(spec: MethodSpec) -> Method:
    """Make a method ready to answer.

    Raises:
        InputError: no such method, or options it does not have.
    """
    if spec.method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {spec.method!r}")
    module, _, name = METHODS[spec.method][0].partition(":")
    factory: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return factory(spec)


__all__ = ["METHODS", "SCORES_ONLY", "Answer", "Method", "MethodSpec", "Query", "build"]
