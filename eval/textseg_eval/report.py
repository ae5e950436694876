"""report.html of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.saving import utf8, write_atomic

from . import page, run_tables
from .datasets import Dataset
from .pictures import COLOURS, Masks, pictured
from .protocols import Protocol
from .records import RecordFile
from .results import RECORDS, failed_in, load_results
from .run_tables import FIGURE_NAMES, RULE_NAMES
from .tables import Figure, figure

REPORT = "report.html"


def write_report(folder: Path, dataset: Dataset, protocol: Protocol) -> Path:
    """Write report.html of a finished run, pictures included.

    Raises:
        InputError: the folder holds no finished run.
        OutputError: the report cannot be written.
    """
    results = load_results(folder)
    parts = [*_head(results), *_figures(results), *_presence(results)]
    parts += [page.heading("Curves"), page.charts(run_tables.run_charts(results)),
              page.paragraph(_CURVES, soft=True)]  # fmt: skip
    with RecordFile(folder / RECORDS, read_only=True) as records:
        parts += _pictures(results, records, dataset, protocol)
    parts += _classes(results)
    parts += _origin(results)
    return write_page(folder / REPORT, _title(results), parts)


def write_page(path: Path, title: str, parts: list[str]) -> Path:
    """A page, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_atomic(path, utf8(page.page(title, parts)))
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
    found = Figure.of(interval)
    return "-" if found is None else found.middle()


def _figures(results: Mapping[str, Any]) -> list[str]:
    rules = [rule for rule in RULE_NAMES if rule in results["figures"]]
    threshold = results["threshold"]
    notes = [f"{rule}: {RULE_NAMES[rule].split(': ')[-1]}" for rule in rules if rule != "fixed"]
    if threshold:
        how = {"calibrate": "fixed on the calibration images", "given": "given"}
        notes.append(f"fixed: score at least {threshold['value']:.4g}, {how[threshold['rule']]}")
    return [page.heading("Figures"), page.table(run_tables.figures(results)),
            page.paragraph("; ".join(notes) + ".", soft=True)]  # fmt: skip


def _presence(results: Mapping[str, Any]) -> list[str]:
    presence = results["presence"]
    if not presence["average_precision"]:
        return []
    share = presence["present"] / (presence["present"] + presence["absent"])
    return [
        page.heading("Is it there at all?"),
        page.paragraph(
            f"Average precision {figure(presence['average_precision'])} over "
            f"{presence['present']} present and {presence['absent']} absent queries; "
            f"a blind guess scores {share:.3f}."
        ),
    ]


_CURVES = (
    "Pixels: each class's pixels found and missed over all images, then the mean over the classes "
    "of the truth, as in the table; a class that is not found any more counts as precision 0, so "
    "that the line ends low. Presence: each query is one yes or no."
)


def _classes(results: Mapping[str, Any]) -> list[str]:
    return [
        part
        for table in run_tables.classes(results)
        for part in (page.heading(table.title), page.table(table))
    ]


def _pictures(
    results: Mapping[str, Any], records: RecordFile, dataset: Dataset, protocol: Protocol
) -> list[str]:
    by_id = {example.image_id: example for example in dataset.examples}
    parts: list[str] = []
    shown: set[int | str] = set()
    for name in ("best", "median", "worst"):
        rows = []
        for image_id in results["examples"][name]:
            if image_id in by_id and image_id not in shown:
                shown.add(image_id)
                masks = Masks("mask", records.read(image_id), results["headline"])
                drawn = pictured(by_id[image_id], [masks], dataset, protocol)
                rows += [drawn] if drawn else []
        if rows:
            parts += [page.heading(name.capitalize(), 3), page.gallery(rows)]
    if parts:
        parts[:0] = [
            page.heading("Images: picture, truth, mask"),
            page.paragraph(f"{COLOURS} Behind each name: its IoU.", soft=True),
        ]
    return parts


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
