"""Composed scenes: named cutouts pasted on backgrounds, with exact masks.

A scene can be composed again with one noun left out, which is the target of the counterfactual
caption "without NOUN".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...checks import RISING, SHARE, between, option, several, validate
from ..photo_scenes import Scene

Sprites = dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class SceneOptions:
    """How scenes are composed.

    Attributes:
        counts: probabilities of 1, 2, 3, ... objects.
        scale: smallest and largest longest side of an object, as a fraction of the image's sides'
            geometric mean.
        rotation: largest rotation in degrees.
        repeat: probability that an object repeats a noun already placed.
        min_visible: an object hidden further than this fraction is placed elsewhere.
        photo_backgrounds: probability of a photographed background where some are given.
        blend: probability that an object's colours are drawn towards the background's.
        degrade: probability of blur, noise, a tone curve and JPEG over the whole scene.
        restyle: probability that an object is drawn in another manner (`restyle`).
    """

    counts: tuple[float, ...] = option((0.2, 0.4, 0.4), several(SHARE, "numbers in [0, 1]"))
    scale: tuple[float, float] = option((0.24, 0.6), RISING)
    rotation: float = option(20.0, between(0, 180))
    repeat: float = option(0.08, SHARE)
    min_visible: float = option(0.6, SHARE)
    photo_backgrounds: float = option(0.5, SHARE)
    blend: float = option(0.0, SHARE)
    degrade: float = option(0.0, SHARE)
    restyle: float = option(0.0, SHARE)

    __post_init__ = validate


_DEFAULTS = SceneOptions()


def _palette(rng: np.random.Generator, n: int, low: float = 20, high: float = 245) -> np.ndarray:
    return rng.uniform(low, high, (n, 3)).astype(np.float32)


def _cloud(rng: np.random.Generator, h: int, w: int, cells: int) -> np.ndarray:
    grid = rng.standard_normal((max(2, cells * h // max(h, w)), max(2, cells * w // max(h, w))))
    field_ = cv2.resize(grid.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    return (field_ - field_.min()) / (np.ptp(field_) + 1e-6)


def draw_background(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A procedural background, (h, w, 3) uint8: horizon, clouds, stripes, tiles or blobs."""
    kind = rng.choice(6, p=(0.3, 0.15, 0.2, 0.1, 0.1, 0.15))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    y, x = y / h, x / w
    a, b, c = _palette(rng, 3)
    if kind == 0:
        horizon = rng.uniform(0.3, 0.75)
        edge = horizon + rng.uniform(0, 0.08) * np.sin(x * rng.uniform(3, 12) + rng.uniform(0, 6))
        sky = a + (y[..., None] / horizon) * rng.uniform(0, 0.6) * (b - a)
        ground = c * (0.8 + 0.4 * _cloud(rng, h, w, int(rng.integers(4, 24))))[..., None]
        out = np.where((y > edge)[..., None], ground, sky)
    elif kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
        out = a + ramp[..., None] * (b - a)
    elif kind == 2:
        mix = 0.7 * _cloud(rng, h, w, int(rng.integers(2, 8))) + 0.3 * _cloud(rng, h, w, 20)
        out = a + mix[..., None] * (b - a)
    elif kind == 3:
        angle, rate = rng.uniform(0, np.pi), rng.uniform(3, 14)
        wave = np.sin(2 * np.pi * rate * (x * np.cos(angle) + y * np.sin(angle)))
        wave = wave if rng.random() < 0.5 else np.sign(wave)
        out = a + (0.5 + 0.5 * wave)[..., None] * rng.uniform(0.2, 1) * (b - a)
    elif kind == 4:
        n = rng.integers(3, 10)
        tiles = ((x * n * w / h).astype(int) + (y * n).astype(int)) % 2
        out = a + tiles[..., None] * rng.uniform(0.15, 1) * (b - a)
    else:
        out = np.broadcast_to(a, (h, w, 3)).copy()
        for colour in _palette(rng, int(rng.integers(3, 9))):
            cy, cx, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.35)
            inside = ((y - cy) ** 2 + (x - cx) ** 2) < r * r
            out[inside] = colour
        out = cv2.GaussianBlur(out.astype(np.float32), (0, 0), rng.uniform(0.5, 6))
    noise = rng.normal(0, rng.uniform(0, 8), (h, w, 1)) + rng.normal(0, 2, (h, w, 3))
    return np.clip(out + noise, 0, 255).astype(np.uint8)


