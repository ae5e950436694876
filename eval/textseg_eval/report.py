"""report.html of a run, of a comparison and of a sweep."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg.drawing import PALETTE, tint
from textseg.errors import ImageError, OutputError
from textseg.masks import decode_rle
from textseg.saving import utf8, write_atomic

from . import page
from .ablation import figure as interval_text
from .ablation import left_out
from .datasets import Dataset, Example
from .edit_report import compared_edits
from .protocols import BACKGROUND, LabelMap, Protocol
from .records import RecordFile
from .run import RECORDS, failed_in, image_iou, load_results
from .workers import read_stored

REPORT = "report.html"
SIDE = 320
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


def write_report(folder: Path, dataset: Dataset, protocol: Protocol) -> Path:
    """Write report.html of a finished run, pictures included.

    Raises:
        InputError: the folder holds no finished run.
        OutputError: the report cannot be written.
    """
    results = load_results(folder)
    parts = [*_head(results), *_figures(results), *_presence(results), *_curve(results)]
    parts += _classes(results)
    by_id = {example.image_id: example for example in dataset.examples}
    with RecordFile(folder / RECORDS, read_only=True) as records:
        parts += _pictures(results, records, by_id, dataset, protocol)
    parts += _origin(results)
    return _write(folder / REPORT, page.page(_title(results), parts))


def _write(path: Path, text: str) -> Path:
    write_atomic(path, utf8(text))
    return path


def _title(results: Mapping[str, Any]) -> str:
    method = results["method"]
    model = f" on {method['model']}" if method["model"] else ""
    return f"{method['method']}{model}: {results['data']['name']}, {results['protocol']['name']}"


def _head(results: Mapping[str, Any]) -> list[str]:
    counts, headline = results["counts"], results["headline"]
    figures = results["figures"].get(headline, {})
    shown = [(FIGURE_NAMES[n], _plain(figures.get(n))) for n in ("miou", "image_iou", "boundary_f")]
    presence = results["presence"]["average_precision"]
    if presence:
        shown.append(("presence, average precision", _plain(presence)))
    if (figures.get("empty_when_absent") or {}).get("value") is not None:
        shown.append(("empty when absent", _plain(figures["empty_when_absent"])))
    lines = f"{counts['scored']} images scored"
    if counts["calibration"]:
        lines += f", {counts['calibration']} more used to fix the threshold"
    if failed := failed_in(results):
        lines += f", {failed} failed and are left out"
    level = round(100 * results["bootstrap"]["level"])
    return [
        page.heading(_title(results), 1),
        page.paragraph(f"{lines}. Headline: {RULE_NAMES[headline]}. Intervals: {level} %, "
                       "bootstrap over images.", soft=True),
        page.cards(shown),
    ]  # fmt: skip


def _plain(interval: Mapping[str, Any] | None) -> str:
    return "-" if not interval or interval["value"] is None else f"{interval['value']:.3f}"


def _cell(interval: Mapping[str, Any] | None) -> str:
    """A figure with its interval on a second line."""
    return interval_text(interval).replace(" (", "\n").rstrip(")")


def _figures(results: Mapping[str, Any]) -> list[str]:
    figures = results["figures"]
    names = [n for n in FIGURE_NAMES if any(n in each for each in figures.values())]
    rules = [rule for rule in RULE_NAMES if rule in figures]
    rows = [[FIGURE_NAMES[n], *(_cell(figures[rule].get(n)) for rule in rules)] for n in names]
    threshold = results["threshold"]
    notes = [f"{rule}: {RULE_NAMES[rule].split(': ')[-1]}" for rule in rules if rule != "fixed"]
    if threshold:
        how = {"calibrate": "fixed on the calibration images", "given": "given"}
        notes.append(f"fixed: score at least {threshold['value']:.4g}, {how[threshold['rule']]}")
    return [page.heading("Figures"), page.table(["", *rules], rows),
            page.paragraph("; ".join(notes) + ".", soft=True)]  # fmt: skip


def _presence(results: Mapping[str, Any]) -> list[str]:
    presence = results["presence"]
    if not presence["average_precision"]:
        return []
    share = presence["present"] / (presence["present"] + presence["absent"])
    return [
        page.heading("Is it there at all?"),
        page.paragraph(
            f"Average precision {interval_text(presence['average_precision'])} over "
            f"{presence['present']} present and {presence['absent']} absent queries; "
            f"a blind guess scores {share:.3f}."
        ),
    ]


def _curve(results: Mapping[str, Any]) -> list[str]:
    marks = []
    if results["threshold"]:
        marks.append(("fixed", results["threshold"]["value"]))
    if "oracle" in results["figures"]:
        marks.append(("oracle", results["figures"]["oracle"]["threshold"]))
    chart = page.curve(results["curve"][1:], marks, x="threshold on the score", y="mIoU")
    return [page.heading("mIoU against the threshold"), chart] if chart else []


def _classes(results: Mapping[str, Any]) -> list[str]:
    rule = results["headline"]
    known = [c for c in results["classes"] if rule in c and c[rule]["iou"] is not None]
    if len(known) < 2:
        return []
    known.sort(key=lambda c: (-c[rule]["iou"], c["name"]))
    return [
        page.heading(f"IoU by class ({len(known)})"),
        page.bars({c["name"]: c[rule]["iou"] for c in known}),
    ]


def _pictures(
    results: Mapping[str, Any],
    records: RecordFile,
    by_id: Mapping[int | str, Example],
    dataset: Dataset,
    protocol: Protocol,
) -> list[str]:
    parts: list[str] = []
    shown: set[int | str] = set()
    for name in ("best", "median", "worst"):
        figures = []
        for image_id in results["examples"][name]:
            if image_id in by_id and image_id not in shown:
                shown.add(image_id)
                drawn = _drawn(by_id[image_id], records.read(image_id), dataset, protocol,
                               results["headline"])  # fmt: skip
                figures += [drawn] if drawn else []
        if figures:
            parts += [page.heading(name.capitalize(), 3), page.gallery(figures)]
    if parts:
        parts.insert(0, page.heading("Images: picture, truth, mask"))
    return parts


def _drawn(
    example: Example,
    record: Mapping[str, Any],
    dataset: Dataset,
    protocol: Protocol,
    rule: str,
) -> str | None:
    """Picture, truth and mask of one image; None where they can no longer be read."""
    try:
        image = _fit(read_stored(example.path))
        labels = None
        if isinstance(protocol, LabelMap):
            labels = example.truth.labels({k: n for n, k in enumerate(protocol.texts, start=1)})
        truth, mask, names = image, image, []
        for number, row in enumerate(_objects(record)):
            color = PALETTE[number % len(PALETTE)]
            names.append(row["text"] or dataset.categories.get(row["category_id"], ""))
            if labels is not None and isinstance(protocol, LabelMap):
                place = list(protocol.texts).index(row["category_id"]) + 1
                region = labels == place
            elif row["truth"]:
                region = example.truth.region(row.get("key", row["category_id"]))[0]
            else:
                region = np.zeros((1, 1), bool)
            truth = tint(truth, _fit_mask(region, image), color, 0.5)
            if row["rle"]:
                mask = tint(mask, _fit_mask(decode_rle(row["rle"]), image), color, 0.5)
    except (ImageError, OSError):
        return None
    iou = image_iou(record, rule)
    shots = [page.picture(pixels, alt, side=SIDE) for pixels, alt in
             ((image, "picture"), (truth, "truth"), (mask, "mask"))]  # fmt: skip
    caption = f"{example.file_name}: IoU {iou:.3f}" if iou is not None else example.file_name
    return page.figure(shots, f"{caption} ({', '.join(names)})")


def _objects(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows with something to draw, largest truth first."""
    rows = [row for row in record["rows"]
            if row["category_id"] != BACKGROUND and (row.get("truth") or row.get("rle"))
            and row.get("truth") is not None]  # fmt: skip
    return sorted(rows, key=lambda row: -row["truth"])


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


