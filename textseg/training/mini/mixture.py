"""The stream of training scenes: drawn, photographed and annotated sources in fixed shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..photo_scenes import Photo, Scene
from .photos import random_scene
from .scenes import SceneOptions, Sprites, compose

MAX_NOUNS = 3


@dataclass
class Mixture:
    """Where training scenes come from.

    Attributes:
        drawn, photographed: cutouts by noun.
        backgrounds: RGB photographs.
        annotated: COCO-format sets, used as whole photographs.
        portraits: photographs of one main object.
        shares: of scenes with drawn cutouts, with photographed ones, with both, of annotated
            photographs and of portraits.
    """

    drawn: Sprites
    photographed: Sprites = field(default_factory=dict)
    backgrounds: Sequence[np.ndarray] = ()
    annotated: Sequence[Sequence[Photo]] = ()
    portraits: Sequence[Photo] = ()
    shares: tuple[float, float, float, float, float] = (0.34, 0.26, 0.12, 0.14, 0.14)
    options: SceneOptions = field(default_factory=SceneOptions)

    def __post_init__(self) -> None:
        present = (bool(self.drawn), bool(self.photographed),
                   bool(self.drawn and self.photographed), bool(self.annotated),
                   bool(self.portraits))  # fmt: skip
        share = np.array(self.shares) * np.array(present)
        self._shares = share / share.sum()
        names = dict.fromkeys([*self.drawn, *self.photographed])
        self._both = {n: [s.get(n, []) for s in (self.drawn, self.photographed)] for n in names}

    def sample(self, rng: np.random.Generator, size: tuple[int, int]) -> Scene:
        """One scene of the given (H, W) with at least one noun."""
        while True:
            kind = rng.choice(5, p=self._shares)
            if kind == 4:
                scene = random_scene(rng, self.portraits, size)
            elif kind == 3:
                photos = self.annotated[int(rng.integers(len(self.annotated)))]
                scene = random_scene(rng, photos, size)
            elif kind == 2:
                both = {n: a if a and (not b or rng.random() < 0.6) else b
                        for n, (a, b) in self._both.items()}  # fmt: skip
                scene = compose(rng, both, size, self.backgrounds, self.options)
            else:
                source = self.drawn if kind == 0 else self.photographed
                scene = compose(rng, source, size, self.backgrounds, self.options)
            if scene is not None and scene.nouns:
                return scene


def scene_batches(
    mixture: Mixture, nouns: Sequence[str], sizes: Sequence[tuple[int, int]], batch: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Endless batches of one size each, as arrays.

    Yields:
        `images` (B, 1 + K, H, W, 3) uint8: the scene, then the scene without each noun;
        `masks` (B, K, H, W) bool; `nouns` (B, K) int64 indices into `nouns`, -1 where unused,
        which is at the end; other nouns of a scene are left out. K is `MAX_NOUNS`.
    """
    index = {n: i for i, n in enumerate(nouns)}
    rng = np.random.default_rng(seed)
    while True:
        h, w = sizes[int(rng.integers(len(sizes)))]
        images = np.zeros((batch, 1 + MAX_NOUNS, h, w, 3), np.uint8)
        masks = np.zeros((batch, MAX_NOUNS, h, w), bool)
        ids = np.full((batch, MAX_NOUNS), -1, np.int64)
        for b in range(batch):
            scene = mixture.sample(rng, (h, w))
            images[b, 0] = scene.image
            known = [i for i, noun in enumerate(scene.nouns) if noun in index]
            for k, i in enumerate(known[:MAX_NOUNS]):
                images[b, 1 + k] = scene.without[i]
                masks[b, k] = scene.masks[i]
                ids[b, k] = index[scene.nouns[i]]
        yield {"images": images, "masks": masks, "nouns": ids}
