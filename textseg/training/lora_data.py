"""Training rows for LoRA from any COCO-format set, read as they are needed.

Every batch depends on the seed, its own number and the set alone, so that a run that is resumed,
or shared between processes, sees what an uninterrupted one does.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..coco import read_coco
from ..errors import InputError
from .captions import caption_rows
from .lora_options import LoraOptions
from .photo_scenes import Photo, photo_scene, read_photo

ASPECTS = (1.0, 1.0, 1.36, 1 / 1.36)
"""Height by width of the crops; batches take turns at random."""


class AnnotatedImages:
    """A COCO instance file and its images, which are read one at a time.

    Attributes:
        nouns: names of the categories that have annotations, in the file's order.
        records: images with at least one instance that is no crowd.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        """
        Raises:
            InputError: the file is no COCO instance file, or a region of it cannot be read.
        """
        self.images = images
        self._coco = read_coco(annotations).check_regions()
        self.records = [
            image for image in self._coco.images if not all(a.crowd for a in image.annotations)
        ]
        used = {a.category_id for image in self._coco.images for a in image.annotations}
        names = self._coco.categories
        self.nouns = list(dict.fromkeys(names[key] for key in names if key in used))

    def hold_out(self, count: int, seed: int, file: Path) -> None:
        """Takes `count` images out of the set and writes them as a COCO file of their own."""
        if not 0 < count < len(self.records):
            raise InputError(
                f"validate must be a whole number from 1 to {len(self.records) - 1} for a set of "
                f"{len(self.records)} annotated images, got {count}"
            )
        order = np.random.default_rng((seed, 1)).permutation(len(self.records))
        held = {self.records[i].id for i in order[:count].tolist()}
        data = self._coco.data
        part = {
            "categories": data["categories"],
            "images": [r for r in data["images"] if r["id"] in held],
            "annotations": [a for a in data["annotations"] if a["image_id"] in held],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(part), encoding="utf-8")
        self.records = [image for image in self.records if image.id not in held]

    def read(self, index: int, side: int) -> Photo:
        """Image `index` of `records`, at most `side` pixels long.

        Raises:
            InputError: it is missing, no image, or of another size than its annotations.
        """
        image = self.records[index]
        photo = read_photo(self.images, image, self._coco.categories, side)
        if photo is None:
            path = str(self.images / image.file_name)
            raise InputError(f"images must hold the annotated files, got no image {path!r}")
        return photo


class RowPairs(torch.utils.data.Dataset):
    """Batches of scenes: image, image without a noun, its mask, both captions, level and noise."""

    def __init__(
        self,
        source: AnnotatedImages,
        options: LoraOptions,
        size: int,
        multiple: int,
        batches: int,
        process: tuple[int, int] = (0, 1),
    ) -> None:
        """
        Args:
            size: side in pixels of the square whose area crops have.
            multiple: sides are multiples of this many pixels.
            batches: how many there are for each process.
            process: this one's number, and how many there are.
        """
        self.source, self.options, self.size, self.batches = source, options, size, batches
        self.process = process
        sides = [(size * math.sqrt(a), size / math.sqrt(a)) for a in ASPECTS]
        self.sizes = [
            (max(1, round(h / multiple)) * multiple, max(1, round(w / multiple)) * multiple)
            for h, w in sides
        ]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Batch `index` of this process.

        Returns:
            `images` (B, 2, H, W, 3) uint8: as it is, and the target of the absent caption;
            `changed` (B,) bool, whether the two differ; `masks` (B, H, W) float32, zero where the
            noun is absent; `levels` (B,) float64 in (0, 1); `seeds` (B,) int64 of the noise;
            `ordinary` and `absent`, captions.
        """
        rank, world = self.process
        number = index * world + rank
        rng = np.random.default_rng((self.options.seed, 2, number))
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        rows = [self._row(number * self.options.batch + b, size) for b in range(self.options.batch)]
        joined: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]}
        for key in ("images", "masks", "changed", "levels", "seeds"):
            joined[key] = np.stack(joined[key])
        return joined

    def _row(self, number: int, size: tuple[int, int]) -> dict[str, Any]:
        rng = np.random.default_rng((self.options.seed, 3, number))
        count = len(self.source.records)
        epoch, place = divmod(number, count)
        index = int(self._order(epoch)[place])
        grow = max(2, round(0.02 * self.size))
        for _ in range(200):
            photo = self.source.read(index, 2 * self.size)
            scene = photo_scene(rng, photo, size, grow=grow)
            if scene is not None:
                break
            index = int(rng.integers(count))
        else:
            raise InputError("annotations must hold objects large enough to learn from, got none")
        there = {noun for noun, _, _ in photo[1]}
        others = [n for n in self.source.nouns if n not in there]
        names = [str(n) for n in scene.nouns]
        other = (lambda: others[int(rng.integers(len(others)))]) if others else None
        ordinary, absent, slot = caption_rows(rng, names, other, self.options.absent)
        target = scene.image if slot < 0 else scene.without[slot]
        mask = scene.masks[max(slot, 0)] & (slot >= 0)
        return {
            "images": np.stack([scene.image, target]),
            "masks": mask.astype(np.float32),
            "changed": np.array(slot >= 0),
            "levels": np.array(rng.uniform(*self.options.levels)),
            "seeds": np.array(rng.integers(2**62)),
            "ordinary": ordinary,
            "absent": absent,
        }

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.options.seed, 4, epoch)).permutation(
            len(self.source.records)
        )
