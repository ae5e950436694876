"""A whole run of edits: every image once, through kills and restarts, to results on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.checks import option, validate, whole
from textseg.errors import InputError
from textseg.records import check_same_run
from textseg.workers import Threads, spread

from . import counters
from .counters import replicate_weights
from .datasets import Example, read_json
from .edit_metrics import Scripted, frechet_distance
from .edit_plan import EditRun
from .edit_worker import EditJob, JudgeFiles, Judges, editor, image_path, record_of
from .records import Record, RecordFile, keep, write_json
from .results import IDENTITY, MOST_FAILURES, RECORDS, RESULTS, versions

if TYPE_CHECKING:
    from textseg.backbone.base import Backbone

FORMAT = 1
FIGURES = ("took", "margin", "presence", "psnr", "ssim", "lpips", "change", "clip")


@dataclass(frozen=True)
class Crew:
    """Who works: processes that load model and judges themselves.

    Attributes:
        model, device, dtype: as in `textseg.load`.
        judges: files of the measures that need weights.
        workers: processes; 1 works in this one, with the model it has.
        threads: threads of each. Part of what makes two runs the same, since the last bits of a
            prediction depend on it.
    """

    model: str
    device: str | None = None
    dtype: str | None = None
    judges: JudgeFiles = field(default_factory=JudgeFiles)
    workers: int = option(1, whole(1, 4096))
    threads: int = option(1, whole(1, 4096))

    __post_init__ = validate


def evaluate_edits(
    run: EditRun,
    backbone: Backbone,
    folder: Path,
    judges: Judges | None = None,
    progress: Callable[[int, int], object] | None = None,
    crew: Crew | None = None,
) -> dict[str, Any]:
    """Edit every image that has a pair, in every setting; taken up again where it was stopped.

    Writes per_image.jsonl, results.json and edit.html into the folder, and the pictures of the
    report. Images that failed are left out of the figures, counted, and tried again by the next
    run.

    Args:
        crew: the figures are the same for any number of its workers; None works in this process,
            with its threads as they are.

    Returns:
        the results, as in results.json.
    """
    from .edit_report import write_report

    judges = judges or Judges()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [e for e in run.dataset.examples if run.fits(e)]
    if not chosen:
        raise InputError("images must hold a category of the pairs, got none that does")
    identity = run.describe() | {"model": backbone.name, "threads": crew and crew.threads}
    path = folder / IDENTITY
    if path.exists():
        check_same_run(read_json(path, "run")[0], identity, str(folder))
    else:
        write_json(path, identity)
    started, before = time.monotonic(), 0
    with RecordFile(folder / RECORDS) as records:
        records.forget_failed()
        before = len(records)
        todo = [example for example in chosen if example.image_id not in records]
        if progress is not None and not todo:
            progress(len(records), len(chosen))
        for record in _work(run, backbone, todo, folder, judges, crew):
            keep(records, record)
            if progress is not None:
                progress(len(records), len(chosen))
        done = len(records) - before
        failures = [record for record in records.records() if "error" in record]
        results = {
            "format": FORMAT,
            "kind": "edit",
            "run": identity,
            "versions": versions(),
            "images": len(records) - records.failed,
            "failed": len(failures),
            "failures": failures[:MOST_FAILURES],
            "seconds_per_image": (time.monotonic() - started) / done if done else None,
            "shown": [setting._asdict() for setting in run.shown()],
            "rows": _rows(run, list(records.records("test")), folder, judges),
        }
    write_json(folder / RESULTS, results)
    write_report(folder, results)
    return results


def _work(
    run: EditRun,
    backbone: Backbone,
    todo: Sequence[Example],
    folder: Path,
    judges: Judges,
    crew: Crew | None,
) -> Iterator[Record]:
    if crew is None:
        yield from (record_of(run, backbone, example, folder, judges) for example in todo)
    elif crew.workers == 1:
        with Threads(crew.threads) as threads:
            for example in todo:
                threads.hold()
                yield record_of(run, backbone, example, folder, judges)
    else:
        # The images travel one by one.
        without = replace(run, dataset=replace(run.dataset, examples=()))
        job = EditJob(without, folder, crew.model, crew.device, crew.dtype, crew.judges,
                      crew.threads)  # fmt: skip
        yield from spread(editor, job, todo, crew.workers)


def _rows(
    run: EditRun, records: Sequence[Record], folder: Path, judges: Judges
) -> list[dict[str, Any]]:
    """Means over images with 95 % intervals (bootstrap over images), one row per setting."""
    good = [r for r in records if "error" not in r]
    if not good:
        return []
    weights = np.stack([replicate_weights(r["image_id"], 0, 1000) for r in good]).astype(float)
    inputs: np.ndarray | None = None
    table = []
    for setting in run.settings():
        keyed = setting._asdict()
        rows = [next(row for row in r["rows"] if {k: row[k] for k in keyed} == keyed) for r in good]
        line: dict[str, Any] = {**keyed}
        for name in FIGURES:
            values = np.array([np.nan if row.get(name) is None else row[name] for row in rows])
            if np.isnan(values).all():
                continue
            there = ~np.isnan(values)
            # A replicate that drew none of these images says nothing of them.
            means = counters.ratio(weights[there].T @ values[there], weights[there].sum(0))
            low, high = np.nanpercentile(means[1:], [2.5, 97.5])
            line[name] = {"mean": float(means[0]), "low": float(low), "high": float(high)}
        if judges.inception is not None:
            if inputs is None:
                inputs = _features(judges.inception, [_path(run, r["image_id"]) for r in good])
            made = [image_path(folder, setting, r["image_id"]) for r in good]
            line["fid"] = frechet_distance(inputs, _features(judges.inception, made))
        table.append(line)
    return table


def _path(run: EditRun, image_id: int | str) -> Path:
    return Path(next(e.path for e in run.dataset.examples if e.image_id == image_id))


def _features(network: Scripted, paths: Sequence[Path]) -> np.ndarray:
    from textseg.image import load_image

    return np.stack([network.features(load_image(path)).numpy() for path in paths])
