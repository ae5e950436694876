"""Rows of a report's pictures: an image, its truth and the masks of one run or of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textseg.drawing import PALETTE, tint
from textseg.errors import ImageError, InputError
from textseg.rle import decode_rle

from . import page
from .datasets import Dataset, Example
from .protocols import BACKGROUND, LabelMap, Protocol
from .results import image_iou
from .workers import read_stored

SIDE = 320
"""Longer side of a picture, in pixels."""
COLOURS = ("Each object of an image has a colour, the same in the truth and in the masks; "
           "the line around it is white inside and black outside.")  # fmt: skip


@dataclass(frozen=True)
class Masks:
    """What one run made of an image.

    Attributes:
        name: below its picture.
        record: of the image.
        rule: whose masks these are.
    """

    name: str
    record: Mapping[str, Any]
    rule: str


def pictured(
    example: Example, runs: list[Masks], dataset: Dataset, protocol: Protocol | None
) -> str | None:
    """Picture, truth and masks of one image, with what each colour is; None where they can no
    longer be read.

    Args:
        protocol: None stands for any that has no label maps.
    """
    objects = _objects(runs)
    colours = {key: PALETTE[n % len(PALETTE)] for n, key in enumerate(objects)}
    try:
        image = _fit(read_stored(example.path))
        truth = image
        for key, row in objects.items():
            truth = tint(
                truth, _fit_mask(_region(example, row, protocol), image), colours[key], 0.5
            )
        shots = [page.shot(image, "picture"), page.shot(truth, "truth")]
        for run in runs:
            drawn = image
            for row in run.record["rows"]:
                if row.get("rle") and _key(row) in colours:
                    mask = _fit_mask(decode_rle(row["rle"]), image)
                    drawn = tint(drawn, mask, colours[_key(row)], 0.5)
            words = run.name if len(runs) == 1 else f"{run.name}{_iou(run, ' ')}"
            shots.append(page.shot(drawn, run.name, words))
    except (ImageError, InputError, OSError):
        return None
    names = [row["text"] or dataset.categories.get(row["category_id"], "")
             for row in objects.values()]  # fmt: skip
    if len(runs) == 1:
        ious = {_key(row): _row_iou(row, runs[0].rule) for row in runs[0].record["rows"]}
        names = [f"{name} {ious[key]}" for name, key in zip(names, objects, strict=True)]
    caption = example.file_name + (_iou(runs[0], ": ") if len(runs) == 1 else "")
    return page.row(shots, caption, list(zip(colours.values(), names, strict=True)))


def _iou(run: Masks, before: str) -> str:
    iou = image_iou(run.record, run.rule)
    return "" if iou is None else f"{before}IoU {iou:.3f}"


def _row_iou(row: Mapping[str, Any], rule: str) -> str:
    if not row.get("truth") or row.get(rule) is None:
        return "not there"
    inside, predicted = row[rule][:2]
    return f"{inside / (predicted + row['truth'] - inside):.2f}"


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["category_id"], row.get("key", row["category_id"])


def _objects(runs: list[Masks]) -> dict[tuple[int, int], Mapping[str, Any]]:
    """Rows with something to draw, an object each, largest truth first."""
    found = {
        _key(row): row
        for run in reversed(runs)
        for row in run.record["rows"]
        if row["category_id"] != BACKGROUND
        and row.get("truth") is not None
        and (row["truth"] or row.get("rle"))
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]["truth"]))


def _region(example: Example, row: Mapping[str, Any], protocol: Protocol | None) -> np.ndarray:
    if not row["truth"]:
        return np.zeros((1, 1), bool)
    if isinstance(protocol, LabelMap):
        labels = example.truth.labels({k: n for n, k in enumerate(protocol.texts, start=1)})
        return labels == list(protocol.texts).index(row["category_id"]) + 1
    return example.truth.region(row.get("key", row["category_id"]))[0]


def _fit(image: np.ndarray) -> np.ndarray:
    from textseg.image import resize_image

    scale = min(1.0, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize_image(image, (height, width))


def _fit_mask(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return small >= 0.5
