"""Cutouts with transparent ground, sorted by noun: `FOLDER/NOUN/*.png`."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from .nouns import DRAWINGS

STYLES: dict[str, tuple[str, str]] = {
    "noto": ("emoji-datasource-google", "img/google/64/{code}.png"),
    "twemoji": ("emoji-datasource-twitter", "img/twitter/64/{code}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d", "assets/{code}.webp"),
    "noto-v1": ("@iconify-json/noto-v1", "{name}"),
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "{name}"),
    "emojione": ("@iconify-json/emojione", "{name}"),
    "fxemoji": ("@iconify-json/fxemoji", "{joined}"),
    "streamline": ("@iconify-json/streamline-emojis", "{name}"),
    "monotone": ("@iconify-json/emojione-monotone", "{name}"),
    "high-contrast": ("@iconify-json/fluent-emoji-high-contrast", "{name}"),
    "emojione-v1": ("@iconify-json/emojione-v1", "{name}"),
    "openmoji": ("openmoji", "color/svg/{code}.svg"),
}
# Drawn in black lines alone, and the style of the same shapes that has their colours; coloured in
# (`colour_in`) in these and in others.
LINES = {"monotone": "emojione", "high-contrast": "fluent-flat"}
COLOURINGS = 2


def _render(svg: bytes, side: int) -> Image.Image:
    command = ["rsvg-convert", "-w", str(side), "-h", str(side)]
    png = subprocess.run(command, input=svg, check=True, capture_output=True).stdout
    return Image.open(io.BytesIO(png))


def render_icon(
    listing: dict[str, Any], name: str, side: int, colour: str = "currentColor"
) -> Image.Image:
    """An icon of an `icons.json`, (side, side) RGBA.

    Args:
        colour: of what has none of its own, as SVG spells it.
    """
    icon = listing["icons"][name]
    w, h = (icon.get(k, listing.get(k, 16)) for k in ("width", "height"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" '
    head += 'xmlns:xlink="http://www.w3.org/1999/xlink">'
    return _render(f"{head}{icon['body']}</svg>".replace("currentColor", colour).encode(), side)


class _Style:
    """The drawings of one package, by code point: files, or one file of icons (iconify)."""

    def __init__(self, node_modules: Path, package: str, pattern: str) -> None:
        self.folder, self.pattern = node_modules / package, pattern
        self.icons: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        if "{code}" not in pattern:
            self.icons = json.loads((self.folder / "icons.json").read_text())
            listing = node_modules / STYLES["fluent-flat"][0] / "chars.json"
            self.names = json.loads(listing.read_text())

    def find(self, code: str, side: int) -> Image.Image | None:
        """The drawing of a code point (`1f415`, `1f415-200d-1f9ba`), None where there is none."""
        spellings = dict.fromkeys([code, code.upper(), code.replace("-fe0f", "")])
        if not self.icons:
            paths = [self.folder / self.pattern.format(code=c) for c in spellings]
            path = next((p for p in paths if p.exists()), None)
            if path is None:
                return None
            return _render(path.read_bytes(), side) if path.suffix == ".svg" else Image.open(path)
        name = next((self.names[c] for c in spellings if c in self.names), None)
        if name is None:
            return None
        wanted = self.pattern.format(name=name, joined=name.replace("-", ""))
        return render_icon(self.icons, wanted, side) if wanted in self.icons["icons"] else None


def _trim(image: Image.Image, side: int) -> Image.Image:
    image = image.convert("RGBA")
    box = image.getchannel("A").point([255 * (a > 8) for a in range(256)]).getbbox()
    image = image.crop(box) if box else image
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def colour_in(
    lines: np.ndarray, rng: np.random.Generator, coloured: np.ndarray | None = None
) -> np.ndarray:
    """A drawing of black lines with every area that they enclose filled by one colour.

    Args:
        lines: (h, w, 4) uint8 RGBA, transparent where there are no lines.
        rng: chooses the colours.
        coloured: (h, w, 4) uint8 RGBA, the same drawing in colours: an area takes its mean there.

    Returns:
        The same shape and dtype, opaque within the outline.
    """
    ink = np.pad(lines[..., 3], 1).astype(np.float32)[..., None] / 255
    _, areas = cv2.connectedComponents((ink[..., 0] < 0.5).astype(np.uint8), connectivity=4)
    count = int(areas.max()) + 1
    colours = np.clip(rng.uniform(60, 255, 3) + rng.normal(0, 70, (count, 3)), 0, 255)
    colours[rng.random(count) < 0.2] = 255
    if coloured is not None:
        given = np.pad(coloured, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
        solid = given[..., 3] > 128
        shown = np.bincount(areas[solid], minlength=count)
        means = [np.bincount(areas[solid], given[solid, c], count) for c in range(3)]
        known = shown > 0
        colours[known] = np.stack(means, 1)[known] / shown[known, None]
    # Under a line lies what is nearest to it.
    _, nearest = cv2.distanceTransformWithLabels(
        (areas == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    area_of = np.zeros(int(nearest.max()) + 1, np.int32)
    area_of[nearest[areas > 0]] = areas[areas > 0]
    under = area_of[nearest]
    outside = under == areas[0, 0]
    rgb = np.where(outside[..., None], 0.0, colours[under] * (1 - ink))
    alpha = np.where(outside, ink[..., 0], 1.0)
    return np.dstack([rgb, 255 * alpha]).astype(np.uint8)[1:-1, 1:-1]


def _variants(
    style: str, code: str, found: Image.Image, guide: _Style | None, side: int
) -> list[tuple[str, Image.Image]]:
    """Names and images to keep of one drawing."""
    if style not in LINES:
        return [(code, found)]
    lines = np.asarray(found.convert("RGBA"))
    same = guide.find(code, side) if guide else None
    coloured = None if same is None else np.asarray(same.convert("RGBA").resize(found.size))
    rng = np.random.default_rng(list(code.encode()))
    return [
        (f"{code}-{i}", Image.fromarray(colour_in(lines, rng, None if i else coloured)))
        for i in range(COLOURINGS)
    ]


def build_drawings(
    node_modules: Path,
    out: Path,
    styles: Iterable[str],
    side: int = 96,
    nouns: Iterable[str] = DRAWINGS,
) -> int:
    """Sort the emoji drawings of npm packages by noun.

    Args:
        node_modules: folder that holds `emoji-datasource` and the packages of `STYLES`.
        out: written as `out/STYLE/NOUN/CODE.png`, longest side at most `side` pixels; `LINES` are
            coloured in, `COLOURINGS` times each, as `CODE-0.png`, `CODE-1.png`, ...
        styles: keys of `STYLES`.
        nouns: keys of `nouns.DRAWINGS`.

    Returns:
        The number of drawings written. Drawings a style lacks are skipped.
    """
    listing = json.loads((node_modules / "emoji-datasource" / "emoji.json").read_text())
    codes = {
        name: (entry["unified"].lower(), (entry["non_qualified"] or entry["unified"]).lower())
        for entry in listing
        for name in entry["short_names"]
    }
    written = 0
    for style in styles:
        drawings = _Style(node_modules, *STYLES[style])
        guide = _Style(node_modules, *STYLES[LINES[style]]) if style in LINES else None
        for noun in nouns:
            folder = out / style / noun.replace(" ", "_")
            for name in DRAWINGS[noun]:
                for code in dict.fromkeys(codes[name]):
                    found = drawings.find(code, side)
                    if found is None:
                        continue
                    folder.mkdir(parents=True, exist_ok=True)
                    for stem, image in _variants(style, code, found, guide, side):
                        _trim(image, side).save(folder / f"{stem}.png")
                        written += 1
                    break
    return written


def split_cutouts(sprites: dict[str, list[np.ndarray]]) -> tuple[dict[str, list[np.ndarray]], ...]:
    """Cutouts to train on, and those held out: every fifth of a noun, where it has as many."""
    trained = {n: [s for i, s in enumerate(found) if i % 5 != 4] for n, found in sprites.items()}
    return trained, {n: found[4::5] for n, found in sprites.items() if len(found) > 4}


def load_sprites(folders: Iterable[Path], side: int = 96) -> dict[str, list[np.ndarray]]:
    """Read `FOLDER/NOUN/*.png` of several folders into RGBA uint8 arrays by noun.

    Underscores in a folder's name are spaces of the noun. Longest side at most `side` pixels.
    """
    sprites: dict[str, list[np.ndarray]] = {}
    for root in folders:
        for path in sorted(root.glob("*/*.png")):
            image = Image.open(path).convert("RGBA")
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            sprites.setdefault(path.parent.name.replace("_", " "), []).append(np.asarray(image))
    return sprites