def _origin(results: Mapping[str, Any]) -> list[str]:
    time, counts = results["time"], results["counts"]
    seconds = time["method_seconds"] / max(1, counts["scored"])
    parts = [page.heading("How it was made")]
    if results["command"]:
        parts.append(page.preformatted(results["command"]))
    share = time["scoring_share"]
    parts.append(
        page.paragraph(
            f"{seconds:.3g} s an image for the masks; counting took "
            f"{'-' if share is None else f'{100 * share:.1f} %'} of the time. "
            f"Data set {results['data']['fingerprint'][:16]}."
        )
    )
    for failure in results["failures"]:
        parts.append(page.paragraph(f"Not scored: {failure['file_name']}: {failure['error']}"))
    if unlisted := failed_in(results) - len(results["failures"]):
        parts.append(page.paragraph(f"Not scored: {unlisted} more."))
    keep = ("method", "protocol", "tagger", "split", "threshold", "counts", "versions")
    text = json.dumps({key: _short(results[key]) for key in keep}, indent=1, ensure_ascii=False)
    parts.append(page.preformatted(text, "All settings"))
    return parts


def _short(value: Any) -> Any:
    """The same without the long list of texts."""
    if isinstance(value, Mapping) and len(value.get("texts", ())) > 8:
        first = dict(list(value["texts"].items())[:3])
        return {**value, "texts": {**first, "...": f"{len(value['texts']) - 3} more"}}
    return value