def crop_photo(rng: np.random.Generator, photo: np.ndarray, h: int, w: int) -> np.ndarray:
    """A random crop of a photograph, (h, w, 3) uint8, randomly mirrored."""
    ph, pw = photo.shape[:2]
    zoom = rng.uniform(0.6, 1.0) * min(ph / h, pw / w)
    ch, cw = max(1, int(h * zoom)), max(1, int(w * zoom))
    y, x = rng.integers(0, ph - ch + 1), rng.integers(0, pw - cw + 1)
    out = cv2.resize(photo[y : y + ch, x : x + cw], (w, h), interpolation=cv2.INTER_AREA)
    return out[:, ::-1] if rng.random() < 0.5 else out


def _vary(rng: np.random.Generator, sprite: np.ndarray, side: float, rotation: float) -> np.ndarray:
    """A sprite scaled to `side`, rotated, mirrored and recoloured a little; RGBA float32."""
    h, w = sprite.shape[:2]
    scale = side / max(h, w)
    angle = np.deg2rad(rng.uniform(-rotation, rotation))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    aspect = rng.uniform(0.85, 1.18)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    matrix = np.array([[cos * flip * aspect, -sin], [sin * flip * aspect, cos]], np.float32)
    corners = matrix @ np.array([[-w, w, -w, w], [-h, -h, h, h]], np.float32) / 2
    low = corners.min(1)
    out_w, out_h = np.ceil(np.ptp(corners, axis=1)).astype(int) + 1
    shift = -low - matrix @ np.array([w / 2, h / 2], np.float32)
    affine = np.hstack([matrix, shift[:, None]])
    source = sprite.astype(np.float32)
    source[..., :3] *= source[..., 3:] / 255
    if scale < 0.7:
        source = cv2.GaussianBlur(source, (0, 0), 0.35 / scale)
    warped = cv2.warpAffine(source, affine, (int(out_w), int(out_h)), flags=cv2.INTER_LINEAR)
    alpha = warped[..., 3:] / 255
    rgb = warped[..., :3] / np.maximum(alpha, 1e-3)
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)
    rgb = np.clip((rgb - 128) * rng.uniform(0.8, 1.15) + 128 + rng.uniform(-18, 18), 0, 255) * gain
    return np.concatenate([np.clip(rgb, 0, 255), alpha], axis=2).astype(np.float32)


