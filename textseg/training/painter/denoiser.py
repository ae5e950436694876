"""The painter's denoiser and text encoder, trained together on encoded pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import runs
from ..mini.muon import Muon
from ..mini.networks import SCHEDULE, build_text_encoder
from ..mini.vocabulary import (
    MAX_TOKENS,
    build_tokenizer,
    known_words,
    tokenizer_of,
    vocabulary_of,
)
from .facts import UNET
from .options import PainterOptions
from .scenes import Captions

# Of the logistic normal distribution of noise levels (Esser et al. 2024, arXiv 2403.03206).
_LEVEL, _SPREAD = 0.3, 1.0
# The learning rates fall over this last share of the budget, to this share of themselves.
_DECLINE, _LAST_RATE = 0.25, 0.02


def build_denoiser(channels: int, cells: int, **changed: Any) -> Any:
    """A `UNet2DConditionModel` of 16 M parameters; text enters at a half and a quarter of the
    latents' resolution.

    Args:
        channels, cells: of the latents, and along a side of them.
        changed: entries of `painter.json`'s "unet" to replace.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    config = UNET | changed
    unet = UNet2DConditionModel(
        sample_size=cells, in_channels=channels, out_channels=channels, **config
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


class DenoiserRun:
    """Networks, averaged weights and optimisers (`runs.run_for`); resumes from `file`.

    A step's pictures, captions and noise depend on the seed and its number alone.

    Args:
        pool: what `encode_pool` gives.
        noun_names, style_words: of the `Drawings` it was made of.
        changed: see `build_denoiser`.
    """

    def __init__(
        self,
        pool: dict[str, torch.Tensor],
        noun_names: tuple[str, ...],
        style_words: tuple[str, ...],
        options: PainterOptions,
        file: Path,
        device: torch.device,
        **changed: Any,
    ) -> None:
        torch.manual_seed(options.seed)
        self.options, self.file, self.device = options, file, device
        saved: dict[str, Any] = {}
        if file.exists():
            saved = torch.load(file, weights_only=True, map_location=device)
        self.words = sorted({*known_words(noun_names), *style_words})
        given = saved.get("tokenizer")
        self.tokenizer = build_tokenizer(self.words) if given is None else tokenizer_of(*given)
        self.captions = Captions(noun_names, style_words)
        self.ids = self.tokens(self.captions.texts)
        self.latents = pool["latents"].to(device)
        self.facts = [pool[name].numpy() for name in ("nouns", "styles", "grounds")]
        _, channels, cells, _ = self.latents.shape
        pairs = [
            (build_denoiser(channels, cells, **changed), build_text_encoder(self.tokenizer))
            for _ in range(2)
        ]
        (self.unet, self.text), self.averaged = pairs
        for part in (*pairs[0], *pairs[1]):
            part.to(device, memory_format=torch.channels_last)
        for averaged, model in zip(self.averaged, (self.unet, self.text), strict=True):
            averaged.load_state_dict(model.state_dict())
            averaged.requires_grad_(False)
        tables = {id(p) for m in self.text.modules() if isinstance(m, torch.nn.Embedding)
                  for p in m.parameters()}  # fmt: skip
        self.parameters = [*self.unet.parameters(), *self.text.parameters()]
        matrices = [p for p in self.parameters if p.ndim > 1 and id(p) not in tables]
        rest = [p for p in self.parameters if p.ndim == 1 or id(p) in tables]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=options.matrix_lr, dtype=torch.bfloat16),
            torch.optim.Adam(rest, lr=options.lr, betas=(0.9, 0.99)),
        ]
        self.parts = {
            "models": [self.unet, self.text], "averaged": self.averaged,
            "optimizers": self.optimizers,
        }  # fmt: skip
        first, last = SCHEDULE["beta_start"], SCHEDULE["beta_end"]
        betas = torch.linspace(first**0.5, last**0.5, SCHEDULE["num_train_timesteps"]) ** 2
        self.alpha_bar = torch.cumprod(1 - betas, 0).to(device)
        self.step, self.scenes, self.elapsed = 0, 0, 0.0
        if saved:
            runs.restore(self.parts, saved)
            self.step, self.scenes, self.elapsed = (saved[n] for n in ("step", "scenes", "elapsed"))
        self.predict = torch.compile(self.unet) if device.type == "cuda" else self.unet

    def tokens(self, texts: list[str]) -> torch.Tensor:
        """(N, L) int64, on the device."""
        found = self.tokenizer(
            texts, padding="max_length", max_length=MAX_TOKENS, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        return found.input_ids.to(self.device)

    def save(self) -> None:
        state = runs.states_of(self.parts)
        state |= {"step": self.step, "scenes": self.scenes, "elapsed": self.elapsed}
        runs.save_state(self.file, state | {"tokenizer": vocabulary_of(self.tokenizer)})

    def used(self) -> float:
        """The share of the scenes that are seen; 0 without a limit."""
        return self.scenes / self.options.scenes if self.options.scenes else 0.0

    def update(self, done: float) -> dict[str, float]:
        """One step, where a share `done` of the budget is used up."""
        o = self.options
        rise = min(1.0, (self.step + 1) / max(o.warmup, 1))
        fall = min(1.0, max((1 - done) / _DECLINE, _LAST_RATE))
        runs.set_rates(self.optimizers, (o.matrix_lr, o.lr), rise * fall)
        rng = np.random.default_rng([o.seed, 4, self.step])
        chosen = rng.integers(len(self.latents), size=o.batch)
        numbers = self.captions.draw(rng, *(fact[chosen] for fact in self.facts))
        levels = 1 / (1 + np.exp(-rng.normal(_LEVEL, _SPREAD, o.batch)))
        t = torch.from_numpy((levels * len(self.alpha_bar)).astype(np.int64)).to(self.device)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        x = self.latents[torch.from_numpy(chosen).to(self.device)].float()
        noise = torch.randn(x.shape, generator=generator, device=self.device)
        alpha = self.alpha_bar[t][:, None, None, None]
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
        said, which = np.unique(numbers, return_inverse=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            ids = self.ids[torch.from_numpy(said).to(self.device)]
            text = self.text(ids)[0][torch.from_numpy(which).to(self.device)]
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            predicted = self.predict(noisy, t, text).sample.float()
        loss = F.mse_loss(predicted, velocity)
        runs.descend(loss, self.optimizers, self.parameters)
        self.step += 1
        self.scenes += o.batch
        decay = min(o.ema, (1 + self.step) / (10 + self.step))
        for averaged, model in zip(self.averaged, (self.unet, self.text), strict=True):
            runs.average(averaged, model, decay)
        return {"loss": loss.item()}

    @torch.no_grad()
    def paint(
        self, texts: list[str], seed: int, steps: int = 20, guidance: float = 3.0
    ) -> torch.Tensor:
        """Latents (N, C, h, w) that the averaged weights make of texts, by DDIM."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(**SCHEDULE)  # pyright: ignore[reportArgumentType]
        scheduler.set_timesteps(steps)
        unet, text = self.averaged
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((len(texts), *self.latents.shape[1:]), generator=generator).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            told = text(self.tokens([*texts, *[""] * len(texts)]))[0]
            for t in scheduler.timesteps:
                both = torch.cat([x, x]).contiguous(memory_format=torch.channels_last)
                said, unsaid = unet(both, t, told).sample.float().chunk(2)
                moved: Any = scheduler.step(unsaid + guidance * (said - unsaid), int(t), x)
                x = moved.prev_sample
        return x
