"""Runs of edits side by side, setting by setting, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import InputError

from .aggregate import Bootstrap
from .comparison import common_images, differing, run_names
from .counters import ratio, replicate_weights
from .edit_run import FIGURES
from .records import RecordFile
from .run import RECORDS, load_results

Setting = tuple[str, float | None, float | None]
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
        JSON-able: "images" and "runs", each with "rows": a setting, its figures with intervals,
        and for all but the first run "difference" with the share of replicates in which the
        figure is higher.

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
    values = [_values(run, common, bootstrap) for run in runs]
    settings = [key for key in values[0] if all(key in each for each in values)]
    if not settings:
        raise InputError("runs must have a method, ratio and threshold in common, got none")
    return {
        "kind": "edit",
        "images": len(common),
        "data": loaded[0]["dataset"],
        "bootstrap": {"replicates": replicates, "seed": seed, "level": level},
        "settings": differing([{**about, "versions": each["versions"]}
                               for about, each in zip(loaded, results, strict=True)]),
        "runs": [
            {
                "name": name,
                "model": each["run"]["model"],
                "failed": each["failed"],
                "rows": [
                    _row(key, found[key], None if found is values[0] else values[0][key], bootstrap)
                    for key in settings
                ],
            }
            for name, each, found in zip(run_names(runs), results, values, strict=True)
        ],
    }  # fmt: skip


def _values(run: Path, common: set[int | str], bootstrap: Bootstrap) -> Values:
    """The sample's mean and the replicates' of every figure, by setting."""
    sums: dict[Setting, dict[str, np.ndarray]] = {}
    with RecordFile(run / RECORDS, read_only=True) as file:
        for record in file.records("test"):
            if record["image_id"] not in common:
                continue
            weights = replicate_weights(record["image_id"], bootstrap.seed, bootstrap.replicates)
            for row in record["rows"]:
                figures = sums.setdefault((row["method"], row["ratio"], row["level"]), {})
                for name in FIGURES:
                    if row.get(name) is not None:
                        part = np.outer([row[name], 1.0], weights)
                        figures[name] = figures.get(name, 0.0) + part
    return {
        key: {name: ratio(*both) for name, both in figures.items()} for key, figures in sums.items()
    }


def _row(
    setting: Setting,
    values: Mapping[str, np.ndarray],
    base: Mapping[str, np.ndarray] | None,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    def interval(each: np.ndarray) -> dict[str, float | None]:
        return bootstrap.interval(each, -np.inf, np.inf)

    row: dict[str, Any] = dict(zip(("method", "ratio", "level"), setting, strict=True))
    row["figures"] = {name: interval(each) for name, each in values.items()}
    if base is not None:
        row["difference"] = {}
        for name in (name for name in values if name in base):
            gap = values[name] - base[name]
            draws = bootstrap.centred(gap)
            higher = float(np.mean(draws > 0)) if draws.size else None
            row["difference"][name] = {**interval(gap), "higher": higher}
    return row
