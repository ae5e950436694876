"""Runs side by side, with the difference of each to the first by paired bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import InputError

from .aggregate import Bootstrap, Tally
from .methods import METHODS
from .protocols import BACKGROUND
from .records import RecordFile
from .results import RECORDS, RESULTS, failed_in, image_iou, load_results

FIGURES = ("miou", "image_iou", "query_iou")


@dataclass(frozen=True)
class Compared:
    """One run among others.

    Attributes:
        name: see `run_names`.
        results: its results.json.
        values: the sample's figure and the replicates', by figure, over the common images.
        tally: of the common images.
        ious: the mean IoU of each common image that shows an object.
    """

    name: str
    results: dict[str, Any]
    values: dict[str, np.ndarray]
    tally: Tally
    ious: dict[int | str, float]


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
        JSON-able: "images", "runs" (each with its figures, curves and classes, and for all but the
        first "difference" with the share of replicates in which the run is better), "settings"
        (see `differing`) and "differ_most" (see `differ_most`).

    Raises:
        InputError: fewer than two runs, other data or protocols, or no common image.
    """
    if len(runs) < 2:
        raise InputError(f"runs must be two or more, got {len(runs)}")
    names = run_names(runs)
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
    common = common_images(runs)
    compared = [
        _count(run, name, results, common, bootstrap)
        for name, (run, results) in zip(names, loaded, strict=True)
    ]
    first = compared[0]
    return {
        "images": len(common),
        "protocol": base["protocol"]["name"],
        "data": base["data"],
        "bootstrap": {"replicates": replicates, "seed": seed, "level": level},
        "settings": differing([_settings(run.results) for run in compared]),
        "differ_most": differ_most([run.ious for run in compared], names),
        "runs": [
            {
                "name": run.name,
                "folder": str(folder),
                "method": run.results["method"],
                "headline": run.results["headline"],
                "failed": failed_in(run.results),
                "figures": {name: bootstrap.interval(v) for name, v in run.values.items()},
                "presence": {**run.tally.presence(), "curve": run.tally.presence_curve()},
                "precision_recall": run.tally.precision_recall(),
                "classes": _ious_by_class(run),
                **({} if run is first else {"difference": {
                    name: _difference(values, first.values[name], bootstrap)
                    for name, values in run.values.items()}}),
                "seconds_per_image": run.results["time"]["method_seconds"]
                / max(1, run.results["counts"]["scored"]),
            }
            for folder, run in zip(runs, compared, strict=True)
        ],
    }  # fmt: skip


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The settings in which runs are not alike: each one's value, None where it has none.

    Settings within settings are named by their path.

    >>> differing([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}}])
    {'b.c': [2, 3], 'b.d': [None, 4]}
    """
    flat = [dict(_paths(each)) for each in settings]
    names = dict.fromkeys(name for each in flat for name in each)
    values = {name: [each.get(name) for each in flat] for name in names}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def _paths(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _settings(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures of a run depend on but its images."""
    method = results["method"]
    threshold = results["threshold"] or {}
    return {
        "method": method["method"],
        **{key: method.get(key) for key in ("model", "options", "device", "dtype")},
        "rule": results["headline"],
        "threshold": threshold.get("value"),
        "absent queries": results["protocol"].get("absent"),
        "tagger": results.get("tagger") or results["protocol"].get("tagger"),
        "versions": results.get("versions", {}),
    }


MOST_DIFFERENT = 8
"""Images listed as those where runs differ most."""


def differ_most(
    ious: Sequence[Mapping[int | str, float]], names: Sequence[str]
) -> dict[str, list[int | str]]:
    """The images whose figures lie furthest apart, the furthest first.

    Args:
        ious: of each run, by image.
        names: of the runs.

    Returns:
        ids by what they show: of two runs those where either is better; of more, all together.

    >>> differ_most([{1: 0.5, 2: 0.5, 3: 0.5}, {1: 0.9, 2: 0.1, 3: 0.5}], ["a", "b"])
    {'b is better': [1], 'a is better': [2]}
    """
    common = [key for key in ious[0] if all(key in each for each in ious)]
    values = np.array([[each[key] for each in ious] for key in common]).reshape(-1, len(ious))

    def top(gaps: np.ndarray, count: int) -> list[int | str]:
        order = np.argsort(-gaps, kind="stable")[:count]
        return [common[n] for n in order if gaps[n] > 0]

    if len(ious) > 2:
        return {"all runs": top(np.ptp(values, axis=1), MOST_DIFFERENT)}
    gaps = values[:, 1] - values[:, 0]
    half = MOST_DIFFERENT // 2
    return {f"{names[1]} is better": top(gaps, half), f"{names[0]} is better": top(-gaps, half)}


