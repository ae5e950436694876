"""Cutouts with transparent ground, sorted by noun: `FOLDER/NOUN/*.png`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .nouns import DRAWINGS

STYLES: dict[str, tuple[str, str]] = {
    "noto": ("emoji-datasource-google", "img/google/64/{code}.png"),
    "twemoji": ("emoji-datasource-twitter", "img/twitter/64/{code}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d", "assets/{code}.webp"),
    "openmoji": ("openmoji", "color/svg/{code}.svg"),
}


def _open_drawing(path: Path, side: int) -> Image.Image:
    if path.suffix != ".svg":
        image = Image.open(path).convert("RGBA")
    else:
        import io

        png = subprocess.run(
            ["rsvg-convert", "-w", str(side), "-h", str(side), str(path)],
            check=True,
            capture_output=True,
        ).stdout
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    box = image.getchannel("A").point([255 * (a > 8) for a in range(256)]).getbbox()
    image = image.crop(box) if box else image
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def build_drawings(node_modules: Path, out: Path, styles: Iterable[str], side: int = 96) -> int:
    """Sort the emoji drawings of npm packages by noun.

    Args:
        node_modules: folder that holds `emoji-datasource` and the packages of `STYLES`.
        out: written as `out/STYLE/NOUN/CODE.png`, longest side at most `side` pixels.
        styles: keys of `STYLES`.

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
        package, pattern = STYLES[style]
        for noun, names in DRAWINGS.items():
            folder = out / style / noun.replace(" ", "_")
            for name in names:
                for code in dict.fromkeys(codes[name]):
                    found = [code, code.upper(), code.removesuffix("-fe0f")]
                    paths = [node_modules / package / pattern.format(code=c) for c in found]
                    path = next((p for p in paths if p.exists()), None)
                    if path is not None:
                        folder.mkdir(parents=True, exist_ok=True)
                        _open_drawing(path, side).save(folder / f"{code}.png")
                        written += 1
                        break
    return written


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
