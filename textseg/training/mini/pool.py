"""Encoded scenes that are kept, to be drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .analysis import CHANNELS, to_pixels
from .semantics import Semantics

# Share of a cell that a mask covers, from which the cell counts as changed.
TOUCHED = 0.1


class Pool:
    """Scenes of one image size, the oldest replaced first.

    What a classifier sees in a scene without one of its nouns is looked at when it is first asked
    for: most never are.
    """

    def __init__(self, limit: int, semantics: Semantics) -> None:
        self.limit, self.semantics = limit, semantics
        self.scenes: list[dict[str, torch.Tensor]] = []
        self._next = 0

    def add(self, scene: dict[str, torch.Tensor]) -> None:
        """Adds a scene: `pixels` (1 + K, C, h, w) latents, `seen` (S, h', w') of the whole scene,
        `masks` (K, h, w) cell shares, `nouns` (K,), `images` (K, H, W, 3) uint8 without each."""
        if len(self.scenes) < self.limit:
            self.scenes.append(scene)
        else:
            self.scenes[self._next] = scene
            self._next = (self._next + 1) % self.limit

    def draw(self, rng: np.random.Generator, n: int) -> list[dict[str, torch.Tensor]]:
        """n random scenes."""
        return [self.scenes[i] for i in rng.integers(len(self.scenes), size=n)]

    def clean(self, scenes: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """The latents (B, C, h, w) float32 of whole scenes."""
        return self._joined([s["pixels"][0] for s in scenes], [s["seen"] for s in scenes])

    def without(
        self, scenes: Sequence[dict[str, torch.Tensor]], slots: Sequence[int], whole: torch.Tensor
    ) -> torch.Tensor:
        """The latents (B, C, h, w) of scenes without the noun in a slot; those of the `whole`
        scenes (`clean`) where it is -1.

        What the classifier sees changes far around an object; it is changed inside the mask only.
        """
        missing = [(s, k) for s, k in zip(scenes, slots, strict=True)
                   if k >= 0 and f"seen {k}" not in s]  # fmt: skip
        if missing:
            images = torch.stack([s["images"][k] for s, k in missing])
            seen = self.semantics(to_pixels(images)).half()
            for (scene, k), found in zip(missing, seen, strict=True):
                scene[f"seen {k}"] = found
        pixels = [s["pixels"][k + 1] for s, k in zip(scenes, slots, strict=True)]
        seen = [s[f"seen {k}"] if k >= 0 else s["seen"] for s, k in zip(scenes, slots, strict=True)]
        changed = self._joined(pixels, seen)
        for i, (scene, k) in enumerate(zip(scenes, slots, strict=True)):
            if k >= 0:
                outside = scene["masks"][k] < TOUCHED
                changed[i, CHANNELS:, outside] = whole[i, CHANNELS:, outside]
        return changed

    def _joined(self, pixels: list[torch.Tensor], seen: list[torch.Tensor]) -> torch.Tensor:
        first = torch.stack(pixels).float()
        last = F.interpolate(
            torch.stack(seen).float(), first.shape[2:], mode="bilinear", align_corners=False
        )
        return torch.cat([first, last], 1)
