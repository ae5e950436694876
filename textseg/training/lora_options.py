"""The numbers of LoRA tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import check, check_positive, check_share, check_whole, is_number

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

    rank: int = 8
    alpha: float = 0.0
    lr: float = 1e-4
    steps: int = 1000
    batch: int = 1
    accumulate: int = 1
    warmup: int = 50
    levels: tuple[float, float] = (0.02, 0.7)
    absent: float = 0.2
    contrast: float = 0.2
    mixed_precision: Precision = "no"
    checkpointing: bool = True
    size: int = 0
    workers: int = 0
    seed: int = 0
    save_every: float = 300.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rank", 1, 1024), ("steps", 1, 10**9), ("batch", 1, 4096), ("accumulate", 1, 4096),
            ("warmup", 0, 10**9), ("size", 0, 4096), ("workers", 0, 256), ("seed", 0, 2**63 - 1),
        ):  # fmt: skip
            check_whole(name, getattr(self, name), low, high)
        for name in ("lr", "save_every"):
            check_positive(name, getattr(self, name))
        for name in ("alpha", "contrast"):
            value = getattr(self, name)
            ok = is_number(value) and 0 <= value < float("inf")
            check(name, value, "a number of at least 0", ok)
        check_share("absent", self.absent)
        levels = self.levels
        ok = len(levels) == 2 and all(map(is_number, levels)) and 0 < levels[0] < levels[1] <= 1
        check("levels", levels, "two rising numbers in (0, 1]", ok)
        rule = "'no', 'fp16' or 'bf16'"
        check("mixed_precision", self.mixed_precision, rule,
              self.mixed_precision in ("no", "fp16", "bf16"))  # fmt: skip

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.alpha or self.rank) / self.rank
