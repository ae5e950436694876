"""The autoencoder of the embedded model: an exact linear analysis, and a decoder learnt against it.

The encoder is a whitened principal component analysis of 4 x 4 pixel blocks, written into the
weights of a standard `AutoencoderKL`, so that latents need no training, cost one small convolution
in training (`BlockAnalysis`), and every diffusers pipeline can load the folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .muon import Muon

BLOCK = 4
CHANNELS = 16
_WIDTHS = (32, 48, 8 * CHANNELS)
_LARGE = 50.0


@dataclass(frozen=True)
class BlockAnalysis:
    """Whitened principal components of pixel blocks.

    Attributes:
        weight: (CHANNELS, 3, BLOCK, BLOCK) analysis filters.
        bias: (CHANNELS,), so that latents have zero mean and unit variance over the fitted images.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def fit(cls, images: np.ndarray) -> BlockAnalysis:
        """Fits images (N, H, W, 3) uint8, sides multiples of `BLOCK`."""
        n, h, w, _ = images.shape
        x = images.astype(np.float64) / 127.5 - 1
        x = x.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3)
        x = x.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3 * BLOCK * BLOCK)
        mean = x.mean(0)
        values, vectors = np.linalg.eigh(np.cov((x - mean).T))
        order = np.argsort(values)[::-1][:CHANNELS]
        vectors = vectors[:, order] * np.sign(vectors[:, order].sum(0, keepdims=True) + 1e-12)
        filters = (vectors / np.sqrt(values[order])).T
        weight = torch.from_numpy(filters.reshape(CHANNELS, 3, BLOCK, BLOCK)).float()
        return cls(weight, torch.from_numpy(-filters @ mean).float())

    @classmethod
    def of(cls, vae: Any) -> BlockAnalysis:
        """The analysis that `build_autoencoder` wrote into an autoencoder's weights."""
        last = vae.encoder.down_blocks[2].resnets[0].conv_shortcut
        rows = torch.arange(CHANNELS) * 8
        flat = last.weight[rows, : 3 * BLOCK * BLOCK, 0, 0].float().unflatten(1, (2, 2, 2, 2, 3))
        weight = flat.permute(0, 5, 1, 3, 2, 4).reshape(CHANNELS, 3, BLOCK, BLOCK)
        return cls(weight.detach().contiguous(), last.bias[rows].detach().float())

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to latents (B, CHANNELS, H / BLOCK, W / BLOCK)."""
        return F.conv2d(images, self.weight, self.bias, stride=BLOCK)


def build_autoencoder(analysis: BlockAnalysis) -> Any:
    """An `AutoencoderKL` whose encoder computes `analysis`; the decoder is random.

    Pixels of a block travel to its cell through stride-2 convolutions that only move values
    (space to depth), past residual branches that are zero. The last group norm would rescale by the
    image's own statistics, so each group holds a component, its negative and constants far larger
    than both; SiLU is undone by x = silu(x) - silu(-x).
    """
    from diffusers import AutoencoderKL

    sides: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": _WIDTHS,
    }
    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        **sides,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=CHANNELS,
        sample_size=96,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    encoder = vae.encoder
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        encoder.conv_in.weight[:3, :, 1, 1] = torch.eye(3)
        offsets = [(dy, dx) for dy in (0, 1) for dx in (0, 1)]
        for level, width in ((0, 3), (1, 12)):
            conv = encoder.down_blocks[level].downsamplers[0].conv
            for k, (dy, dx) in enumerate(offsets):
                for c in range(width):
                    conv.weight[k * width + c, c, dy, dx] = 1
        shortcut = encoder.down_blocks[1].resnets[0].conv_shortcut
        shortcut.weight[:12, :12, 0, 0] = torch.eye(12)
        last = encoder.down_blocks[2].resnets[0].conv_shortcut
        for i in range(CHANNELS):
            for outer, (dy, dx) in enumerate(offsets):
                for inner, (ey, ex) in enumerate(offsets):
                    for c in range(3):
                        value = analysis.weight[i, c, 2 * dy + ey, 2 * dx + ex]
                        place = outer * 12 + inner * 3 + c
                        last.weight[8 * i, place, 0, 0] = value
                        last.weight[8 * i + 1, place, 0, 0] = -value
            signs = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
            last.bias[8 * i : 8 * i + 2] = torch.stack([analysis.bias[i], -analysis.bias[i]])
            last.bias[8 * i + 2 : 8 * i + 8] = _LARGE * signs
            gain = _LARGE * (6 / 8) ** 0.5
            encoder.conv_out.weight[i, 8 * i, 1, 1] = gain
            encoder.conv_out.weight[i, 8 * i + 1, 1, 1] = -gain
        encoder.conv_out.bias[CHANNELS:] = -30.0
        for conv, width in ((vae.quant_conv, 2 * CHANNELS), (vae.post_quant_conv, CHANNELS)):
            conv.weight.copy_(torch.eye(width)[:, :, None, None])
            conv.bias.zero_()
    encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
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
        y = vae.decode(analysis(x).contiguous(memory_format=torch.channels_last)).sample
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
