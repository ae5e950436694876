"""The recipe's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...checks import (
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    between,
    one_of,
    option,
    several,
    validate,
    whole,
)

_PAIR = several(SHARE, "two numbers in [0, 1]", count=2)


@dataclass(frozen=True)
class TrainOptions:
    """How the embedded model is trained.

    Attributes:
        hours: training time; the learning rate follows a cosine over it.
        batch: scenes per step (each is two rows).
        fresh: scenes per step that are new; the rest is drawn again from the pool.
        pool: scenes kept per image size.
        matrix_lr: Muon's learning rate, for all matrices.
        lr: Adam's learning rate, for biases, norms and embedding tables.
        warmup: steps over which both rise.
        ema: decay of the averaged weights.
        grounding, heads, contrast: weights of the auxiliary losses.
        pairs: share of steps with both rows at the start and at the end of training, linear in
            between; the other steps have row A alone, for twice as many scenes.
        absent: share of row B captions whose noun really is absent.
        recognition: share of the time, at the start, in which most steps only teach the UNet's way
            down to tell nouns apart.
        recognition_batch: scenes of such a step.
        negatives: absent nouns that grounding compares with, per step.
        precision: of matrix products and convolutions; bfloat16 is faster where the processor
            multiplies in it, and several times slower where it does not.
        seed: of weights, captions and noise.
        save_every: seconds between checkpoints.
    """

    hours: float = option(2.0, POSITIVE, "hours")
    batch: int = option(12, whole(1, 10**9), "scenes")
    fresh: int = option(8, whole(1, 10**9), "scenes")
    pool: int = option(1500, whole(1, 10**9), "scenes")
    matrix_lr: float = option(0.015, POSITIVE)
    lr: float = option(2e-3, POSITIVE)
    warmup: int = option(50, whole(0, 10**9), "steps")
    ema: float = option(0.999, between(0, 1, "[)"))
    grounding: float = option(0.7, NOT_NEGATIVE)
    heads: float = option(0.7, NOT_NEGATIVE)
    contrast: float = option(0.2, NOT_NEGATIVE)
    pairs: tuple[float, float] = option((0.5, 1.0), _PAIR)
    absent: float = option(0.2, between(0, 1, "[)"))
    recognition: float = option(0.4, SHARE)
    recognition_batch: int = option(24, whole(1, 10**9), "scenes")
    negatives: int = option(48, whole(0, 10**9), "nouns")
    precision: Literal["float32", "bfloat16"] = option("float32", one_of("float32", "bfloat16"))
    seed: int = option(0, SEED)
    save_every: float = option(300.0, POSITIVE, "seconds")

    __post_init__ = validate
