"""Annotated photographs as training material: cutouts, and random scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from ...coco import read_coco
from ...rle import bounding_box
from ..photo_scenes import Photo, Scene, photo_scene, read_photo
from .scenes import Sprites, camera

SIDE = 384


def read_photos(images: Path, annotations: Path, side: int = SIDE) -> list[Photo]:
    """The annotated images of a COCO instance file, at most `side` pixels long; those that cannot
    be read are left out.

    Raises:
        InputError: the file is no COCO instance file, or a region of it cannot be read.
    """
    coco = read_coco(annotations).check_regions()
    annotated = (image for image in coco.images if image.annotations)
    photos = (read_photo(images, image, coco.categories, side) for image in annotated)
    return [photo for photo in photos if photo is not None]


def cut_out(photos: Iterable[Photo], min_area: int = 900) -> Sprites:
    """Whole instances of at least `min_area` pixels that do not touch the image's border."""
    sprites: Sprites = {}
    for image, parts in photos:
        for noun, crowd, mask in parts:
            edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
            if crowd or edge or mask.sum() < min_area:
                continue
            x, y, width, height = bounding_box(mask)
            box = slice(y, y + height), slice(x, x + width)
            alpha = cv2.GaussianBlur(mask[box].astype(np.float32), (0, 0), 0.7)
            rgba = np.dstack([image[box], (alpha * 255).astype(np.uint8)])
            sprites.setdefault(noun, []).append(rgba)
    return sprites


def random_scene(
    rng: np.random.Generator, photos: Sequence[Photo], size: tuple[int, int]
) -> Scene | None:
    """A random crop of a random photograph, taken by a random camera; see `photo_scene`."""
    photo = photos[int(rng.integers(len(photos)))]
    return photo_scene(rng, photo, size, lens=camera(rng) if rng.random() < 0.6 else None)
