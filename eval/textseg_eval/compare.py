"""Runs side by side, with the difference of each to the first by paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import InputError

from .aggregate import Bootstrap, Tally
from .protocols import BACKGROUND
from .records import RecordFile
from .run import RECORDS, load_results

FIGURES = ("miou", "image_iou", "query_iou")


@dataclass(frozen=True)
class Compared:
    """One run among others.

    Attributes:
        name: the folder's.
        results: its results.json.
        values: the sample's figure and the replicates', by figure, over the common images.
    """

    name: str
    results: dict[str, Any]
    values: dict[str, np.ndarray]


def compare(
    runs: Sequence[Path], *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Compare runs over the same data and protocol.

    Every run is counted again over the test images all of them have, with the same bootstrap
    weights for the same image, so that the difference of two runs is a paired one.

    Args:
        runs: folders, the first is what the others are set against.
        replicates, seed, level: of the bootstrap.

    Returns:
        JSON-able: "images", "runs" (each with its figures), and for all but the first "difference"
        with the share of replicates in which the run is better.

    Raises:
        InputError: fewer than two runs, other data or protocols, or no common image.
    """
    if len(runs) < 2:
        raise InputError(f"runs must be two or more, got {len(runs)}")
    loaded = [(run, load_results(run)) for run in runs]
    base = loaded[0][1]
    for run, results in loaded[1:]:
        for what, one, other in (
            ("data set", results["data"]["fingerprint"], base["data"]["fingerprint"]),
            ("protocol", results["protocol"]["name"], base["protocol"]["name"]),
        ):
            if one != other:
                raise InputError(f"runs must share the {what}, got another in {run}")
    bootstrap = Bootstrap(replicates, seed, level)
    common = _common([run for run, _ in loaded])
    compared = [_count(run, results, common, bootstrap) for run, results in loaded]
    first = compared[0]
    return {
        "images": len(common),
        "protocol": base["protocol"]["name"],
        "data": base["data"],
        "bootstrap": {"replicates": replicates, "seed": seed, "level": level},
        "runs": [
            {
                "name": run.name,
                "method": run.results["method"],
                "headline": run.results["headline"],
                "figures": {name: bootstrap.interval(v) for name, v in run.values.items()},
                **({} if run is first else {"difference": {
                    name: _difference(values, first.values[name], bootstrap)
                    for name, values in run.values.items()}}),
                "seconds_per_image": run.results["time"]["method_seconds"]
                / max(1, run.results["counts"]["scored"]),
            }
            for run in compared
        ],
    }  # fmt: skip


def _common(runs: Sequence[Path]) -> set[int | str]:
    common: set[int | str] | None = None
    for run in runs:
        with RecordFile(run / RECORDS, read_only=True) as file:
            scored = {r["image_id"] for r in file.records("test") if "error" not in r}
        common = scored if common is None else common & scored
    if not common:
        raise InputError("runs must have a test image in common, got none")
    return common


def _count(
    run: Path, results: dict[str, Any], common: set[int | str], bootstrap: Bootstrap
) -> Compared:
    with RecordFile(run / RECORDS, read_only=True) as file:
        classes = {
            row["category_id"] for record in file.records("test") for row in record.get("rows", ())
        }
        tally = Tally(sorted(classes | {BACKGROUND}), bootstrap)
        for record in file.records("test"):
            if record["image_id"] in common:
                tally.add(record)
    values = {name: tally.replicates(results["headline"], name) for name in FIGURES}
    return Compared(run.name, results, values)


def _difference(values: np.ndarray, base: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    gap = values - base
    draws = bootstrap.centred(gap)
    better = float(np.mean(draws > 0)) if draws.size else None
    return {**bootstrap.interval(gap, -1.0), "better": better}
