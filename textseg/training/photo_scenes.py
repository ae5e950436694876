"""Scenes from annotated photographs: what they show, and how they look without each of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..coco import CocoImage, union_mask


@dataclass(frozen=True)
class Scene:
    """An image, and the same without each of its nouns.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        nouns: the distinct nouns in the image, in the order they were placed or chosen.
        masks: (K, H, W) bool, the visible pixels of each noun (all its instances together).
        without: (K, H, W, 3) uint8, the same image with all instances of that noun left out.
        instances: (noun, (H, W) bool visible mask) of every object of a composed image.
    """

    image: np.ndarray
    nouns: tuple[str, ...]
    masks: np.ndarray
    without: np.ndarray
    instances: tuple[tuple[str, np.ndarray], ...] = ()


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
    image.check_picture(path, (h, w))
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
    return Scene(pixels, nouns, np.stack([masks[n] for n in nouns]), np.stack(filled))
