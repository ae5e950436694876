"""The autoencoder of the embedded model: two given encoders (`analysis`, `semantics`), and a
decoder learnt against the first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .analysis import CHANNELS, BlockAnalysis
from .muon import Muon
from .semantics import Semantics

_WIDTHS = (32, 32, 48, 8 * CHANNELS)


def build_autoencoder(analysis: BlockAnalysis, semantics: Semantics) -> Any:
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
    vae.analysis.load_state_dict({"weight": analysis.weight, "bias": analysis.bias})
    vae.features.load_state_dict(semantics.features.state_dict())
    vae.projection.load_state_dict(semantics.projection.state_dict())
    for part in (vae.analysis, vae.features, vae.projection):
        part.requires_grad_(False)
    return vae


def train_decoder(
    vae: Any,
    analysis: BlockAnalysis,
    images: Iterator[torch.Tensor],
    *,
    seconds: float,
    matrix_lr: float = 0.02,
    lr: float = 3e-3,
) -> Iterator[dict[str, float]]:
    """Trains the decoder on batches (B, 3, H, W) in [-1, 1] for a given time.

    The learning rate falls to zero as a cosine over the time.

    Yields:
        Every 25 steps: `step`, `psnr` in dB over the range [-1, 1] and `seconds`.
    """
    import time

    parameters = [*vae.decoder.parameters()]
    vae.to(memory_format=torch.channels_last)
    optimizers = {
        matrix_lr: Muon([p for p in parameters if p.ndim > 1], lr=matrix_lr),
        lr: torch.optim.Adam([p for p in parameters if p.ndim == 1], lr=lr, betas=(0.9, 0.99)),
    }
    start, step, mean = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / seconds) < 1:
        rate = min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * done))
        for highest, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = highest * rate
        x = next(images)
        pixels = analysis(x).contiguous(memory_format=torch.channels_last)
        y = vae.decode(pixels).sample
        edges = sum(F.l1_loss(torch.diff(y, dim=d), torch.diff(x, dim=d)) for d in (2, 3))
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + 0.5 * edges
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        step += 1
        psnr = 10 * np.log10(4 / F.mse_loss(y.detach(), x).item())
        mean = psnr if step == 1 else 0.98 * mean + 0.02 * psnr
        if step % 25 == 0:
            yield {"step": step, "psnr": mean, "seconds": time.monotonic() - start}
