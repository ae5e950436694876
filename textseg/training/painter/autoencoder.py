"""The painter's autoencoder: a small `AutoencoderKL` whose latents bear noise.

The latents have a mean of 0 and a deviation of 1 in each channel, and the decoder learns from
latents with some noise on them: what a cell can say is bounded (as a variational autoencoder bounds
it by a divergence), neighbouring latents mean alike pictures, and small errors of the denoiser do
not show. In every other step latents made coarser must give the picture made coarser (Kouzelis et
al. 2025, arXiv 2502.09509): the coarse part of a picture is then the coarse part of its latents,
which a denoiser can settle first. Beside pixels, features of an image classifier are compared, so
that detail is drawn where it matters rather than blurred (Johnson et al. 2016, arXiv 1603.08155).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import runs
from ..mini.muon import Muon
from .drawings import Drawings
from .facts import AUTOENCODER, FACTOR
from .scenes import compose

# Deviation of the noise on latents in training.
NOISE = 0.1
_BATCH = 8
# Pictures are seen in part, so that there are more of them to a second.
_CROP = 64
# Of matrices, of the rest.
_RATES = (0.02, 2e-3)
_WARMUP = 50
_LAST_RATE = 0.02
# Weights of losses, those of pixels together having 1 to 2.
_FEATURES = 0.5
_AREAS = 2.0


def build_autoencoder(**changed: Any) -> Any:
    """An untrained `AutoencoderKL` without attention.

    Args:
        changed: entries of `painter.json`'s "autoencoder" to replace.
    """
    from diffusers import AutoencoderKL

    return AutoencoderKL(**AUTOENCODER | changed)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


class _Eye(torch.nn.Module):
    """The first stages of an image classifier, whose features say how alike two pictures look."""

    def __init__(self) -> None:
        from ..mini.semantics import load_classifier

        super().__init__()
        net = load_classifier()
        self.stem = net.stem
        self.blocks = torch.nn.ModuleList(list(net.blocks)[:5])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = F.relu6(self.stem(images))
        found = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in (2, 4):
                found.append(x)
        return found


def _unlike(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros((), device=a[0].device)
    for x, y in zip(a, b, strict=True):
        scale = y.float().square().mean((0, 2, 3), keepdim=True).add(1e-4).rsqrt()
        total = total + ((x.float() - y.float()) * scale).abs().mean()
    return total / len(a)


class AutoencoderRun:
    """Trains an autoencoder on some composed pictures (`runs.run_for`); resumes from `file`."""

    def __init__(
        self,
        drawings: Drawings,
        file: Path,
        device: torch.device,
        seed: int = 0,
        pictures: int = 4000,
    ) -> None:
        torch.manual_seed(seed)
        self.file, self.device, self.seed = file, device, seed
        rng = np.random.default_rng([seed, 1])
        composed = [compose(rng, drawings).image for _ in range(pictures)]
        self.images = torch.from_numpy(np.stack(composed))
        self.vae = build_autoencoder().to(device, memory_format=torch.channels_last)
        self.norm = torch.nn.BatchNorm2d(
            AUTOENCODER["latent_channels"], affine=False, momentum=0.02
        ).to(device)
        self.eye = _Eye().to(device)
        parameters = [*self.vae.parameters()]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon([p for p in parameters if p.ndim > 1], lr=_RATES[0], dtype=torch.bfloat16),
            torch.optim.Adam([p for p in parameters if p.ndim == 1], betas=(0.9, 0.99)),
        ]
        self.parts = {"vae": [self.vae], "norm": [self.norm], "optimizers": self.optimizers}
        self.step, self.elapsed = 0, 0.0
        if file.exists():
            saved = torch.load(file, weights_only=True, map_location=device)
            runs.restore(self.parts, saved)
            self.step, self.elapsed = saved["step"], saved["elapsed"]

    def save(self) -> None:
        state = runs.states_of(self.parts)
        runs.save_state(self.file, state | {"step": self.step, "elapsed": self.elapsed})

    def _draw(self) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, 2, self.step])
        side = self.images.shape[1]
        crop = min(_CROP, side)
        y, x = rng.integers(0, side - crop + 1, 2)
        images = self.images[torch.from_numpy(rng.integers(len(self.images), size=_BATCH))]
        if rng.random() < 0.5:
            images = images.flip(2)
        pixels = to_pixels(images[:, y : y + crop, x : x + crop].to(self.device))
        return pixels.contiguous(memory_format=torch.channels_last)

    def update(self, done: float) -> dict[str, float]:
        """One step, where a share `done` of the time has passed."""
        runs.set_rates(self.optimizers, _RATES, runs.ramp(self.step, _WARMUP, done, _LAST_RATE))
        x = self._draw()
        with torch.autocast(self.device.type, torch.bfloat16):
            z = self.norm(self.vae.encode(x).latent_dist.mean.float())
            if self.step % 2:
                z, x = F.avg_pool2d(z, 2), F.avg_pool2d(x, 2)
            y = self.vae.decode(z + NOISE * torch.randn_like(z)).sample.float()
            seen = _unlike(self.eye(y), self.eye(x))
        edges = sum(F.l1_loss(torch.diff(y, dim=d), torch.diff(x, dim=d)) for d in (2, 3))
        # Colours of areas, which come late otherwise: few pictures differ by them alone.
        areas = F.l1_loss(F.avg_pool2d(y, FACTOR), F.avg_pool2d(x, FACTOR))
        pixels = F.l1_loss(y, x) + F.mse_loss(y, x) + 0.5 * edges
        loss = pixels + _AREAS * areas + _FEATURES * seen
        runs.descend(loss, self.optimizers, self.vae.parameters())
        self.step += 1
        psnr = 10 * math.log10(4 / F.mse_loss(y.detach(), x).item())
        return {"psnr": psnr, "features": seen.item()}

    @torch.no_grad()
    def finished(self) -> Any:
        """The autoencoder, its latents' size now part of its weights, its posterior certain."""
        norm: Any = self.norm
        mean, deviation = norm.running_mean, (norm.running_var + norm.eps).sqrt()
        vae = build_autoencoder().to(self.device)
        vae.load_state_dict(self.vae.state_dict())
        channels = len(deviation)
        out = vae.encoder.conv_out
        out.weight[:channels] /= deviation[:, None, None, None]
        out.bias[:channels] = (out.bias[:channels] - mean) / deviation
        out.weight[channels:] = 0
        out.bias[channels:] = -30
        return vae.requires_grad_(False).eval()


