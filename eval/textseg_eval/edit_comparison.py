"""Runs of edits side by side, setting by setting, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import InputError

from .aggregate import Bootstrap
from .comparison import common_images, differ_most, differing, run_names
from .counters import ratio, replicate_weights
from .edit_pictures import lead, margins
from .edit_plan import Setting
from .edit_run import FIGURES
from .edit_tables import SHARES
from .records import RecordFile
from .results import RECORDS, load_results

Values = dict[Setting, dict[str, np.ndarray]]


def is_edit(run: Path) -> bool:
    """Whether a folder holds a finished run of `textseg eval edit`."""
    try:
        load_results(run, "edit")
    except InputError:
        return False
    return True


def compare_edits(
    runs: Sequence[Path], *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Compare runs of edits over the same images and swaps.

    For every setting that all runs have, each figure is averaged again over the images all of them
    edited, with the same bootstrap weights for the same image.

    Args:
        runs: folders, the first is what the others are set against.
        replicates, seed, level: of the bootstrap.

    Returns:
        JSON-able: "images"; "settings" in which the runs differ (see `comparison.differing`);
        "differ_most", by evidence margin (see `comparison.differ_most`); "runs", each with the
        setting "shown" by pictures and "rows": a setting, its figures with intervals, and for all
        but the first run "difference" with the share of replicates in which the figure is higher.

    Raises:
        InputError: fewer than two runs, other images or swaps, or nothing in common.
    """
    if len(runs) < 2:
        raise InputError(f"runs must be two or more, got {len(runs)}")
    results = [load_results(run, "edit") for run in runs]
    loaded = [each["run"] for each in results]
    for run, about in zip(runs[1:], loaded[1:], strict=True):
        for what, key in (("data set", "dataset"), ("swaps", "pairs"), ("pair seed", "seed")):
            if about[key] != loaded[0][key]:
                raise InputError(f"runs must share the {what}, got another in {run}")
    common = common_images(runs)
    bootstrap = Bootstrap(replicates, seed, level)
    # One scale a run is an option in which runs may differ; several are settings of their own.
    scales = any(len(about.get("guidances", ())) > 1 for about in loaded)
    values = [_values(run, common, bootstrap, scales) for run in runs]
    order = [_setting(row, scales) for row in results[0]["rows"]]
    settings = [key for key in order if all(key in each for each in values)]
    if not settings:
        raise InputError("runs must have a method, ratio and threshold in common, got none")
    names, shown = run_names(runs), _shown(results)
    return {
        "kind": "edit",
        "images": len(common),
        "data": loaded[0]["dataset"],
        "bootstrap": {"replicates": replicates, "seed": seed, "level": level},
        "settings": differing([{**about, "versions": each["versions"]}
                               for about, each in zip(loaded, results, strict=True)]),
        "differ_most": differ_most(_margins(runs, shown, common), names) if all(shown) else {},
        "runs": [
            {
                "name": name,
                "folder": str(run),
                "shown": setting,
                "model": each["run"]["model"],
                "failed": each["failed"],
                "rows": [
                    _row(key, found[key], None if found is values[0] else values[0][key], bootstrap)
                    for key in settings
                ],
            }
            for run, name, setting, each, found in zip(runs, names, shown, results, values,
                                                       strict=True)
        ],
    }  # fmt: skip


def _shown(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The setting of each run that its pictures show, of a method that all runs have; {} where
    there is none."""
    offered = [{s["method"]: s for s in each.get("shown", ())} for each in results]
    both = [s for method, s in offered[0].items() if all(method in each for each in offered)]
    method = lead(both)["method"] if both else None
    return [each.get(method, {}) for each in offered]


def _margins(
    runs: Sequence[Path], shown: Sequence[Mapping[str, Any]], common: set[int | str]
) -> list[dict[int | str, float]]:
    found = []
    for run, setting in zip(runs, shown, strict=True):
        with RecordFile(run / RECORDS, read_only=True) as file:
            records = (r for r in file.records("test") if r["image_id"] in common)
            found.append(margins(records, setting))
    return found


def _values(run: Path, common: set[int | str], bootstrap: Bootstrap, scales: bool) -> Values:
    """The sample's mean and the replicates' of every figure, by setting.

    Args:
        scales: whether the guidance scale is part of a setting.
    """
    sums: dict[Setting, dict[str, np.ndarray]] = {}
    with RecordFile(run / RECORDS, read_only=True) as file:
        for record in file.records("test"):
            if record["image_id"] not in common:
                continue
            weights = replicate_weights(record["image_id"], bootstrap.seed, bootstrap.replicates)
            for row in record["rows"]:
                figures = sums.setdefault(_setting(row, scales), {})
                for name in FIGURES:
                    if row.get(name) is not None:
                        part = np.outer([row[name], 1.0], weights)
                        figures[name] = figures.get(name, 0.0) + part
    return {
        key: {name: ratio(*both) for name, both in figures.items()} for key, figures in sums.items()
    }


def _setting(row: Mapping[str, Any], scales: bool) -> Setting:
    scale = row.get("guidance") if scales else None
    return Setting(row["method"], row["ratio"], row["level"], scale)


def _row(
    setting: Setting,
    values: Mapping[str, np.ndarray],
    base: Mapping[str, np.ndarray] | None,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    def interval(name: str, each: np.ndarray, least: float) -> dict[str, float | None]:
        share = name in SHARES
        return bootstrap.interval(each, least if share else -np.inf, 1.0 if share else np.inf)

    row: dict[str, Any] = setting._asdict()
    row["figures"] = {name: interval(name, each, 0.0) for name, each in values.items()}
    if base is not None:
        row["difference"] = {}
        for name in (name for name in values if name in base):
            gap = values[name] - base[name]
            draws = bootstrap.centred(gap)
            higher = float(np.mean(draws > 0)) if draws.size else None
            row["difference"][name] = {**interval(name, gap, -1.0), "higher": higher}
    return row
