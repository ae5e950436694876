"""The recipe's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import check, check_positive, check_whole, is_number


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

    hours: float = 2.0
    batch: int = 12
    fresh: int = 8
    pool: int = 1500
    matrix_lr: float = 0.015
    lr: float = 2e-3
    warmup: int = 50
    ema: float = 0.999
    grounding: float = 0.7
    heads: float = 0.7
    contrast: float = 0.2
    pairs: tuple[float, float] = (0.5, 1.0)
    absent: float = 0.2
    recognition: float = 0.4
    recognition_batch: int = 24
    negatives: int = 48
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    save_every: float = 300.0

    def __post_init__(self) -> None:
        for name in ("hours", "matrix_lr", "lr", "save_every"):
            check_positive(name, getattr(self, name))
        for name in ("batch", "fresh", "pool"):
            check_whole(name, getattr(self, name), 1, 10**9)
        for name in ("ema", "absent"):
            value = getattr(self, name)
            check(name, value, "a number in [0, 1)", is_number(value) and 0 <= value < 1)
        ok = len(self.pairs) == 2 and all(is_number(p) and 0 <= p <= 1 for p in self.pairs)
        check("pairs", self.pairs, "two numbers in [0, 1]", ok)
