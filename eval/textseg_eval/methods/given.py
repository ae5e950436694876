"""Masks that lie in a file: another program's results, or the truth itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from textseg.coco import union_mask
from textseg.errors import InputError

from .base import Answer, Method, MethodSpec, Query

if TYPE_CHECKING:
    from ..datasets import Example


class GivenMasks(Method):
    """COCO results: the union of a category's records, each pixel with their highest score."""

    needs_image = False

    def __init__(self, spec: MethodSpec) -> None:
        self.name = "masks"

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        raise InputError("given masks must be asked about an image of a data set, got pixels")

    def about(self, example: Example, image: np.ndarray | None, queries: Sequence[Query]) -> Answer:
        height, width = example.truth.height, example.truth.width
        masks = np.zeros((len(queries), height, width), bool)
        scores = np.zeros((len(queries), height, width), np.float32)
        presence = np.zeros(len(queries))
        for row, query in enumerate(queries):
            for record in example.given:
                if record.category_id == query.key:
                    part, score = union_mask([record], (height, width)), record.score
                    masks[row] |= part
                    scores[row][part] = np.maximum(scores[row][part], np.float32(score))
                    presence[row] = max(presence[row], score)
        if all(record.score == 1 for record in example.given):
            return Answer(None, masks, presence)
        return Answer(scores, masks, presence)


class TruthItself(Method):
    """The annotations as the prediction: what a perfect method would score.

    Option `labels`: masks cut from the label map, where no two overlap.
    """

    needs_image = False

    def __init__(self, spec: MethodSpec) -> None:
        self.name = "truth"
        self.labels = bool(spec.options.get("labels", False))

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        raise InputError("the truth must be asked about an image of a data set, got pixels")

    def about(self, example: Example, image: np.ndarray | None, queries: Sequence[Query]) -> Answer:
        truth = example.truth
        masks = np.zeros((len(queries), truth.height, truth.width), bool)
        if self.labels:
            labels = truth.labels({query.key: row for row, query in enumerate(queries, start=1)})
            for row in range(len(queries)):
                masks[row] = labels == row + 1
        else:
            for row, query in enumerate(queries):
                if query.present:
                    masks[row] = truth.region(query.key)[0]
        return Answer(None, masks)
