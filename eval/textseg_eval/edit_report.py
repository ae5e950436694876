"""The report of an editing run: one page with its curves and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import page
from .charts import COLOURS, Line, chart
from .edit_tables import NAMES, compared_tables, edit_table, figures_of

DASHES = ("", "2 3", "8 3", "8 3 2 3")
"""Of the lines of one method, by order."""


def write_report(path: Path, results: Mapping[str, Any]) -> None:
    """The page, whole or not at all; it needs no other file."""
    from textseg.saving import utf8, write_atomic

    rows, run = results["rows"], results["run"]
    pairs = ", ".join(f"{a} to {b or 'nothing'}" for a, b in run["pairs"].items())
    region = "the annotated region" if run["truth_mask"] else "the region the model finds"
    ratios = ", ".join(f"{r:g}" for r in run["ratios"])
    parts = [
        page.heading("Edits: what they change and what they leave", 1),
        page.paragraph(
            f"{results['images']} images of {run['dataset']['name']}, model {run['model']}, "
            f"{run['options']['steps']} steps, guidance {run['options']['guidance_scale']:g}; "
            f"edited: {region}. Swaps: {pairs}."
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
    write_atomic(path, utf8(page.page("textseg eval edit", parts)))


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
    return parts


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
