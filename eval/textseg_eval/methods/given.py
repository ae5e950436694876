"""Masks that lie in a file: another program's results, or the truth itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textseg.errors import InputError

from ..truth import annotation_rle
from .base import Answer, Method, MethodSpec, Query

if TYPE_CHECKING:
    from ..coco import Example


class GivenMasks(Method):
    """COCO results: the union of a category's records, each pixel with their highest score."""

    needs_image = False

    def __init__(self, spec: MethodSpec) -> None:
        self.name = "masks"

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        raise InputError("given masks must be asked about an image of a data set, got pixels")

    def about(self, example: Example, image: np.ndarray | None, queries: Sequence[Query]) -> Answer:
        from pycocotools import mask as rle

        truth = example.truth
        masks = np.zeros((len(queries), truth.height, truth.width), bool)
        scores: np.ndarray | None = None
        presence = np.zeros(len(queries))
        for row, query in enumerate(queries):
            records = [r for r in example.given if r["category_id"] == query.key]
            coded = [(annotation_rle(r, truth.height, truth.width), float(r.get("score", 1.0)))
                     for r in records]  # fmt: skip
            parts = [(code, score) for code, score in coded if code is not None]
            if not parts:
                continue
            masks[row] = rle.decode(rle.merge([code for code, _ in parts])).view(bool)
            presence[row] = max(score for _, score in parts)
            if any(score != 1.0 for _, score in parts):
                if scores is None:
                    scores = masks.astype(np.float32)
                scores[row] = 0.0
                for code, score in parts:
                    part = rle.decode(code).view(bool)
                    scores[row][part] = np.maximum(scores[row][part], np.float32(score))
            elif scores is not None:
                scores[row] = masks[row]
        return Answer(scores, masks, presence)
