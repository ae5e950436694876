"""A diffusion model that knows where things are: an oracle for the whole path.

Its noise prediction is right, but for an error inside each thing's rectangle: none where the prompt
names the thing, 0.5 where it does not, 1.0 where it says "without" it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from textseg.backbone.base import Backbone
from textseg.options import ContrastOptions, RefineOptions

VOCABULARY = ("", "a", "an", "the", "of", "photo", "photograph", "and", "without", "dog", "ball",
              "cat", "boat")  # fmt: skip
LENGTH = 12
WITHOUT = VOCABULARY.index("without")

Box = tuple[float, float, float, float]


class FakeBackbone(Backbone):
    """Things at `boxes`: word -> (top, left, bottom, right) as fractions of the image's sides."""

    def __init__(
        self,
        boxes: Mapping[str, Box],
        *,
        contrast: ContrastOptions | None = None,
        refine: RefineOptions | None = None,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        self.boxes = dict(boxes)
        self.name, self.family = "fake", "latent-unet"
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.native_size, self.multiple, self.factor = 64, 8, 4
        self.num_train_timesteps = 1000
        self.calibration = calibration or {}
        self.contrast_defaults = contrast or ContrastOptions(samples=4, batch_size=2)
        self.refine_defaults = refine or RefineOptions.off()
        self.calls: list[tuple[int, int]] = []
        """One (draws, timestep) for each call of `predict`."""
        self.encoded = 0

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        scale = self.native_size / math.sqrt(height * width)

        def side(pixels: int) -> int:
            return min(max(round(pixels * scale / self.multiple), 1), 64) * self.multiple

        return side(height), side(width)

    def encode(self, image: np.ndarray) -> torch.Tensor:
        assert image.dtype == np.uint8
        height, width = image.shape[:2]
        assert height % self.multiple == 0
        assert width % self.multiple == 0
        self.encoded += 1
        cells = torch.from_numpy(image).float().permute(2, 0, 1)
        pooled = torch.nn.functional.avg_pool2d(cells[None], self.factor)[0]
        return torch.cat([pooled, pooled[:1]]) / 2550

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        pixels = (latents[:3] * 2550).clamp(0, 255).round().byte().permute(1, 2, 0)
        return pixels.repeat_interleave(4, 0).repeat_interleave(4, 1).numpy()

    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        embedded = torch.zeros(len(prompts), LENGTH, len(VOCABULARY))
        for row, prompt in enumerate(prompts):
            known = [w for w in _words(prompt) if w in VOCABULARY][:LENGTH]
            for position, word in enumerate(known):
                embedded[row, position, VOCABULARY.index(word)] = 1
        return embedded

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in _words(prompt) if word not in VOCABULARY]

    def truncated_words(self, prompt: str) -> str:
        return " ".join(_words(prompt)[LENGTH:])

    def timestep(self, strength: float) -> int:
        return min(int(strength * 1000), 999)

    def alpha_bar(self, t: int) -> float:
        return 1 - (t + 1) / 1001

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        a = self.alpha_bar(t)
        return a**0.5 * latents[None] + (1 - a) ** 0.5 * noise

    def predict(
        self,
        noisy: torch.Tensor,
        t: int,
        embedding: torch.Tensor,
        *,
        noisy_at: int | None = None,
    ) -> torch.Tensor:
        self.calls.append((len(noisy), t))
        if embedding.ndim == 2:
            embedding = embedding.expand(len(noisy), *embedding.shape)
        eps = noisy / (1 - self.alpha_bar(t)) ** 0.5
        height, width = noisy.shape[-2:]
        for word, (top, left, bottom, right) in self.boxes.items():
            rows = slice(round(top * height), round(bottom * height))
            columns = slice(round(left * width), round(right * width))
            said = embedding[:, :, VOCABULARY.index(word)].sum(1) > 0
            denied = said & (embedding[:, :, WITHOUT].sum(1) > 0)
            error = torch.where(denied, 1.0, torch.where(said, 0.0, 0.5))
            eps[:, :, rows, columns] += error[:, None, None, None]
        return eps


def _words(prompt: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", prompt.lower())
