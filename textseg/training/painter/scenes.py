"""Pictures of one large object, and what may be said of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...english import with_article
from ..mini.scenes import crop_photo
from .drawings import Drawings
from .facts import UNSTYLED

PLAIN, DRAWN, PHOTO = range(3)
"""Kinds of ground: one colour; a horizon or a gradient; a photograph."""
_GROUNDS = (0.5, 0.3, 0.2)
# Longest side of the object, as a share of the picture's.
_SCALES = {PLAIN: (0.65, 0.96), DRAWN: (0.6, 0.96), PHOTO: (0.4, 0.92)}
_WHITE = 0.4
# Of pictures whose noun is drawn in `UNSTYLED`, those that are of that style.
_UNSTYLED_SHARE = 0.55
_TURN = 6.0
_STYLED = "{styled}"
_DRAWN_TEMPLATES = ("a drawing of {a}", _STYLED, "{a}", "a picture of {a}")
_PHOTO_TEMPLATES = ("a photo of {a}", "a photo of {a}", "{a}", "a picture of {a}")
_WEIGHTS = (0.35, 0.4, 0.17, 0.08)
# The text of one caption in ten is left out.
_SILENT = 0.1


@dataclass(frozen=True)
class Picture:
    """Attributes: `image` (S, S, 3) uint8; indices of its `noun` and `style`; kind of `ground`."""

    image: np.ndarray
    noun: int
    style: int
    ground: int


def _colour(rng: np.random.Generator) -> np.ndarray:
    light = rng.uniform(150, 245) if rng.random() < 0.75 else rng.uniform(30, 150)
    return np.clip(light + rng.normal(0, 35, 3), 0, 255)


def _ground(rng: np.random.Generator, kind: int, drawings: Drawings) -> np.ndarray:
    side = drawings.side
    if kind == PHOTO:
        photo = drawings.grounds[int(rng.integers(len(drawings.grounds)))]
        return crop_photo(rng, photo, side, side)
    if kind == PLAIN and rng.random() < _WHITE:
        return np.full((side, side, 3), 255, np.uint8)
    first, second = (_colour(rng) for _ in range(2))
    if kind == PLAIN:
        share = np.zeros((side, side))
    elif rng.random() < 0.5:
        share = np.ones((side, side))
        share[: int(rng.uniform(0.35, 0.8) * side)] = 0
    else:
        y, x = np.mgrid[0:side, 0:side] / side - 0.5
        angle = rng.uniform(0, 2 * np.pi)
        share = np.clip(0.5 + np.cos(angle) * x + np.sin(angle) * y, 0, 1)
    return (first + share[..., None] * (second - first)).astype(np.uint8)


def compose(rng: np.random.Generator, drawings: Drawings) -> Picture:
    """One object, mirrored or not, turned a little, on a plain, drawn or photographed ground.

    Nouns are drawn evenly, then styles that have the noun, `UNSTYLED` more often than others, then
    drawings of both.
    """
    noun = int(rng.integers(len(drawings.noun_names)))
    of_noun = np.flatnonzero(drawings.nouns == noun)
    styles = np.unique(drawings.styles[of_noun])
    plain = np.array([drawings.style_words[style] == UNSTYLED for style in styles])
    if plain.any() and rng.random() < _UNSTYLED_SHARE:
        styles = styles[plain]
    style = int(rng.choice(styles))
    which = int(rng.choice(of_noun[drawings.styles[of_noun] == style]))
    shares = np.array(_GROUNDS) * (1, 1, len(drawings.grounds) > 0)
    kind = int(rng.choice(3, p=shares / shares.sum()))
    side = drawings.side
    scale = rng.uniform(*_SCALES[kind])
    free = (1 - scale) * side / 2
    centre = (side - 1) / 2 + rng.uniform(-free, free, 2)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, rng.normal(0, _TURN / 2), scale)
    if rng.random() < 0.5:
        turn = turn @ np.array([[-1, 0, side - 1], [0, 1, 0], [0, 0, 1]])
    turn[:, 2] += centre - (side - 1) / 2
    cutout = drawings.cutouts[which].astype(np.float32)
    cutout[..., :3] *= cutout[..., 3:] / 255
    pasted = cv2.warpAffine(cutout, turn, (side, side), flags=cv2.INTER_LINEAR)
    ground = _ground(rng, kind, drawings)
    image = pasted[..., :3] + ground * (1 - pasted[..., 3:] / 255)
    return Picture(np.clip(image + 0.5, 0, 255).astype(np.uint8), noun, style, kind)


class Captions:
    """Every caption there is, by number.

    Those without a word for the style say `UNSTYLED`, so that they need not mean the average of
    all styles; of any style where there are no such drawings.

    Attributes:
        texts: number 0 is the empty text.
    """

    def __init__(self, noun_names: tuple[str, ...], style_words: tuple[str, ...]) -> None:
        kinds = (_DRAWN_TEMPLATES, _PHOTO_TEMPLATES)
        named = UNSTYLED in style_words
        filled = [
            [[[_fill(_STYLED if named and style != UNSTYLED else template, noun, style)
               for template in templates] for style in style_words] for noun in noun_names]
            for templates in kinds
        ]  # fmt: skip
        every = np.array(filled)
        known, numbers = np.unique(np.append(every.ravel(), ""), return_inverse=True)
        self.texts: list[str] = [str(text) for text in known]
        self._numbers = numbers[:-1].reshape(every.shape)

    def draw(
        self, rng: np.random.Generator, nouns: np.ndarray, styles: np.ndarray, grounds: np.ndarray
    ) -> np.ndarray:
        """Numbers (B,) of captions that are true of such pictures, or 0."""
        templates = rng.choice(len(_WEIGHTS), size=len(nouns), p=_WEIGHTS)
        drawn = self._numbers[(grounds == PHOTO).astype(int), nouns, styles, templates]
        return np.where(rng.random(len(nouns)) < _SILENT, 0, drawn)


def _fill(template: str, noun: str, style: str) -> str:
    a = with_article(noun)
    return template.format(a=a, styled=f"{with_article(f'{style} drawing')} of {a}")
