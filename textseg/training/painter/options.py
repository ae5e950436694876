"""The painter's numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import NOT_NEGATIVE, POSITIVE, SEED, between, option, validate, whole


@dataclass(frozen=True)
class PainterOptions:
    """How the painter is trained.

    Attributes:
        hours: time for the denoiser; in the last quarter of the budget the learning rates fall.
        scenes: pictures seen after which it ends, too; 0 for as many as fit the time.
        autoencoder_minutes: time for the autoencoder, before.
        side: pixels of a picture's side, a multiple of 32.
        pool: pictures composed and encoded, once for all of training.
        batch: pictures of a step.
        matrix_lr: Muon's learning rate, for all matrices.
        lr: Adam's learning rate, for biases, norms and embedding tables.
        warmup: steps over which both rise.
        ema: decay of the averaged weights.
        seed: of weights, pictures, captions and noise.
        save_every: seconds between checkpoints, each with a sheet of samples.
    """

    hours: float = option(2.5, POSITIVE, "hours")
    scenes: int = option(0, whole(0, 10**12), "scenes")
    autoencoder_minutes: float = option(20.0, NOT_NEGATIVE, "minutes")
    side: int = option(96, whole(32, 512), "pixels")
    pool: int = option(40000, whole(1, 10**9), "scenes")
    batch: int = option(64, whole(1, 10**9), "scenes")
    matrix_lr: float = option(0.015, POSITIVE)
    lr: float = option(2e-3, POSITIVE)
    warmup: int = option(100, whole(0, 10**9), "steps")
    ema: float = option(0.999, between(0, 1, "[)"))
    seed: int = option(0, SEED)
    save_every: float = option(300.0, POSITIVE, "seconds")

    __post_init__ = validate