def _ious_by_class(run: Compared) -> list[dict[str, Any]]:
    names = {entry["id"]: entry["name"] for entry in run.results["classes"]}
    table = run.tally.class_table({key: names.get(key, str(key)) for key in run.tally.classes})
    rule = run.results["headline"]
    return [
        {"id": entry["id"], "name": entry["name"], "images": entry["images"],
         "iou": entry[rule]["iou"]}
        for entry in table if rule in entry
    ]  # fmt: skip


def group(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Which runs are set against each other.

    The folder of a run of several methods holds a folder for each. Given alone, its methods are
    set against each other; several such folders are compared method by method, over the methods
    that all of them hold; beside the folder of a single run they stand for all their runs.

    Returns:
        the runs of the one comparison under "", or those of each method under its name.

    Raises:
        InputError: no method is in all of the folders.
    """
    parts = [_parts(run) for run in runs]
    if len(runs) == 1 or any("" in each for each in parts):
        return {"": [run for each in parts for run in each.values()]}
    shared = [name for name in parts[0] if all(name in each for each in parts)]
    if not shared:
        held = " and ".join(", ".join(each) for each in parts)
        raise InputError(f"runs of several methods must have one in common, got {held}")
    return {name: [each[name] for each in parts] for name in shared}


def _parts(run: Path) -> dict[str, Path]:
    """The folders of a run of several methods, or of a sweep, by name; else the run itself under
    ""."""
    if (run / RESULTS).is_file():
        return {"": run}
    first = [*METHODS, "base"]
    found = {path.parent.name: path.parent for path in run.glob(f"*/{RESULTS}")}
    names = sorted(found, key=lambda n: (first.index(n) if n in first else len(first), n))
    return {name: found[name] for name in names} or {"": run}


def run_names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents' as tell them apart."""
    paths = [run.resolve().parts for run in runs]
    different = len(set(paths))
    depth = next(n for n in range(1, 1000) if len({path[-n:] for path in paths}) == different)
    return ["/".join(path[-depth:]) for path in paths]


def common_images(runs: Sequence[Path]) -> set[int | str]:
    """The test images that every run scored.

    Raises:
        InputError: there is none.
    """
    common: set[int | str] | None = None
    for run in runs:
        with RecordFile(run / RECORDS, read_only=True) as file:
            scored = {r["image_id"] for r in file.records("test") if "error" not in r}
        common = scored if common is None else common & scored
    if not common:
        raise InputError("runs must have a test image in common, got none")
    return common


def _count(
    run: Path, name: str, results: dict[str, Any], common: set[int | str], bootstrap: Bootstrap
) -> Compared:
    with RecordFile(run / RECORDS, read_only=True) as file:
        classes = {
            row["category_id"] for record in file.records("test") for row in record.get("rows", ())
        }
        tally = Tally(sorted(classes | {BACKGROUND}), bootstrap)
        ious: dict[int | str, float] = {}
        for record in file.records("test"):
            if record["image_id"] in common:
                tally.add(record)
                iou = image_iou(record, results["headline"])
                if iou is not None:
                    ious[record["image_id"]] = iou
    values = {figure: tally.replicates(results["headline"], figure) for figure in FIGURES}
    return Compared(name, results, values, tally, ious)


def _difference(values: np.ndarray, base: np.ndarray, bootstrap: Bootstrap) -> dict[str, Any]:
    gap = values - base
    draws = bootstrap.centred(gap)
    better = float(np.mean(draws > 0)) if draws.size else None
    return {**bootstrap.interval(gap, -1.0), "better": better}
