"""All that the painter is trained on, in one file of arrays of at most some 60 MB."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...errors import InputError
from ...saving import write_atomic
from ..mini.scenes import load_backgrounds, split_backgrounds
from ..mini.sprites import STYLES as PACKAGES
from ..mini.sprites import build_drawings
from .facts import NOUNS, STYLES

# A photographed ground is kept this much larger than the picture, to be cut anew each time.
_ROOM = 4 / 3


@dataclass(frozen=True)
class Drawings:
    """Cutouts and grounds.

    Attributes:
        cutouts: (N, S, S, 4) uint8 RGBA, each in the middle, its longest side S pixels.
        nouns, styles: (N,) int64, indices of `noun_names` and `style_words`.
        grounds: (G, R, R, 3) uint8 photographs without a subject; G may be 0.
        noun_names, style_words: what captions say.
    """

    cutouts: np.ndarray
    nouns: np.ndarray
    styles: np.ndarray
    grounds: np.ndarray
    noun_names: tuple[str, ...]
    style_words: tuple[str, ...]

    @property
    def side(self) -> int:
        return self.cutouts.shape[1]

    def save(self, file: Path) -> None:
        """Writes the arrays to one file, compressed, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, cutouts=self.cutouts, nouns=self.nouns, styles=self.styles,
            grounds=self.grounds, noun_names=np.array(self.noun_names),
            style_words=np.array(self.style_words),
        )  # fmt: skip
        write_atomic(file, buffer.getvalue())

    @classmethod
    def load(cls, file: Path) -> Drawings:
        """Reads what `save` wrote.

        Raises:
            InputError: no such file.
        """
        try:
            found = np.load(file)
            arrays = [found[name] for name in ("cutouts", "nouns", "styles", "grounds")]
            words = [tuple(map(str, found[name])) for name in ("noun_names", "style_words")]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"drawings must be a file of drawings, got {str(file)!r}") from error
        return cls(*arrays, *words)


def _square(image: Image.Image, side: int) -> np.ndarray:
    """An RGBA cutout in the middle of a square that it fills."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    out = Image.new("RGBA", (side, side))
    resized = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    out.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(out)


def read_drawings(
    folders: Sequence[Path],
    backgrounds: Sequence[Path] = (),
    side: int = 96,
) -> Drawings:
    """Reads cutouts `FOLDER/NOUN/*.png`, and the photographs of `backgrounds` but those held out.

    Args:
        folders: one a style, whose word is that of `STYLES`, or else the folder's name.
        side: pixels of a cutout's longest side.

    Raises:
        InputError: there is no cutout.
    """
    rows: list[tuple[str, str, Path]] = []
    for folder in folders:
        for file in sorted(folder.glob("*/*.png")):
            noun = file.parent.name.replace("_", " ")
            rows.append((STYLES.get(folder.name, folder.name.lower()), noun, file))
    if not rows:
        raise InputError("sources must hold drawings FOLDER/NOUN/*.png, got none")
    words, names = sorted({r[0] for r in rows}), sorted({r[1] for r in rows})
    room = round(_ROOM * side)
    photos = [p for d in backgrounds for p in split_backgrounds(load_backgrounds(d))[0]]
    grounds = [_middle(photo, room) for photo in photos]
    return Drawings(
        np.stack([_square(Image.open(file), side) for *_, file in rows]),
        np.array([names.index(noun) for _, noun, _ in rows]),
        np.array([words.index(word) for word, *_ in rows]),
        np.stack(grounds) if grounds else np.zeros((0, room, room, 3), np.uint8),
        tuple(names),
        tuple(words),
    )


def _middle(photo: np.ndarray, side: int) -> np.ndarray:
    h, w = photo.shape[:2]
    short = min(h, w)
    top, left = (h - short) // 2, (w - short) // 2
    cut = np.ascontiguousarray(photo[top : top + short, left : left + short])
    return cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)


def prepare(
    packages: Path | None,
    drawings: Sequence[Path],
    backgrounds: Sequence[Path],
    file: Path,
    side: int,
) -> Drawings:
    """The drawings of npm packages and of folders, read once; the second time, from `file`.

    Args:
        packages: a `node_modules` folder with some of the packages of `mini.sprites.STYLES`, of
            whose drawings those of `NOUNS` are taken.
        drawings, backgrounds, side: see `read_drawings`.

    Raises:
        InputError: no drawings, or `file` holds those of another side.
    """
    if file.exists():
        kept = Drawings.load(file)
        if kept.side != side:
            raise InputError(f"side must be {kept.side} as in {str(file)!r}, got {side}")
        return kept
    with tempfile.TemporaryDirectory() as built:
        folders = list(drawings)
        if packages is not None:
            here = [s for s in STYLES if (packages / PACKAGES[s][0]).is_dir()]
            build_drawings(packages, Path(built), here, side, NOUNS)
            folders += [Path(built) / s for s in here]
        found = read_drawings(folders, backgrounds, side)
    found.save(file)
    return found
