"""Small data sets and truths for the evaluation's tests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from textseg_eval.truth import Truth


@dataclass
class LabelsTruth(Truth):
    """A truth that is an array: 1 + the place of the class."""

    array: np.ndarray
    classes: list[int]
    height: int = field(init=False)
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.height, self.width = self.array.shape

    def keys(self):
        return {self.classes[v - 1] for v in np.unique(self.array) if v}, set()

    def region(self, key):
        return self.array == self.classes.index(key) + 1, None

    def labels(self, classes: Mapping[int, int]):
        result = np.zeros(self.array.shape, np.uint16)
        for place, key in enumerate(self.classes, start=1):
            if key in classes:
                result[self.array == place] = classes[key]
        return result


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed COCO RLE of a mask, written out by hand: runs down the columns."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + runs}


def write_set(
    folder: Path,
    images: Mapping[int, tuple[int, int]],
    marks: list[tuple[int, int, Any, int]],
    names: Mapping[int, str],
) -> tuple[Path, Path]:
    """A COCO data set: image sizes (H, W) by id, and (image, category, segmentation, crowd).

    Returns:
        The folder of the images and the annotation file.
    """
    rng = np.random.default_rng(1)
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    for key, (height, width) in images.items():
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{key}.png")
    data = {
        "images": [
            {"id": key, "file_name": f"{key}.png", "height": h, "width": w}
            for key, (h, w) in images.items()
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "segmentation": shape,
             "iscrowd": crowd, "area": _area(shape)}
            for n, (image, category, shape, crowd) in enumerate(marks, start=1)
        ],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }  # fmt: skip
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return pictures, path


def _area(shape: Any) -> float:
    if isinstance(shape, dict):
        return float(sum(shape["counts"][1::2]))
    return float(sum(abs(_shoelace(part)) for part in shape))


def _shoelace(points: list[float]) -> float:
    x, y = np.array(points).reshape(-1, 2).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A mask with one rectangle."""
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def write_two_classes(folder: Path, count: int, names: dict[int, str]) -> tuple[Path, Path]:
    """`count` images of 36 x 50 with class 1 in each and class 2 in every other one: their folder
    and annotations."""
    marks = []
    for n in range(1, count + 1):
        marks.append((n, 1, rle_of(box(36, 50, n, 5, n + 15, 30)), 0))
        if n % 2:
            marks.append((n, 2, [[32.0, 4, 45, 4, 45, 20, 32, 20]], 0))
    return write_set(folder, dict.fromkeys(range(1, count + 1), (36, 50)), marks, names)


def eval_(*words: object) -> int:
    """`textseg eval` with those words: its exit code."""
    from textseg.cli import main

    return main(["eval", *map(str, words)])
