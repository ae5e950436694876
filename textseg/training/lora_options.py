"""The numbers of LoRA tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import NOT_NEGATIVE, POSITIVE, RISING, SEED, SHARE, one_of, option, validate, whole

Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class LoraOptions:
    """How a model is tuned with LoRA (Hu et al. 2021, arXiv 2106.09685) on an annotated set.

    Attributes:
        rank: of each attention matrix's update, 1 to 1024.
        alpha: updates are scaled by alpha / rank; 0 stands for the rank.
        lr: AdamW's learning rate, after the warm-up; it falls to zero along a cosine.
        steps: optimiser steps.
        batch: scenes a step and process; each is two rows, with an ordinary and with an absent
            caption.
        accumulate: batches whose gradients are added up to one step.
        warmup: steps over which the learning rate rises.
        levels: lowest and highest noise level, as fractions of the training steps T.
        absent: share of absent captions whose noun really is absent.
        contrast: weight of the loss that asks the contrast to be large inside the mask only.
        mixed_precision: "fp16" and "bf16" keep the frozen weights in half precision as well.
        checkpointing: compute activations again in the backward pass, to save memory.
        size: side of the square, in pixels, whose area images are cropped to; 0 is the model's own.
        workers: processes that read and fill images ahead.
        seed: of the split, crops, captions, noise and the first updates.
        save_every: seconds between checkpoints.
    """

    rank: int = option(8, whole(1, 1024))
    alpha: float = option(0.0, NOT_NEGATIVE)
    lr: float = option(1e-4, POSITIVE)
    steps: int = option(1000, whole(1, 10**9), "steps")
    batch: int = option(1, whole(1, 4096), "scenes")
    accumulate: int = option(1, whole(1, 4096))
    warmup: int = option(50, whole(0, 10**9), "steps")
    levels: tuple[float, float] = option((0.02, 0.7), RISING)
    absent: float = option(0.2, SHARE)
    contrast: float = option(0.2, NOT_NEGATIVE)
    mixed_precision: Precision = option("no", one_of("no", "fp16", "bf16"))
    checkpointing: bool = True
    size: int = option(0, whole(0, 4096), "pixels")
    workers: int = option(0, whole(0, 256))
    seed: int = option(0, SEED)
    save_every: float = option(300.0, POSITIVE, "seconds")

    __post_init__ = validate

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.alpha or self.rank) / self.rank