def restyle(rng: np.random.Generator, sprite: np.ndarray) -> np.ndarray:
    """A cutout drawn in another manner: bent, other hues, flat fills, outlined.

    What is left is what a noun's pictures share whoever draws them: the shape and its parts.

    Args:
        sprite: (h, w, 4) uint8 RGBA.

    Returns:
        The same shape and dtype.
    """
    h, w = sprite.shape[:2]
    source = sprite.astype(np.float32)
    source[..., :3] *= source[..., 3:] / 255
    if rng.random() < 0.6:
        bend = rng.uniform(0.02, 0.07) * max(h, w)
        grid = cv2.resize(
            rng.uniform(-bend, bend, (4, 4, 2)).astype(np.float32), (w, h),
            interpolation=cv2.INTER_CUBIC,
        )  # fmt: skip
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        source = cv2.remap(source, x + grid[..., 0], y + grid[..., 1], cv2.INTER_LINEAR)
    alpha = source[..., 3]
    rgb = np.clip(source[..., :3] / np.maximum(alpha[..., None] / 255, 1e-3), 0, 255)
    flat = rng.random() < 0.5
    if flat:
        rgb = cv2.medianBlur(rgb.astype(np.uint8), 5).astype(np.float32)
        step = 255 / int(rng.integers(2, 6))
        rgb = np.clip(np.round(rgb / step) * step, 0, 255).astype(np.float32)
    if rng.random() < 0.6:
        hsv = cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 40)) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0, 1.6), 0, 1)
        rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    if rng.random() < 0.5:
        ink = rng.uniform(0, 50, 3) if rng.random() < 0.8 else rng.uniform(200, 255, 3)
        width = int(rng.integers(1, 1 + max(2, max(h, w) // 24)))
        solid = (alpha > 128).astype(np.uint8)
        padded = cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inside = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
        lines = (solid - inside).astype(np.float32)
        if flat:
            grey = cv2.cvtColor(rgb.astype(np.uint8), cv2.COLOR_RGB2GRAY)
            change = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
            lines = np.maximum(lines, solid * (change > rng.uniform(25, 70)))
        lines = cv2.GaussianBlur(lines, (0, 0), 0.6)[..., None]
        rgb = rgb + lines * (ink - rgb)
    return np.dstack([np.clip(rgb, 0, 255), alpha]).astype(np.uint8)


def _blend(rng: np.random.Generator, layer: np.ndarray, ground: np.ndarray) -> None:
    """Draws a layer's mean colour and contrast some way towards the background's, in place."""
    inside = layer[..., 3] > 0.5
    if not inside.any():
        return
    mean, spread = layer[inside, :3].mean(0), layer[inside, :3].std() + 1e-3
    flat = ground.reshape(-1, 3)
    share = rng.uniform(0.1, 0.5)
    gain = 1 + share * (np.clip(flat.std() / spread, 0.6, 1.6) - 1)
    aim = mean + share * (flat.mean(0) - mean)
    layer[..., :3] = np.clip((layer[..., :3] - mean) * gain + aim, 0, 255)


def camera(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A random camera: tone curve, white balance, blur, noise and JPEG, the same on every call."""
    gamma, balance = np.exp(rng.normal(0, 0.2)), np.exp(rng.normal(0, 0.06, 3))
    blur = rng.uniform(0.3, 0.9) if rng.random() < 0.4 else 0.0
    grain = rng.uniform(1, 9) if rng.random() < 0.4 else 0.0
    grey = rng.random() < 0.05
    quality, seed = int(rng.integers(30, 95)), int(rng.integers(2**31))
    table = 255 * (np.arange(256) / 255) ** gamma

    def shoot(image: np.ndarray) -> np.ndarray:
        out = table[image].astype(np.float32) * balance.astype(np.float32)
        out = out.mean(2, keepdims=True).repeat(3, 2) if grey else out
        out = cv2.GaussianBlur(out, (0, 0), blur) if blur else out
        if grain:
            noise = np.random.default_rng(seed).standard_normal(out.shape, np.float32)
            out = out + grain * noise
        small = np.clip(out, 0, 255).astype(np.uint8)
        coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))

    return shoot


def _window(
    layer: np.ndarray, y: int, x: int, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The part of a layer that lies within a canvas, and where it lies there."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + layer.shape[0], size[0]), min(x + layer.shape[1], size[1])
    part = layer[top - y : bottom - y, left - x : right - x]
    return part, (slice(top, bottom), slice(left, right))


def paste(canvas: np.ndarray, layer: np.ndarray, y: int, x: int) -> None:
    """Blends a layer (RGB 0 to 255, alpha 0 to 1) into a float canvas at its top left corner."""
    part, place = _window(layer, y, x, (canvas.shape[0], canvas.shape[1]))
    view = canvas[place]
    view += part[..., 3:] * (part[..., :3] - view)


def _alpha(layer: np.ndarray, y: int, x: int, h: int, w: int) -> np.ndarray:
    part, place = _window(layer, y, x, (h, w))
    out = np.zeros((h, w), np.float32)
    out[place] = part[..., 3]
    return out


def compose(
    rng: np.random.Generator,
    sprites: Sprites,
    size: tuple[int, int],
    backgrounds: Sequence[np.ndarray] = (),
    options: SceneOptions = _DEFAULTS,
) -> Scene:
    """Draw one scene.

    Args:
        rng: source of every choice; the same state gives the same scene.
        sprites: RGBA uint8 cutouts by noun.
        size: (H, W) in pixels.
        backgrounds: RGB uint8 photographs; procedural backgrounds where empty.
        options: see `SceneOptions`.
    """
    h, w = size
    if len(backgrounds) and rng.random() < options.photo_backgrounds:
        ground = crop_photo(rng, backgrounds[int(rng.integers(len(backgrounds)))], h, w)
    else:
        ground = draw_background(rng, h, w)
    names = list(sprites)
    layers: list[tuple[str, np.ndarray, int, int]] = []
    alphas: list[np.ndarray] = []
    wanted = int(rng.choice(len(options.counts), p=options.counts)) + 1
    for _ in range(wanted):
        repeat = layers and rng.random() < options.repeat
        noun = layers[-1][0] if repeat else names[rng.integers(len(names))]
        sprite = sprites[noun][rng.integers(len(sprites[noun]))]
        drawn = sprite
        if options.restyle and rng.random() < options.restyle:
            drawn = restyle(rng, sprite)
        for _try in range(8):
            side = np.exp(rng.uniform(*np.log(options.scale))) * np.sqrt(h * w)
            layer = _vary(rng, drawn, side, options.rotation)
            lh, lw = layer.shape[:2]
            y = int(rng.integers(-lh // 5, max(h - lh + lh // 5, -lh // 5 + 1)))
            x = int(rng.integers(-lw // 5, max(w - lw + lw // 5, -lw // 5 + 1)))
            alpha = _alpha(layer, y, x, h, w)
            hidden = [1 - (a * (1 - alpha)).sum() / max(a.sum(), 1) for a in alphas]
            if alpha.sum() >= 0.004 * h * w and max(hidden, default=0) <= 1 - options.min_visible:
                if options.blend and rng.random() < options.blend:
                    _blend(rng, layer, ground)
                layers.append((noun, layer, y, x))
                alphas = [a * (1 - alpha) for a in alphas] + [alpha]
                break
    nouns = tuple(dict.fromkeys(layer[0] for layer in layers))
    finish = camera(rng) if options.degrade and rng.random() < options.degrade else None

    def render(skip: str | None) -> np.ndarray:
        canvas = ground.astype(np.float32)
        for noun, layer, y, x in layers:
            if noun != skip:
                paste(canvas, layer, y, x)
        picture = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
        return finish(picture) if finish else picture

    instances = tuple((layer[0], a > 0.5) for layer, a in zip(layers, alphas, strict=True))
    masks = [np.any([m for name, m in instances if name == noun], axis=0) for noun in nouns]
    return Scene(
        image=render(None),
        nouns=nouns,
        masks=np.stack(masks) if masks else np.zeros((0, h, w), bool),
        without=np.stack([render(noun) for noun in nouns])
        if nouns
        else np.zeros((0, h, w, 3), np.uint8),
        instances=instances,
    )


def load_backgrounds(folder: Path, limit: int | None = None) -> list[np.ndarray]:
    """Read the photographs of a folder as RGB uint8 arrays, in the order of their names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    images = [cv2.imread(str(p), cv2.IMREAD_COLOR) for p in paths[:limit]]
    return [cv2.cvtColor(im, cv2.COLOR_BGR2RGB) for im in images if im is not None]


def split_backgrounds(photos: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], ...]:
    """Backgrounds to train on, and those held out: the last 15 %."""
    trained = round(0.85 * len(photos))
    return photos[:trained], photos[trained:]
