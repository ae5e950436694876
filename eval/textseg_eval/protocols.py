"""Which queries an image is asked, and how the answer is counted.

A protocol turns one image into a list of queries, and the answer to them into rows of whole
numbers. Rows of all images are summed in `aggregate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textseg.english import with_article
from textseg.errors import InputError
from textseg.rle import encode_rle

from .counters import (
    BINS,
    Counts,
    count_edges,
    count_mask,
    hard_histogram,
    histogram,
    pack_histogram,
    seeded,
    to_bins,
)
from .datasets import Example
from .methods import Answer, Query
from .truth import ExpressionTruth

BACKGROUND = -1
"""Class id of the background in label maps; categories have ids of at least 0."""

Row = dict[str, Any]
"""Counts of one class in one image, JSON-able:

    category_id, text: the class and how it was asked.
    present, presence: whether it is there (None: crowds only), and what the method says.
    truth: pixels of the truth; None where the row only answers whether the query is there.
    own, fixed: `Counts` as lists, for the method's own masks and for the fixed threshold; None
        where there is no such rule.
    hist: packed histogram of the scores inside and outside the truth; None where all is 0.
    below: present and true where the class lies below the threshold (background).
    rle: the mask of the headline rule, COCO's compressed RLE; None where it is empty.
"""


@dataclass(frozen=True)
class Vocabulary:
    """How categories are asked for.

    Attributes:
        templates: texts with `{}` for the name.
        synonyms: further names by category name.
    """

    templates: tuple[str, ...] = ("a photo of a {}",)
    synonyms: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        for template in self.templates:
            if template.count("{}") != 1:
                raise InputError(f"template must hold {{}} once, got {template!r}")

    def texts(self, name: str) -> tuple[str, ...]:
        """Every template with every name of the category."""
        names = (name, *(self.synonyms or {}).get(name, ()))
        filled = (_fill(template, each) for each in names for template in self.templates)
        return tuple(dict.fromkeys(filled))


def _fill(template: str, name: str) -> str:
    """The name in the template, with the article it takes where the template has one."""
    for article in ("a {}", "an {}"):
        if template == article or template.startswith(f"{article} ") or f" {article}" in template:
            return template.replace(article, with_article(name))
    return template.replace("{}", name)


class Protocol(ABC):
    """One way to score an image; see docs/evaluation.md for each in full."""

    name: str

    @abstractmethod
    def queries(self, example: Example) -> list[Query]:
        """What the image is asked."""

    @abstractmethod
    def rows(
        self, example: Example, queries: Sequence[Query], answer: Answer, threshold: int | None
    ) -> list[Row]:
        """Count an answer.

        Args:
            example: the image.
            queries: what was asked.
            answer: what the method said, at the truth's size.
            threshold: k of the fixed threshold k / 256, 1 to 256, where there is one.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the figures depend on, JSON-able."""


@dataclass(frozen=True)
class Present(Protocol):
    """`present`: the image's own classes, each a yes or no text query, and sampled absent ones.

    Attributes:
        texts: texts by category id.
        absent: absent categories asked per image.
        seed: with the image's id, draws them.
    """

    texts: Mapping[int, tuple[str, ...]]
    absent: int = 2
    seed: int = 0
    name = "present"

    def queries(self, example: Example) -> list[Query]:
        countable, others = example.truth.keys()
        asked = [Query(key, key, self.texts[key]) for key in self.texts if key in countable]
        free = [key for key in self.texts if key not in countable and key not in others]
        draw = seeded("absent", self.seed, example.image_id).permutation(len(free))
        chosen = sorted(int(i) for i in draw[: self.absent])
        return asked + [Query(free[i], free[i], self.texts[free[i]], False) for i in chosen]

    def rows(
        self, example: Example, queries: Sequence[Query], answer: Answer, threshold: int | None
    ) -> list[Row]:
        return _binary_rows(example, queries, answer, threshold)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "absent": self.absent, "seed": self.seed,
                "texts": {str(key): list(texts) for key, texts in self.texts.items()}}  # fmt: skip


@dataclass(frozen=True)
class Refer(Protocol):
    """Referring expressions: each a query of its own, all counted under one class."""

    name = "refer"

    def queries(self, example: Example) -> list[Query]:
        truth = example.truth
        if not isinstance(truth, ExpressionTruth):
            raise InputError(f"refer needs expressions, got none for image {example.image_id}")
        return [Query(key, 1, (text,)) for key, (text, _) in enumerate(truth.expressions)]

    def rows(
        self, example: Example, queries: Sequence[Query], answer: Answer, threshold: int | None
    ) -> list[Row]:
        return _binary_rows(example, queries, answer, threshold)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}


def _binary_rows(
    example: Example, queries: Sequence[Query], answer: Answer, threshold: int | None
) -> list[Row]:
    presence = answer.presence
    rows = []
    for number, query in enumerate(queries):
        mask = None if answer.masks is None else answer.masks[number]
        bins = None if answer.scores is None else to_bins(answer.scores[number])
        if query.present:
            truth, ignore = example.truth.region(query.key)
        else:
            truth, ignore = np.zeros((example.truth.height, example.truth.width), bool), None
        pixels = int(truth.size if ignore is None else truth.size - np.count_nonzero(ignore))
        area = int(np.count_nonzero(truth))
        if query.present and area == 0:
            rows.append({"category_id": query.category_id, "text": query.texts[0],
                         "present": None, "dropped": True})  # fmt: skip
            continue
        edges = bool(query.present)
        own = None if mask is None else count_mask(mask, truth, ignore, edges=edges)
        if bins is None:
            assert own is not None
            fixed = None if threshold is None else own
            headline = mask
            hist = hard_histogram(own, area, pixels)
        else:
            headline = mask if threshold is None else bins >= threshold
            fixed = None
            if threshold is not None and headline is not None:
                fixed = count_mask(headline, truth, ignore, edges=edges)
            hist = histogram(bins, truth, ignore)
        rows.append(
            {
                "category_id": query.category_id,
                "key": query.key,
                "text": query.texts[0],
                "present": query.present,
                "presence": float(presence[number]),
                "truth": area if query.present else None,
                "own": own and own.to_list(),
                "fixed": fixed and fixed.to_list(),
                "hist": pack_histogram(hist) if query.present else None,
                "rle": encode(headline),
            }
        )
    return rows


@dataclass(frozen=True)
class LabelMap(Protocol):
    """`object` and `predicted`: every pixel gets one of the asked classes or the background.

    Attributes:
        texts: texts by category id.
        name: "object" or "predicted".
        tagger: what `predicted` takes the classes from, for the record.
        min_presence: classes of a lower presence are out of the running (`predicted` with the
            method's own presence as tagger).
    """

    texts: Mapping[int, tuple[str, ...]]
    name: str = "object"
    tagger: str | None = None
    min_presence: float = 0.0

    def queries(self, example: Example) -> list[Query]:
        countable, others = example.truth.keys()
        asked: Iterable[int] = self.texts
        if example.tags is not None:
            asked = [key for key in self.texts if key in example.tags]
        return [
            Query(key, key, self.texts[key], None if key in others else key in countable)
            for key in asked
        ]

    def rows(
        self, example: Example, queries: Sequence[Query], answer: Answer, threshold: int | None
    ) -> list[Row]:
        classes = [BACKGROUND, *self.texts]
        index = {key: number for number, key in enumerate(classes)}
        truth = example.truth.labels({key: index[key] for key in self.texts})
        presence = answer.presence
        running = [n for n in range(len(queries)) if presence[n] >= self.min_presence]
        codes = np.array([index[queries[n].category_id] for n in running], np.uint16)

        own = None
        if answer.masks is not None:
            masks = answer.masks[running]
            values = masks if answer.scores is None else np.where(
                masks, answer.scores[running], -1.0
            )  # fmt: skip
            best, top = _winner(values, codes, truth.shape)
            own = np.where(top > 0 if answer.scores is None else top >= 0, best, 0)
        if answer.scores is not None:
            best, top = _winner(answer.scores[running], codes, truth.shape)
            bins = to_bins(top)
        else:
            assert own is not None
            best, bins = own, np.where(own > 0, np.uint16(BINS - 1), np.uint16(0))
        fixed = None if threshold is None else np.where(bins >= threshold, best, 0)
        headline = own if fixed is None else fixed

        hist = _label_histograms(best, bins, truth, len(classes))
        areas = np.bincount(truth.ravel(), minlength=len(classes))
        asked = {query.category_id: n for n, query in enumerate(queries)}
        tables = [_label_counts(labels, truth, areas) for labels in (own, fixed)]
        rows = []
        for number, key in enumerate(classes):
            query = queries[asked[key]] if key in asked else None
            counts = hist[number]
            if query is None and not areas[number] and not counts.any():
                continue
            mask = None if headline is None or number == 0 else headline == number
            row: Row = {
                "category_id": key,
                "text": query.texts[0] if query else "",
                "present": query.present if query else None,
                "presence": float(presence[asked[key]]) if query else None,
                "truth": int(areas[number]),
                "own": tables[0][number] if tables[0] else None,
                "fixed": tables[1][number] if tables[1] else None,
                "hist": pack_histogram(counts) if counts.any() else None,
                "rle": encode(mask),
            }
            rows.append(row | {"below": True} if number == 0 else row)
        return rows

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "tagger": self.tagger, "min_presence": self.min_presence,
                "background": BACKGROUND,
                "texts": {str(key): list(texts) for key, texts in self.texts.items()}}  # fmt: skip


def _winner(
    values: np.ndarray, codes: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Class index and value of the highest map at each pixel; the first of equal ones."""
    if not len(values):
        return np.zeros(shape, np.uint16), np.full(shape, -1.0, np.float32)
    best = values.argmax(axis=0)
    top = np.take_along_axis(values, best[None], axis=0)[0]
    return codes[best], top


def _label_histograms(
    best: np.ndarray, bins: np.ndarray, truth: np.ndarray, classes: int
) -> np.ndarray:
    """(classes, 2, BINS): where a class wins, its score inside and outside its truth; for the
    background, the winner's score inside and outside the background."""
    outside = (best != truth).astype(np.int64)
    keys = (best.astype(np.int64) * 2 + outside) * BINS + bins
    hist = np.bincount(keys.ravel(), minlength=classes * 2 * BINS).reshape(classes, 2, BINS)
    keys = (truth != 0).astype(np.int64) * BINS + bins
    hist[0] = np.bincount(keys.ravel(), minlength=2 * BINS).reshape(2, BINS)
    return hist


def _label_counts(
    labels: np.ndarray | None, truth: np.ndarray, areas: np.ndarray
) -> list[list[int]] | None:
    """`Counts` per class as lists; boundaries for the classes of the truth but the background."""
    if labels is None:
        return None
    agree = np.bincount(truth[labels == truth], minlength=len(areas))
    predicted = np.bincount(labels.ravel(), minlength=len(areas))
    result = []
    for number in range(len(areas)):
        edges = None
        if number and areas[number]:
            edges = count_edges(labels == number, truth == number)
        result.append(Counts(int(agree[number]), int(predicted[number]), edges).to_list())
    return result


def encode(mask: np.ndarray | None) -> dict[str, Any] | None:
    """A mask (H, W) bool as COCO's compressed RLE with text counts; None for an empty one."""
    return None if mask is None or not mask.any() else encode_rle(mask)