def write_comparison(path: Path, groups: Mapping[str, Mapping[str, Any]]) -> Path:
    """Comparisons, by the name of what they are about, as one page; "-" is standard output.

    Raises:
        OutputError: the page cannot be written.
    """
    parts = []
    for name, compared in groups.items():
        made = compared_edits if compared.get("kind") == "edit" else _compared
        parts += made(compared, f"{name}: " if name else "")
        parts += [page.paragraph(f"{line}.") for line in left_out(compared["runs"])]
    text = page.page("Comparison", parts)
    if str(path) == "-":
        sys.stdout.write(text)
        return path
    try:
        return _write(path, text)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error}") from error


def _compared(compared: Mapping[str, Any], title: str) -> list[str]:
    rows = []
    for run in compared["runs"]:
        gap = run.get("difference", {}).get("miou")
        better = "" if not gap or gap["better"] is None else f"\nbetter in {gap['better']:.1%}"
        rows.append(
            [
                f"{run['name']}\n{run['method']['method']} {run['method']['model'] or ''}",
                run["headline"],
                *(_cell(run["figures"][name]) for name in ("miou", "image_iou", "query_iou")),
                "-" if gap is None else interval_text(gap) + better,
                f"{run['seconds_per_image']:.3g}",
            ]
        )
    head = ["run", "rule", "mIoU", "IoU per image", "IoU per query", "mIoU against the first",
            "s per image"]  # fmt: skip
    return [
        page.heading(f"{title}{compared['data']['name']}, {compared['protocol']}", 1),
        page.paragraph(f"{compared['images']} images that every run scored; paired bootstrap over "
                       "images.", soft=True),
        page.table(head, rows),
    ]  # fmt: skip


def write_sweep(path: Path, records: Sequence[Mapping[str, Any]], title: str, command: str) -> Path:
    """A sweep's table as one page, with bars."""
    columns = {"own": "mIoU, own rule", "fixed": "mIoU, fixed threshold", "oracle": "oracle",
               "own_image_iou": "IoU per image", "own_boundary_f": "boundary F",
               "empty_when_absent": "empty when absent", "presence_ap": "presence AP"}  # fmt: skip
    rows = [[record["name"], *(_cell(record[key]) for key in columns)] for record in records]
    key = "own" if any(record["own"] for record in records) else "fixed"
    known = {record["name"]: (record[key] or {}).get("value") for record in records}
    heights = {name: value for name, value in known.items() if value is not None}
    parts = [
        page.heading(title, 1),
        page.paragraph("Each setting differs from the base in what its name says; all share the "
                       "model's predictions.", soft=True),
        page.table(["setting", *columns.values()], rows),
        *(page.paragraph(f"{line}.") for line in left_out(records)),
        page.heading(columns[key]),
        page.bars(heights),
        page.heading("How it was made"),
        page.preformatted(command),
    ]  # fmt: skip
    return _write(path, page.page(title, parts))
