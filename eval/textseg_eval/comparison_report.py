"""The page of runs side by side: figures, curves, classes, and the images they differ on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from textseg.errors import OutputError

from . import page
from .ablation import left_out
from .charts import COLOURS
from .datasets import Dataset
from .edit_report import compared_edits
from .pictures import COLOURS as PICTURE_COLOURS
from .pictures import Masks, pictured
from .protocols import LabelMap
from .records import RecordFile
from .reopening import reopened
from .report import write_page
from .results import RECORDS, load_results
from .run_tables import pixel_chart, pixel_line, presence_chart, presence_line
from .tables import Cell, Figure, Table, shown

FIGURES = {"miou": "mIoU", "image_iou": "IoU per image", "query_iou": "IoU per query"}


def write_comparison(
    path: Path, groups: Mapping[str, Mapping[str, Any]], dataset: Dataset | None = None
) -> Path:
    """Comparisons, by the name of what they are about, as one page; "-" is standard output.

    Args:
        dataset: the runs' images; without it they are looked for where the runs found them.

    Raises:
        OutputError: the page cannot be written.
    """
    parts = []
    for name, compared in groups.items():
        title = f"{name}: " if name else ""
        if compared.get("kind") == "edit":
            parts += compared_edits(compared, title)
        else:
            parts += _compared(compared, title, dataset)
        parts += [page.paragraph(f"{line}.") for line in left_out(compared["runs"])]
    if str(path) == "-":
        sys.stdout.write(page.page("Comparison", parts))
        return path
    try:
        return write_page(path, "Comparison", parts)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error}") from error


def comparison_tables(compared: Mapping[str, Any]) -> list[Table]:
    """Every table of a comparison of masks."""
    return [_figures(compared), *_settings(compared), *_classes(compared)]


def _compared(compared: Mapping[str, Any], title: str, dataset: Dataset | None) -> list[str]:
    runs = compared["runs"]
    parts = [
        page.heading(f"{title}{compared['data']['name']}, {compared['protocol']}", 1),
        page.paragraph(f"{compared['images']} images that every run scored; paired bootstrap over "
                       "images.", soft=True),
        page.table(_figures(compared)),
    ]  # fmt: skip
    for table in _settings(compared):
        parts += [page.heading(table.title), page.table(table)]
    colours = {run["name"]: COLOURS[n % len(COLOURS)] for n, run in enumerate(runs)}
    pixels = [pixel_line(run["precision_recall"], run["name"], colours[run["name"]])
              for run in runs]  # fmt: skip
    drawn = [pixel_chart(pixels)]
    asked = [run for run in runs if run["presence"]["average_precision"]]
    if asked:
        there = asked[0]["presence"]
        lines = [
            presence_line(run["presence"]["curve"], f"{run['name']}, average precision "
                          f"{run['presence']['average_precision']['value']:.3f}",
                          colours[run["name"]])
            for run in asked
        ]  # fmt: skip
        drawn.append(presence_chart(lines, there["present"] / (there["present"] + there["absent"])))
    parts += [page.heading("Curves"), page.charts(drawn)]
    parts += _pictures(compared, dataset)
    for table in _classes(compared):
        parts += [page.heading(table.title), page.table(table)]
    return parts


def _figures(compared: Mapping[str, Any]) -> Table:
    level = f"{100 * compared['bootstrap']['level']:g} %"
    head = ["run", "method", "rule", *FIGURES.values(), "presence AP",
            "mIoU against the first", "better in", "s per image"]  # fmt: skip
    rows: list[list[Cell]] = []
    for run in compared["runs"]:
        gap = run.get("difference", {}).get("miou")
        better = None if not gap or gap["better"] is None else gap["better"]
        rows.append(
            [
                run["name"],
                " ".join(filter(None, (run["method"]["method"], run["method"]["model"]))),
                run["headline"],
                *(Figure.of(run["figures"][name]) for name in FIGURES),
                Figure.of(run["presence"]["average_precision"]),
                Figure.of(gap),
                None if better is None else Figure(better, digits=1, percent=True),
                Figure(run["seconds_per_image"]),
            ]
        )
    return Table("comparison", f"Runs side by side, intervals of {level}", head, rows, words=3)


def _settings(compared: Mapping[str, Any]) -> list[Table]:
    """What is not alike in the runs; none where all is."""
    rows = [[name, *map(_said, values)] for name, values in compared["settings"].items()]
    if not rows:
        return []
    names = [run["name"] for run in compared["runs"]]
    return [Table("settings", "What differs", ["setting", *names], rows, words=len(names) + 1)]


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return shown(value)


def _classes(compared: Mapping[str, Any]) -> list[Table]:
    runs = compared["runs"]
    found: dict[int, list[Any]] = {}
    for number, run in enumerate(runs):
        for entry in run["classes"]:
            line = found.setdefault(
                entry["id"], [entry["name"], entry["images"]] + [None] * len(runs)
            )
            if entry["name"] != str(entry["id"]):
                line[0] = entry["name"]
            line[2 + number] = entry["iou"] if entry["iou"] is None else Figure(entry["iou"])
    gaps = len(runs) == 2
    rows = []
    for line in found.values():
        gap = [Figure(line[3].value - line[2].value) if line[2] and line[3] else None]
        rows.append([*line, *(gap if gaps else [])])
    rows.sort(key=lambda row: (row[2] is None, -(row[2].value if row[2] else 0), row[0]))
    head = ["class", "images with it", *(run["name"] for run in runs)]
    head += ["second less first"] if gaps else []
    return [Table("classes", f"IoU by class ({len(rows)})", head, rows)] if len(rows) > 1 else []


def _pictures(compared: Mapping[str, Any], dataset: Dataset | None) -> list[str]:
    """The images the runs differ most on; a line that says so where they cannot be shown."""
    wanted = compared["differ_most"]
    if not any(wanted.values()):
        return []
    folders = [Path(run["folder"]) for run in compared["runs"]]
    protocol = load_results(folders[0])["protocol"]
    labels = None
    if protocol["name"] in ("object", "predicted"):
        labels = LabelMap({int(key): tuple(texts) for key, texts in protocol["texts"].items()})
    parts = [page.heading("Where they differ most")]
    with ExitStack() as stack:
        files = [stack.enter_context(RecordFile(f / RECORDS, read_only=True)) for f in folders]
        dataset = dataset or reopened(compared["data"], [r["image_id"] for r in files[0].records()])
        if dataset is None:
            told = "The pictures are not shown: they lie no longer where the runs found them."
            return [*parts, page.paragraph(told)]
        by_id = {example.image_id: example for example in dataset.examples}
        parts.append(page.paragraph(f"By the mean IoU of an image's objects. {PICTURE_COLOURS}",
                                    soft=True))  # fmt: skip
        for title, ids in wanted.items():
            rows = []
            for image_id in ids:
                masks = [
                    Masks(run["name"], file.read(image_id), run["headline"])
                    for run, file in zip(compared["runs"], files, strict=True)
                ]
                if image_id in by_id and (
                    drawn := pictured(by_id[image_id], masks, dataset, labels)
                ):
                    rows.append(drawn)
            if rows:
                parts += [page.heading(title, 3), page.gallery(rows, wide=True)]
    return parts
