"""Training material from any COCO-format set: cutouts, and photographs with objects filled in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np

from ..coco import Annotation, CocoImage, read_coco, union_mask
from ..errors import InputError
from .scenes import Scene, Sprites, camera


def noun_masks(
    annotations: Iterable[Annotation], names: Mapping[int, str], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The union of an image's annotations by noun, (H, W) bool each, in the order of the first.

    Args:
        annotations: the image's.
        names: noun by category id.
        size: (H, W) of the image.
    """
    grouped: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        grouped.setdefault(names[annotation.category_id], []).append(annotation)
    return {noun: union_mask(found, size) for noun, found in grouped.items()}


Photo = tuple[np.ndarray, list[tuple[str, bool, np.ndarray]]]
"""An image, (H, W, 3) uint8 RGB, and for each annotation its noun, whether it is a crowd, and its
mask, (H, W) bool."""


def read_photo(folder: Path, image: CocoImage, names: Mapping[int, str], side: int) -> Photo | None:
    """An annotated image, at most `side` pixels long; None where it cannot be read.

    Args:
        folder: where it lies.
        image: its EXIF orientation is left alone, as annotations are.
        names: noun by category id.

    Raises:
        InputError: it has another size than its annotations, or one of them cannot be read.
    """
    path = folder / image.file_name
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        return None
    h, w = pixels.shape[:2]
    check_size(path, image, (h, w))
    scale = min(1.0, side / max(h, w))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    parts = []
    for annotation in image.annotations:
        mask = cv2.resize(
            union_mask([annotation], (h, w)).astype(np.float32), size, interpolation=cv2.INTER_AREA
        )
        parts.append((names[annotation.category_id], annotation.crowd, mask > 0.5))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB), parts


def check_size(path: Path, image: CocoImage, size: tuple[int, int]) -> None:
    """Raises InputError unless a picture's (H, W) is that of its record."""
    if size != image.size:
        raise InputError(
            f"{path} must have the size its annotations give, {image.size[0]} x {image.size[1]}, "
            f"got {size[0]} x {size[1]}"
        )


def photo_scene(
    rng: np.random.Generator,
    photo: Photo,
    size: tuple[int, int],
    min_area: float = 0.015,
    grow: int = 2,
    lens: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Scene | None:
    """A random crop of a photograph, up to three of its nouns, and each filled from around it.

    Categories with a crowd region, and those smaller than `min_area` of the crop, are left
    unnamed. None where nothing is left to name.

    Args:
        size: (H, W) of the crop.
        grow: pixels by which a mask is dilated before it is filled.
        lens: applied to the crop before anything is filled.
    """
    image, parts = photo
    ih, iw = image.shape[:2]
    h, w = size
    zoom = rng.uniform(0.5, 1.0) * min(ih / h, iw / w)
    ch, cw = max(8, int(h * zoom)), max(8, int(w * zoom))
    y, x = int(rng.integers(0, ih - ch + 1)), int(rng.integers(0, iw - cw + 1))
    flip = rng.random() < 0.5

    def crop(a: np.ndarray, how: int) -> np.ndarray:
        out = cv2.resize(np.ascontiguousarray(a[y : y + ch, x : x + cw]), (w, h), interpolation=how)
        return np.ascontiguousarray(out[:, ::-1]) if flip else out

    pixels = crop(image, cv2.INTER_AREA)
    pixels = lens(pixels) if lens else pixels
    crowds = {noun for noun, crowd, _ in parts if crowd}
    masks: dict[str, np.ndarray] = {}
    for noun, _, mask in parts:
        if noun not in crowds:
            part = crop(mask.astype(np.float32), cv2.INTER_AREA) > 0.5
            masks[noun] = masks.get(noun, np.zeros((h, w), bool)) | part
    masks = {n: m for n, m in masks.items() if min_area <= m.mean() <= 0.6}
    nouns = tuple(rng.permutation(np.array(list(masks), dtype=object)))[:3]
    if not nouns:
        return None
    kernel = np.ones((2 * grow + 1, 2 * grow + 1), np.uint8)
    filled = [
        cv2.inpaint(pixels, cv2.dilate(masks[n].astype(np.uint8), kernel), 3, cv2.INPAINT_TELEA)
        for n in nouns
    ]
    return Scene(
        pixels,
        nouns,
        np.stack([masks[n] for n in nouns]),
        np.stack(filled),
    )


class AnnotatedPhotos:
    """Photographs with masks of named things.

    Attributes:
        photos: see `Photo`.
    """

    def __init__(self, photos: Iterable[Photo]) -> None:
        self.photos = list(photos)

    def cutouts(self, min_area: int = 900) -> Sprites:
        """Whole instances of at least `min_area` pixels that do not touch the image's border."""
        sprites: Sprites = {}
        for image, parts in self.photos:
            for noun, crowd, mask in parts:
                edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
                if crowd or edge or mask.sum() < min_area:
                    continue
                ys, xs = np.where(mask)
                box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
                alpha = cv2.GaussianBlur(mask[box].astype(np.float32), (0, 0), 0.7)
                rgba = np.dstack([image[box], (alpha * 255).astype(np.uint8)])
                sprites.setdefault(noun, []).append(rgba)
        return sprites

    def scene(self, rng: np.random.Generator, size: tuple[int, int]) -> Scene | None:
        """A random crop of a random photograph, taken by a random camera; see `photo_scene`."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        return photo_scene(rng, photo, size, lens=camera(rng) if rng.random() < 0.6 else None)


class CocoSet(AnnotatedPhotos):
    """Images of a COCO instance file, at most `side` pixels long."""

    def __init__(self, images: Path, annotations: Path, side: int = 384) -> None:
        """
        Raises:
            InputError: the file is no COCO instance file, or a region of it cannot be read.
        """
        coco = read_coco(annotations).check_regions()
        photos = (
            read_photo(images, image, coco.categories, side)
            for image in coco.images
            if image.annotations
        )
        super().__init__(photo for photo in photos if photo is not None)
