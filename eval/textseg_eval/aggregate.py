"""From rows of whole numbers to figures with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textseg.checks import SEED, between, option, validate, whole

from .counters import (
    BINS,
    Counts,
    average_precision,
    mean_defined,
    ratio,
    replicate_weights,
    threshold_counts,
    unpack_histogram,
)

RULES = ("own", "fixed")
"""The method's own masks, and its scores cut at a threshold fixed beforehand."""

SHARES = (0.5, 0.7, 0.9)
"""IoU values of which the share of queries at or above is reported."""

CURVE_STEPS = 200
"""Recalls of which the curve of the presence has a point."""

_IMAGES, _ROWS, _BOUNDARY, _MISSED, _EMPTY, _SHARES = range(6)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by resampling the images.

    Attributes:
        replicates: number of resamplings.
        seed: seeds them.
        level: the intervals' coverage.
    """

    replicates: int = option(1000, whole(0, 10**6))
    seed: int = option(0, SEED)
    level: float = option(0.95, between(0, 1, "()"))

    __post_init__ = validate

    def interval(
        self, values: np.ndarray, least: float = 0.0, most: float = 1.0
    ) -> dict[str, float | None]:
        """The sample's value (the first) and its percentile interval from the replicates.

        The replicates are shifted to have the sample's value as their mean: a replicate lacks some
        of the rare classes, so that the mean over its classes is biased.

        Args:
            values: (1 + replicates,), NaN where undefined.
            least, most: the figure's bounds.
        """
        value, draws = float(values[0]), self.centred(values)
        if np.isnan(value):
            return {"value": None, "low": None, "high": None}
        if not draws.size:
            return {"value": value, "low": None, "high": None}
        tail = (1 - self.level) / 2
        low, high = np.clip(np.quantile(draws, [tail, 1 - tail]), least, most)
        return {"value": value, "low": float(low), "high": float(high)}

    def centred(self, values: np.ndarray) -> np.ndarray:
        """The defined replicates, shifted to have the sample's value as their mean."""
        draws = values[1:][~np.isnan(values[1:])]
        # Equal replicates stay what they are, to the last bit.
        varied = draws.size > 0 and np.ptp(draws) > 0
        return draws + (values[0] - draws.mean()) if varied else draws


