"""The autoencoder of the embedded model: two given encoders (`analysis`, `semantics`), and a
decoder learnt against the first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .. import runs
from .analysis import CHANNELS
from .muon import Muon
from .semantics import Semantics

_WIDTHS = (32, 32, 48, 8 * CHANNELS)
# Of matrices, of the rest.
_RATES = (0.02, 3e-3)
_WARMUP = 20


def build_autoencoder(analysis: torch.nn.Conv2d, semantics: Semantics) -> Any:
    """A `SemanticAutoencoder` whose encoder is given; its decoder is random."""
    from ...backbone.semantic_autoencoder import SemanticAutoencoder

    vae: Any = SemanticAutoencoder(
        latent_channels=CHANNELS + semantics.channels,
        pixel_channels=CHANNELS,
        block_out_channels=_WIDTHS,
        norm_num_groups=CHANNELS,
        feature_widths=semantics.features.widths,
        feature_repeats=semantics.features.repeats,
    )
    vae.analysis.load_state_dict(analysis.state_dict())
    vae.features.load_state_dict(semantics.features.state_dict())
    vae.projection.load_state_dict(semantics.projection.state_dict())
    for part in (vae.analysis, vae.features, vae.projection):
        part.requires_grad_(False)
    return vae


class _Decoding:
    """A decoder and its optimisers; see `train_decoder`."""

    def __init__(self, vae: Any, analysis: torch.nn.Conv2d, images: Iterator[torch.Tensor]) -> None:
        self.vae, self.analysis, self.images = vae, analysis, images
        vae.to(memory_format=torch.channels_last)
        parameters = [*vae.decoder.parameters()]
        self.optimizers = [
            Muon([p for p in parameters if p.ndim > 1], lr=_RATES[0]),
            torch.optim.Adam([p for p in parameters if p.ndim == 1], betas=(0.9, 0.99)),
        ]
        self.step, self.elapsed = 0, 0.0

    def update(self, done: float) -> dict[str, float]:
        """One step, where a share `done` of the time has passed; its PSNR."""
        runs.set_rates(self.optimizers, _RATES, runs.ramp(self.step, _WARMUP, done))
        x = next(self.images)
        pixels = self.analysis(x).contiguous(memory_format=torch.channels_last)
        y = self.vae.decode(pixels).sample
        edges = sum(F.l1_loss(torch.diff(y, dim=d), torch.diff(x, dim=d)) for d in (2, 3))
        runs.descend(F.l1_loss(y, x) + F.mse_loss(y, x) + 0.5 * edges, self.optimizers)
        self.step += 1
        return {"psnr": 10 * math.log10(4 / F.mse_loss(y.detach(), x).item())}


def train_decoder(
    vae: Any,
    analysis: torch.nn.Conv2d,
    images: Iterator[torch.Tensor],
    seconds: float,
    report: runs.Report,
) -> None:
    """Trains the decoder on batches (B, 3, H, W) in [-1, 1] for a given time.

    The learning rate falls to zero as a cosine over the time.

    Args:
        report: as of `run_for`, with "psnr" in dB over the range [-1, 1].
    """
    runs.run_for(_Decoding(vae, analysis, images), seconds, report)
