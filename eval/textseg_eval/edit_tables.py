"""The tables of a run of edits, and of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tables import Cell, Figure, Table, shown

NAMES = {
    "took": "edit took",
    "margin": "evidence margin",
    "presence": "target's presence",
    "psnr": "background PSNR, dB",
    "ssim": "background SSIM",
    "lpips": "background LPIPS",
    "change": "change inside",
    "clip": "CLIP score",
    "fid": "FID",
}
SHARES = ("took", "presence")
"""Figures from 0 to 1, written as percentages."""
AXES = {"method": "method", "ratio": "r", "level": "threshold", "guidance": "guidance"}
"""What a setting is made of."""


def edit_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means with their 95 % intervals, a row per setting."""
    axes, columns = _axes(rows), figures_of(rows)
    cells = [
        [*_setting(row, axes), *(_figure(row.get(name), name) for name in columns)] for row in rows
    ]
    head = [AXES[axis] for axis in axes] + [NAMES[name] for name in columns]
    return Table("edits", "All settings", head, cells)


def figures_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that some row has."""
    return [name for name in NAMES if any(name in row for row in rows)]


def _axes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The parts of a setting that tell rows apart: all but the guidance where there is one only."""
    several = len({row.get("guidance") for row in rows} - {None}) > 1
    return [axis for axis in AXES if axis != "guidance" or several]


def _setting(row: Mapping[str, Any], axes: Sequence[str]) -> list[Cell]:
    return ["" if (value := row.get(axis)) is None else value for axis in axes]


def _figure(value: Any, name: str) -> Figure | None:
    if not isinstance(value, Mapping):
        return None if value is None else Figure(value, digits=2)
    ends = value.get("low"), value.get("high")
    middle = value["mean"] if "mean" in value else value["value"]
    if middle is None:
        return None
    digits = 0 if name in SHARES else 1 if name in ("psnr", "clip") else 3
    return Figure(middle, *ends, digits=digits, percent=name in SHARES)


def compared_tables(compared: Mapping[str, Any]) -> list[Table]:
    """What differs, and a table for each figure: its value in every run, and what each run has more
    of it than the first."""
    runs = compared["runs"]
    names = [run["name"] for run in runs]
    found = []
    if compared["settings"]:
        rows = [[name, *map(shown, map(_plain, values))]
                for name, values in compared["settings"].items()]  # fmt: skip
        found.append(Table("settings", "What differs", ["setting", *names], rows,
                           words=len(names) + 1))  # fmt: skip
    base = runs[0]["rows"]
    axes = _axes(base)
    for figure in (n for n in NAMES if any(n in row["figures"] for row in base)):
        head = [*(AXES[axis] for axis in axes), *names]
        for name in names[1:]:
            head += [f"{name} less {names[0]}", "higher in"]
        cells = []
        for number, row in enumerate(base):
            line = _setting(row, axes)
            line += [_figure(run["rows"][number]["figures"].get(figure), figure) for run in runs]
            for run in runs[1:]:
                gap = run["rows"][number]["difference"].get(figure)
                line += [_figure(gap, figure), _higher(gap)]
            cells.append(line)
        found.append(Table(figure, NAMES[figure], head, cells))
    return found


def _plain(value: Any) -> Cell:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _higher(gap: Mapping[str, Any] | None) -> Figure | None:
    if gap is None or gap["higher"] is None:
        return None
    return Figure(gap["higher"], digits=1, percent=True)