class Tally:
    """Sums over images, for the sample (column 0) and every bootstrap replicate.

    Two tallies over different images are merged by addition.

    Args:
        classes: class ids, in order.
        bootstrap: the resamplings.
    """

    def __init__(self, classes: Sequence[int], bootstrap: Bootstrap) -> None:
        self.classes = list(classes)
        self.bootstrap = bootstrap
        columns = bootstrap.replicates + 1
        self._index = {key: number for number, key in enumerate(self.classes)}
        self._counts = np.zeros((len(RULES), len(classes), 2, columns), np.int64)
        self._truth = np.zeros((len(classes), columns), np.int64)
        self._hist = np.zeros((len(classes), 2, BINS), np.int64)
        self._below = np.zeros(len(classes), bool)
        self._has = np.zeros(len(RULES), bool)
        # Per rule and class: how often it was asked where present and where absent, and how often
        # the mask was empty then.
        self._asked = np.zeros((len(RULES), len(classes), 2, 2), np.int64)
        # Per rule and slot: the sum of the values and the number of them.
        self._sums = np.zeros((len(RULES), _SHARES + len(SHARES), 2, columns))
        self._presence: list[tuple[float, bool, int]] = []
        self._weights: list[np.ndarray] = []
        self.images = 0
        self.dropped = 0
        self.rows = {"present": 0, "absent": 0}
        self.class_images = np.zeros(len(classes), np.int64)

    def add(self, record: Record) -> None:
        """Count an image."""
        weights = replicate_weights(
            record["image_id"], self.bootstrap.seed, self.bootstrap.replicates
        )
        self.images += 1
        wide = weights.astype(np.int64)
        ious: list[list[float]] = [[] for _ in RULES]
        for row in record["rows"]:
            if row.get("dropped"):
                self.dropped += 1
                continue
            self._add_row(row, wide, ious)
            if row["present"] is not None and row["presence"] is not None:
                self._presence.append((row["presence"], row["present"], len(self._weights)))
                self.rows["present" if row["present"] else "absent"] += 1
        self._weights.append(weights)
        for rule, values in enumerate(ious):
            if values:
                self._sums[rule, _IMAGES] += np.outer([float(np.mean(values)), 1.0], weights)

    def _add_row(self, row: Record, weights: np.ndarray, ious: list[list[float]]) -> None:
        number = self._index[row["category_id"]]
        below = bool(row.get("below"))
        self._below[number] |= below
        truth = row["truth"]
        if truth is not None:
            self._truth[number] += truth * weights
            self.class_images[number] += truth > 0
            if row["hist"] is not None:
                self._hist[number] += unpack_histogram(row["hist"])
        for rule, name in enumerate(RULES):
            if row[name] is None:
                continue
            self._has[rule] = True
            counts = Counts.from_list(row[name])
            if row["present"] is not None:
                slot = _MISSED if row["present"] else _EMPTY
                self._sums[rule, slot] += np.outer([counts.predicted == 0, 1], weights)
                self._asked[rule, number, int(not row["present"])] += 1, counts.predicted == 0
            if truth is None:
                continue
            self._counts[rule, number, 0] += counts.intersection * weights
            self._counts[rule, number, 1] += counts.predicted * weights
            if not truth or below:
                continue
            iou = counts.intersection / (counts.predicted + truth - counts.intersection)
            ious[rule].append(iou)
            self._sums[rule, _ROWS] += np.outer([iou, 1], weights)
            f = counts.boundary_f()
            if f is not None:
                self._sums[rule, _BOUNDARY] += np.outer([f, 1], weights)
            for slot, share in enumerate(SHARES, start=_SHARES):
                self._sums[rule, slot] += np.outer([iou >= share, 1], weights)

    def merge(self, other: Tally) -> None:
        """Add the sums of other images."""
        offset = len(self._weights)
        for name in ("_counts", "_truth", "_hist", "_sums", "_asked", "class_images"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._below |= other._below
        self._has |= other._has
        self._presence += [(score, there, at + offset) for score, there, at in other._presence]
        self._weights += other._weights
        self.images += other.images
        self.dropped += other.dropped
        for name, count in other.rows.items():
            self.rows[name] += count

    def curve(self) -> np.ndarray:
        """mIoU at every threshold k / 256, (BINS,) float64."""
        return mean_defined(self._curves()[0])

    def _curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """IoU, precision and recall per class and threshold, (C, BINS) each."""
        counts = threshold_counts(self._hist)
        if self._below.any():
            counts[self._below] = threshold_counts(self._hist[self._below], below=True)
        return _quality(counts[:, 0], counts[:, 1], self._truth[:, :1])

    def precision_recall(self) -> list[tuple[float, float] | None]:
        """Precision and recall of the pixels at every threshold k / 256, each the mean over the
        classes of the truth as in `figures`; None where no class has pixels.

        Returns:
            (BINS) pairs.
        """
        pairs = zip(*(mean_defined(each).tolist() for each in self._curves()[1:]), strict=True)
        return [None if math.isnan(recall) else (precision, recall) for precision, recall in pairs]

    def figures(self) -> dict[str, Any]:
        """Every figure of every rule, and the oracle's."""
        result: dict[str, Any] = {}
        for rule, name in enumerate(RULES):
            if self._has[rule]:
                result[name] = self._figures(rule)
        curve = self.curve()
        best = best_threshold(curve)
        if best is not None:
            result["oracle"] = {
                "threshold": best / (BINS - 1),
                **{name: {"value": float(mean_defined(values)[best]), "low": None, "high": None}
                   for name, values in zip(("miou", "precision", "recall"), self._curves(),
                                           strict=True)},
            }  # fmt: skip
        return result

    def _figures(self, rule: int) -> dict[str, Any]:
        interval = self.bootstrap.interval
        inside, predicted = self._counts[rule, :, 0], self._counts[rule, :, 1]
        values = {
            name: mean_defined(each)
            for name, each in zip(
                ("miou", "precision", "recall"), _quality(inside, predicted, self._truth),
                strict=True,
            )
        }  # fmt: skip
        if self._below.any():
            values["pixel_accuracy"] = ratio(inside.sum(axis=0), self._truth.sum(axis=0))
        else:
            union = predicted + self._truth - inside
            values["pooled_iou"] = ratio(inside.sum(axis=0), union.sum(axis=0))
        slots = {"image_iou": _IMAGES, "query_iou": _ROWS, "boundary_f": _BOUNDARY,
                 "empty_when_absent": _EMPTY, "empty_when_present": _MISSED}  # fmt: skip
        slots |= {f"iou_above_{share}": slot for slot, share in enumerate(SHARES, start=_SHARES)}
        values |= {name: ratio(*self._sums[rule, slot]) for name, slot in slots.items()}
        return {name: interval(value) for name, value in values.items()}

    def replicates(self, rule: str, figure: str) -> np.ndarray:
        """The sample's value and the replicates' of "miou", "image_iou" or "query_iou"."""
        at = RULES.index(rule)
        if figure == "miou":
            quality = _quality(self._counts[at, :, 0], self._counts[at, :, 1], self._truth)
            return mean_defined(quality[0])
        return ratio(*self._sums[at, {"image_iou": _IMAGES, "query_iou": _ROWS}[figure]])

    def presence(self) -> dict[str, Any]:
        """Average precision of the presence over present and absent queries."""
        counts = {"present": self.rows["present"], "absent": self.rows["absent"]}
        if not counts["present"] or not counts["absent"]:
            return {"average_precision": None, **counts}
        scores, there, images = (np.array(column) for column in zip(*self._presence, strict=True))
        weights = np.stack(self._weights)
        parts = [
            average_precision(scores, there, weights[images][:, start : start + 100])
            for start in range(0, weights.shape[1], 100)
        ]
        return {"average_precision": self.bootstrap.interval(np.concatenate(parts)), **counts}

    def presence_curve(self) -> list[tuple[float, float, float]]:
        """Presence, precision and recall where the presence first reaches each of `CURVE_STEPS`
        evenly spaced recalls, from the highest presence down; empty without present queries."""
        if not self.rows["present"]:
            return []
        scores, there, _ = (np.array(column) for column in zip(*self._presence, strict=True))
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        found = np.cumsum(there[order])[ends]
        recall, precision = found / found[-1], found / (ends + 1)
        steps = np.arange(1, CURVE_STEPS + 1) / CURVE_STEPS
        first = np.unique(np.searchsorted(recall, steps - 1e-12))
        columns = (scores[order][ends], precision, recall)
        return list(zip(*(column[first].tolist() for column in columns), strict=True))

    def class_table(self, names: Mapping[int, str]) -> list[dict[str, Any]]:
        """Sums, counts and IoU of every class that occurs, per rule.

        Returns:
            id, name, images (that show it), truth (pixels), and by rule: intersection, predicted
            and union in pixels, iou, and how often the class was "asked" where present, "missed"
            with an empty mask there, "asked_absent" and "invented" with a mask there.
        """
        table = []
        for number, key in enumerate(self.classes):
            truth = int(self._truth[number, 0])
            entry: dict[str, Any] = {
                "id": key, "name": names[key], "images": int(self.class_images[number]),
                "truth": truth,
            }  # fmt: skip
            seen = truth > 0
            for rule, name in enumerate(RULES):
                if self._has[rule]:
                    inside, predicted = (int(n) for n in self._counts[rule, number, :, 0])
                    union = predicted + truth - inside
                    seen |= predicted > 0
                    (asked, missed), (absent, empty) = self._asked[rule, number].tolist()
                    entry[name] = {"intersection": inside, "predicted": predicted, "union": union,
                                   "iou": inside / union if union else None,
                                   "asked": asked, "missed": missed, "asked_absent": absent,
                                   "invented": absent - empty}  # fmt: skip
            if seen:
                table.append(entry)
        return table


def _quality(
    inside: np.ndarray, predicted: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU where the union has pixels; precision and recall where the truth has, a class that is
    never predicted having precision 0; NaN elsewhere."""
    precision = np.where(truth > 0, np.nan_to_num(ratio(inside, predicted)), np.nan)
    there = np.broadcast_to(truth, inside.shape)
    return ratio(inside, predicted + truth - inside), precision, ratio(inside, there)


def best_threshold(curve: np.ndarray) -> int | None:
    """k of the highest mIoU among thresholds 1 to 256, the nearest to 128 of equal ones; None
    where the curve is empty."""
    values = curve[1:]
    if np.isnan(values).all():
        return None
    best = np.flatnonzero(values == np.nanmax(values)) + 1
    return int(best[np.argmin(np.abs(best - (BINS - 1) // 2))])


def calibrated_threshold(
    records: Iterable[Record], classes: Sequence[int]
) -> tuple[int | None, float]:
    """The threshold of the highest mIoU over some images, and that mIoU."""
    tally = Tally(classes, Bootstrap(replicates=0))
    for record in records:
        if "error" not in record:
            tally.add(record)
    curve = tally.curve()
    best = best_threshold(curve)
    return best, float("nan") if best is None else float(curve[best])
