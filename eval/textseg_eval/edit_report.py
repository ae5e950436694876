"""The pages of a run of edits, and of several side by side: curves, tables, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import page
from .charts import COLOURS, Line, chart
from .edit_pictures import caption, lead, margins, pictured, row_of, shot, spread_of, told
from .edit_tables import AXES, NAMES, compared_tables, edit_table, figures_of
from .edit_worker import BEFORE
from .records import RecordFile
from .report import write_page
from .results import RECORDS

REPORT = "edit.html"
DASHES = ("", "2 3", "8 3", "8 3 2 3")
"""Of the lines of one method, by order."""


def write_report(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write edit.html, whole or not at all; it needs no other file.

    Raises:
        OutputError: it cannot be written.
    """
    rows, run = results["rows"], results["run"]
    pairs = ", ".join(f"{a} to {b or 'nothing'}" for a, b in run["pairs"].items())
    region = "the annotated region" if run["truth_mask"] else "the region the model finds"
    ratios, scales = (", ".join(f"{v:g}" for v in run[key]) for key in ("ratios", "guidances"))
    parts = [
        page.heading("Edits: what they change and what they leave", 1),
        page.paragraph(
            f"{results['images']} images of {run['dataset']['name']}, model {run['model']}, "
            f"{run['options']['steps']} steps, guidance {scales}; edited: {region}. Swaps: {pairs}."
        ),
        page.paragraph(
            "Background figures are over the pixels outside the annotated region. An edit took if, "
            "inside the annotated region, the model explains the noise better with the target's "
            f"prompt than with the source's. Points along a curve: r = {ratios}; up and to the "
            "right is better (for LPIPS: up and to the left)."
        ),
    ]
    shown = [name for name in ("psnr", "ssim", "lpips") if name in figures_of(rows)]
    data = edit_table(rows)
    parts += [
        page.heading("Trade-offs"),
        page.charts([curves(rows, name, "took") for name in shown]),
        *_pictures(folder, results),
        page.heading(data.title),
        page.table(data),
        page.paragraph(
            "Means with 95 % bootstrap intervals over images. Identical backgrounds count as "
            f"100 dB. {results['failed']} images failed and are left out.",
            soft=True,
        ),
    ]
    for failure in results["failures"]:
        parts.append(page.paragraph(f"Not edited: {failure['file_name']}: {failure['error']}"))
    return write_page(folder / REPORT, "textseg eval edit", parts)


def _pictures(folder: Path, results: Mapping[str, Any]) -> list[str]:
    shown = results["shown"]
    if not shown:
        return []
    by = lead(shown)
    with RecordFile(folder / RECORDS, read_only=True) as records:
        found = margins(records.records("test"), by)
        ranked = sorted(found, key=lambda image_id: (found[image_id], str(image_id)))
        parts: list[str] = []
        for name, ids in spread_of(ranked).items():
            made = [pictured(folder, records.read(image_id), shown) for image_id in ids]
            rows = [row for row in made if row]
            if rows:
                parts += [page.heading(name.capitalize(), 3), page.gallery(rows, wide=True)]
    if not parts:
        return []
    setting = ", ".join(f"{AXES[axis]} {by[axis]:g}" for axis in ("ratio", "level", "guidance")
                        if by[axis] is not None)  # fmt: skip
    told = f"Ranked by the evidence margin of {by['method']}; {setting or 'no settings'}."
    return [page.heading("Images: before, mask, after"), page.paragraph(told, soft=True), *parts]


def compared_edits(compared: Mapping[str, Any], title: str) -> list[str]:
    """The parts of a page about runs of edits side by side."""
    parts = [
        page.heading(f"{title}{compared['data']['name']}, edits", 1),
        page.paragraph(
            f"{compared['images']} images that every run edited; paired bootstrap over images.",
            soft=True,
        ),
    ]
    for table in compared_tables(compared):
        parts += [page.heading(table.title), page.table(table)]
    return parts + _differences(compared)


def _differences(compared: Mapping[str, Any]) -> list[str]:
    """The images the runs differ most on; none where their pictures are gone."""
    runs = compared["runs"]
    folders = [Path(run["folder"]) for run in runs]
    parts: list[str] = []
    with ExitStack() as stack:
        files = [stack.enter_context(RecordFile(f / RECORDS, read_only=True)) for f in folders]
        for title, ids in compared["differ_most"].items():
            rows = []
            for image_id in ids:
                records = [file.read(image_id) for file in files]
                shots = [shot(folders[0], BEFORE, records[0], "before")]
                for folder, record, run in zip(folders, records, runs, strict=True):
                    row = row_of(record, run["shown"])
                    assert row is not None
                    shots.append(shot(folder, run["shown"]["method"], record,
                                      told(run["name"], row)))  # fmt: skip
                if all(shots):
                    rows.append(page.row([each for each in shots if each], caption(records[0])))
            if rows:
                parts += [page.heading(title, 3), page.gallery(rows, wide=True)]
    if not parts:
        return []
    told_of = f"By the evidence margin of {runs[0]['shown']['method']}."
    return [page.heading("Where they differ most"), page.paragraph(told_of, soft=True), *parts]


def curves(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> str:
    """One line per method, threshold and guidance, through its ratios."""
    points: dict[tuple[str, Any, Any], list[tuple[float, float]]] = {}
    for row in rows:
        if x in row and y in row:
            key = row["method"], row["level"], row.get("guidance")
            points.setdefault(key, []).append((row[x]["mean"], row[y]["mean"]))
    several = len({guidance for _, _, guidance in points} - {None}) > 1
    methods = list(dict.fromkeys(method for method, _, _ in points))
    of_method: dict[str, int] = {}
    lines = []
    for (method, level, guidance), line in points.items():
        number = of_method[method] = of_method.get(method, -1) + 1
        name = method + ("" if level is None else f", threshold {level:g}")
        name += f", guidance {guidance:g}" if several and guidance is not None else ""
        lines.append(
            Line(name, line, COLOURS[methods.index(method) % len(COLOURS)],
                 DASHES[number % len(DASHES)], dots=True)
        )  # fmt: skip
    return chart(lines, x=NAMES[x], y=NAMES[y], across=None, title=f"{NAMES[y]} against {NAMES[x]}")
