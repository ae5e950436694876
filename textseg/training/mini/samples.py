"""The sample images of `data/samples`: five small scenes with a fixed layout."""

from __future__ import annotations

from dataclasses import dataclass
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


SAMPLES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float, tuple[Place, ...]]] = {
    "park": (
        (150, 205, 240), (96, 158, 74), 0.55,
        (Place("tree", 0.38, 0.30, 0.56), Place("dog", 0.70, 0.66, 0.44, 1),
         Place("sports ball", 0.84, 1.08, 0.17, 4)),
    ),
    "table": (
        (236, 222, 196), (160, 112, 72), 0.5,
        (Place("apple", 0.68, 0.28, 0.30), Place("cup", 0.60, 0.70, 0.34),
         Place("banana", 0.74, 1.08, 0.36)),
    ),
    "street": (
        (186, 208, 226), (112, 114, 120), 0.6,
        (Place("bus", 0.52, 0.42, 0.52), Place("car", 0.76, 0.98, 0.36, 2),
         Place("traffic light", 0.34, 1.14, 0.34)),
    ),
    "farm": (
        (176, 216, 236), (134, 170, 84), 0.5,
        (Place("tractor", 0.46, 1.02, 0.40), Place("cow", 0.72, 0.30, 0.42, 1),
         Place("horse", 0.66, 0.74, 0.40)),
    ),
    "beach": (
        (128, 200, 232), (232, 208, 150), 0.62,
        (Place("boat", 0.46, 0.30, 0.30), Place("kite", 0.24, 0.96, 0.30),
         Place("crab", 0.82, 0.60, 0.28)),
    ),
}  # fmt: skip


def draw_sample(name: str, sprites: Sprites) -> np.ndarray:
    """One sample, (360, 480, 3) uint8 RGB, of sprites at least 250 pixels long."""
    sky, ground, horizon, places = SAMPLES[name]
    h, w = SIZE
    rng = np.random.default_rng(sum(name.encode()))
    y = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    canvas = np.broadcast_to(np.array(sky, np.float32) + 25 * (y - 0.3), (h, w, 3)).copy()
    soft = cv2.GaussianBlur(rng.standard_normal((h, w)).astype(np.float32), (0, 0), 9)
    texture = (soft / soft.std())[..., None] * 7 + rng.normal(0, 3, (h, w, 1))
    below = (y > horizon)[..., 0] & np.ones((h, w), bool)
    canvas[below] = (np.array(ground, np.float32) + texture)[below]
    for place in places:
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
    for name in SAMPLES:
        pixels = cv2.cvtColor(draw_sample(name, sprites), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{name}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
