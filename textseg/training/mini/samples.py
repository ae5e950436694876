"""The sample images of `data/samples`: five small scenes with a fixed layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from .scenes import Sprites, paste

SIZE = (360, 480)


@dataclass(frozen=True)
class Place:
    """One object: noun, centre (y, x) and longest side as fractions of the image's height."""

    noun: str
    y: float
    x: float
    side: float
    drawing: int = 0


@dataclass(frozen=True)
class Sample:
    """A scene: colours of sky and ground (RGB), the horizon by the height, objects."""

    sky: tuple[int, int, int]
    ground: tuple[int, int, int]
    horizon: float
    places: Sequence[Place]


@cache
def read_samples() -> dict[str, Sample]:
    """The scenes of `samples.json` by name."""
    data = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {
        name: Sample(**{**each, "places": [Place(**place) for place in each["places"]]})
        for name, each in data.items()
    }


def draw_sample(name: str, sprites: Sprites) -> np.ndarray:
    """One sample, (360, 480, 3) uint8 RGB, of sprites at least 250 pixels long."""
    sample = read_samples()[name]
    h, w = SIZE
    rng = np.random.default_rng(sum(name.encode()))
    y = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    canvas = np.broadcast_to(np.array(sample.sky, np.float32) + 25 * (y - 0.3), (h, w, 3)).copy()
    soft = cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), 9)
    texture = (soft / soft.std())[..., None] * 7 + rng.normal(0, 3, (h, w, 1))
    below = (y > sample.horizon)[..., 0] & np.ones((h, w), bool)
    canvas[below] = (np.array(sample.ground, np.float32) + texture)[below]
    for place in sample.places:
        options = sprites[place.noun]
        sprite = options[place.drawing % len(options)].astype(np.float32)
        scale = place.side * h / max(sprite.shape[:2])
        alpha = sprite[..., 3:] / 255
        solid = cv2.resize(np.dstack([sprite[..., :3] * alpha, alpha]), None, fx=scale, fy=scale,
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        solid[..., :3] /= np.maximum(solid[..., 3:], 1e-3)
        top = int(place.y * h - solid.shape[0] / 2)
        paste(canvas, solid, top, int(place.x * h - solid.shape[1] / 2))
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def write_samples(folder: Path, sprites: Sprites) -> None:
    """Writes every sample as `folder/NAME.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in read_samples():
        pixels = cv2.cvtColor(draw_sample(name, sprites), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{name}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