def train_autoencoder(
    drawings: Drawings,
    file: Path,
    device: torch.device,
    seconds: float,
    report: runs.Report,
    save_every: float,
    seed: int = 0,
    pictures: int = 4000,
) -> Any:
    """An `AutoencoderKL` with deterministic latents of unit size, trained for some seconds."""
    run = AutoencoderRun(drawings, file, device, seed, pictures)
    runs.run_for(run, seconds, report, run.save, save_every)
    return run.finished()


@torch.no_grad()
def encode_pool(
    vae: Any,
    drawings: Drawings,
    count: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, torch.Tensor]:
    """Composes pictures and encodes them, once for all of training.

    Returns:
        "latents" (count, C, h, w) float16; "nouns", "styles", "grounds", each (count,) int64.
    """
    cells = drawings.side // FACTOR
    latents = torch.empty(count, vae.config.latent_channels, cells, cells, dtype=torch.float16)
    facts = torch.empty(3, count, dtype=torch.int64)
    for start in range(0, count, 64):
        end = min(count, start + 64)
        made = [compose(np.random.default_rng([seed, 3, i]), drawings) for i in range(start, end)]
        images = torch.from_numpy(np.stack([m.image for m in made])).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            pixels = to_pixels(images).contiguous(memory_format=torch.channels_last)
            latents[start:end] = vae.encode(pixels).latent_dist.mean.half().cpu()
        facts[:, start:end] = torch.tensor([[m.noun, m.style, m.ground] for m in made]).T
        progress(end)
    return dict(zip(("latents", "nouns", "styles", "grounds"), (latents, *facts), strict=True))
