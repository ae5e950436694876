"""The tables and curves of one run, from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import charts
from .charts import COLOURS, Line, Mark
from .counters import BINS
from .tables import Cell, Figure, Table

RULE_NAMES = {
    "own": "own rule: the method's own masks",
    "fixed": "fixed threshold",
    "oracle": "oracle: best threshold on the scored images themselves",
}
FIGURE_NAMES = {
    "miou": "mIoU", "image_iou": "IoU per image", "query_iou": "IoU per query",
    "pooled_iou": "pooled IoU", "pixel_accuracy": "pixel accuracy", "precision": "precision",
    "recall": "recall", "boundary_f": "boundary F", "iou_above_0.5": "IoU at least 0.5",
    "iou_above_0.7": "IoU at least 0.7", "iou_above_0.9": "IoU at least 0.9",
    "empty_when_absent": "empty when absent", "empty_when_present": "empty when present",
}  # fmt: skip
RULE_COLOURS = {"own": COLOURS[4], "fixed": COLOURS[1], "oracle": COLOURS[2]}


def run_tables(results: Mapping[str, Any]) -> list[Table]:
    """Every table of a run, those of its curves too."""
    return [figures(results), *presence(results), *classes(results), *_curves(results)]


def figures(results: Mapping[str, Any]) -> Table:
    """Every figure by every rule."""
    found = results["figures"]
    names = [n for n in FIGURE_NAMES if any(n in each for each in found.values())]
    rules = [rule for rule in RULE_NAMES if rule in found]
    rows = [[FIGURE_NAMES[n], *(Figure.of(found[rule].get(n)) for rule in rules)] for n in names]
    return Table("figures", "Figures", ["figure", *rules], rows)


def presence(results: Mapping[str, Any]) -> list[Table]:
    """How well the presence tells what is there from what is not; none without both kinds."""
    found = results["presence"]
    if not found["average_precision"]:
        return []
    share = found["present"] / (found["present"] + found["absent"])
    head = ["average precision", "present queries", "absent queries", "a blind guess"]
    row: list[Cell] = [Figure.of(found["average_precision"]), found["present"], found["absent"],
                       Figure(share)]  # fmt: skip
    return [Table("presence", "Is it there at all?", head, [row], words=0)]


def classes(results: Mapping[str, Any]) -> list[Table]:
    """Figures and counts of every class by the headline's rule, the best first."""
    rule = results["headline"]
    known = [c for c in results["classes"] if rule in c and c[rule]["iou"] is not None]
    known.sort(key=lambda c: (-c[rule]["iou"], c["name"]))
    absent = any(c[rule].get("asked_absent") for c in known)
    head = ["class", "IoU", "precision", "recall", "images with it", "asked", "left empty"]
    head += ["asked where absent", "marked all the same"] if absent else []
    head += ["pixels of the truth", "of the masks", "of both"]
    rows = []
    for entry in known:
        sums = entry[rule]
        counts = [sums.get("asked"), sums.get("missed")]
        counts += [sums.get("asked_absent"), sums.get("invented")] if absent else []
        rows.append(
            [
                entry["name"],
                Figure(sums["iou"], digits=2),
                _share(sums["intersection"], sums["predicted"]),
                _share(sums["intersection"], entry["truth"]),
                entry["images"],
                *counts,
                entry["truth"],
                sums["predicted"],
                sums["intersection"],
            ]
        )
    return [Table("classes", f"Classes ({len(rows)})", head, rows, bar=1)] if rows else []


def _share(part: int, whole: int) -> Figure | None:
    return Figure(part / whole, digits=2) if whole else None


def _curves(results: Mapping[str, Any]) -> list[Table]:
    """The curves' points."""
    by_threshold = [
        [k / (BINS - 1), miou, *(pair or (None, None))]
        for k, (miou, pair) in enumerate(
            zip(results["curve"], results["precision_recall"], strict=True)
        )
    ]
    head = ["threshold", "mIoU", "precision", "recall"]
    found = [Table("thresholds", "mIoU, precision and recall at every threshold", head,
                   by_threshold, words=0)]  # fmt: skip
    if points := results["presence"]["curve"]:
        found.append(Table("presence-curve", "Precision and recall of the presence",
                           ["presence", "precision", "recall"], points, words=0))  # fmt: skip
    return found


def pixel_line(pairs: Sequence[Sequence[float] | None], name: str, colour: str) -> Line:
    """Precision against recall of the pixels, over the thresholds at which one is found."""
    points = dict.fromkeys((pair[1], pair[0]) for pair in pairs[1:] if pair and pair[1])
    return Line(name, list(points), colour)


def presence_line(curve: Sequence[Sequence[float]], name: str, colour: str) -> Line:
    """Precision against recall of the presence."""
    return Line(name, [(recall, precision) for _, precision, recall in curve], colour)


PIXELS = "Pixels: precision against recall over the thresholds"
PRESENCE = "Presence: precision against recall over the queries"


def pixel_chart(lines: Sequence[Line], marks: Sequence[Mark] = ()) -> str:
    """The chart of `pixel_line`s."""
    return charts.chart(lines, x="recall", y="precision", marks=marks, title=PIXELS)


def presence_chart(lines: Sequence[Line], share: float) -> str:
    """The chart of `presence_line`s, with the precision of a blind guess."""
    blind = Line("a blind guess", [(0, share), (1, share)], "var(--soft)", "3 4")
    return charts.chart([*lines, blind], x="recall", y="precision", title=PRESENCE)


def run_charts(results: Mapping[str, Any]) -> list[str]:
    """mIoU against the threshold, and both curves of precision against recall."""
    found, threshold = results["figures"], results["threshold"]
    places = {"fixed": threshold and threshold["value"],
              "oracle": found.get("oracle", {}).get("threshold")}  # fmt: skip
    best = max((value for value in results["curve"] if value is not None), default=0.0)
    line = Line("mIoU", [(k / (BINS - 1), value) for k, value in enumerate(results["curve"])
                         if k and value is not None])  # fmt: skip
    marks = [Mark(name, place, None, RULE_COLOURS[name])
             for name, place in places.items() if place]  # fmt: skip
    drawn = [charts.chart([line], x="threshold on the score", y="mIoU", marks=marks,
                          up=(0.0, max(0.1, min(1.0, best * 1.1))),
                          title="mIoU against the threshold")]  # fmt: skip
    marks = [Mark(RULE_NAMES[rule].split(":")[0], each["recall"]["value"],
                  each["precision"]["value"], RULE_COLOURS[rule])
             for rule, each in found.items() if each["recall"]["value"] is not None]  # fmt: skip
    pixels = pixel_line(results["precision_recall"], "all thresholds", COLOURS[0])
    drawn.append(pixel_chart([pixels], marks))
    there = results["presence"]
    if there["average_precision"]:
        share = there["present"] / (there["present"] + there["absent"])
        name = f"presence, average precision {there['average_precision']['value']:.3f}"
        drawn.append(presence_chart([presence_line(there["curve"], name, COLOURS[3])], share))
    return drawn
