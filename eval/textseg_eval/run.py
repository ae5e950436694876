"""A whole run: every image once, through kills and restarts, to results on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textseg import __version__
from textseg.checks import FRACTION, SEED, between, check, one_of, option, validate, whole
from textseg.errors import InputError, OutputError
from textseg.records import check_same_run

from .aggregate import Bootstrap, Tally, calibrated_threshold
from .counters import BINS, image_hash
from .datasets import Dataset, Example, read_json
from .methods import METHODS, MethodSpec
from .protocols import BACKGROUND, Present, Protocol, Refer
from .records import RecordFile, keep, write_coco_results, write_json
from .results import (
    COCO_RESULTS,
    FORMAT,
    IDENTITY,
    MOST_FAILURES,
    RECORDS,
    RESULTS,
    image_iou,
    load_results,
    versions,
)
from .taggers import TaggerSpec
from .workers import Job, Task, peak_memory, work

EXAMPLES = 6
"""Images listed in the results as best, as median and as worst."""


@dataclass(frozen=True)
class Split:
    """Where the threshold comes from, and which images are scored.

    Attributes:
        rule: "calibrate": the highest mIoU on a part of the images, which are then not scored.
            "own": the method's own masks are the headline, and nothing is calibrated.
            "given": `threshold`.
        fraction: of the images that calibrate, in (0, 1).
        seed: with an image's id, says whether it calibrates.
        threshold: in (0, 1], for "given"; rounded up to a multiple of 1/256.
        source: where a given threshold is from, for the record.
    """

    rule: str = option("calibrate", one_of("calibrate", "own", "given"))
    fraction: float = option(0.2, between(0, 1, "()"))
    seed: int = option(0, SEED)
    threshold: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        validate(self)
        if self.rule == "given":
            check("threshold", self.threshold, FRACTION.words, FRACTION.holds(self.threshold))

    def part(self, example: Example) -> str:
        """ "calibration" or "test"."""
        if self.rule != "calibrate":
            return "test"
        place = image_hash("split", self.seed, example.image_id) / 2**64
        return "calibration" if place < self.fraction else "test"

    def given(self) -> int | None:
        """k of a given threshold k / 256."""
        return math.ceil(self.threshold * (BINS - 1)) if self.threshold else None

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        calibrates = self.rule == "calibrate"
        return {
            "rule": self.rule,
            "fraction": self.fraction if calibrates else None,
            "seed": self.seed if calibrates else None,
            "threshold": self.threshold,
            "source": self.source,
        }


def threshold_of(run: Path, dataset: Dataset) -> float:
    """The best threshold of a run on other images, to fix it for these.

    Raises:
        InputError: the run is on the same annotations, or has no scores.
    """
    results = load_results(run)
    places = ("annotations", "masks", "refs")
    if all(results["data"].get(key) == dataset.source.get(key) for key in places):
        raise InputError(f"threshold must come from a run on other images, got {run}")
    if "oracle" not in results["figures"]:
        raise InputError(f"threshold must come from a run with objects, got {run}")
    return float(results["figures"]["oracle"]["threshold"])


def refuse_scores_only(methods: Iterable[str]) -> None:
    """Raise InputError if one of the methods has no masks of its own, for the rule "own"."""
    scores_only = [name for name, entry in METHODS.items() if not entry.has_masks]
    for name in methods:
        if name in scores_only:
            raise InputError(
                f"fixed threshold must be calibrate, a number or a run for {name}, got own: it "
                "gives scores and no masks; all methods but "
                f"{', '.join(scores_only)} have masks of their own"
            )


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        done, total: images with a record, and all.
        failed: images of which one of the methods failed.
        rate: images a second since this process began.
        seconds_left: at that rate; None before the first image.
        phase: "calibration" or "test".
    """

    done: int
    total: int
    failed: int
    rate: float
    seconds_left: float | None
    phase: str


@dataclass(frozen=True)
class Variant:
    """One method with its options and the folder of its results."""

    name: str
    spec: MethodSpec
    folder: Path


@dataclass(frozen=True)
class Run:
    """What to measure and how.

    Attributes:
        dataset: the images.
        protocol: how they are asked and counted.
        variants: the methods, measured side by side: every image is read and encoded once.
        split: where the threshold comes from.
        bootstrap: the intervals.
        tagger: what names the classes, under `predicted`.
        workers, threads: processes, and threads of each.
        command: how it was started, for the record.
    """

    dataset: Dataset
    protocol: Protocol
    variants: Sequence[Variant]
    split: Split = field(default_factory=Split)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    tagger: TaggerSpec | None = None
    workers: int = option(1, whole(1, 4096))
    threads: int = option(1, whole(1, 4096))
    command: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    __post_init__ = validate

    def identity(self, variant: Variant) -> dict[str, Any]:
        """What must be the same for a run to be taken up again."""
        return {
            "format": FORMAT,
            "version": __version__,
            "data": self.dataset.fingerprint,
            "protocol": self.protocol.describe(),
            "split": self.split.describe(),
            "method": variant.spec.describe(),
            "tagger": self.tagger and self.tagger.describe(),
            "threads": self.threads,
        }


def evaluate(run: Run, progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
    """Measure every variant, taking up what an earlier run of the same left behind.

    Images are worked on in any order; the figures do not depend on it. With a calibrated threshold
    the calibration images come first. Images that failed are left out of the figures, counted, and
    tried again by the next run; a variant without a calibration image that did not fail is not
    measured any further.

    Args:
        run: what to measure.
        progress: called after every image.

    Returns:
        The results of each variant by name, as in its results.json.

    Raises:
        InputError: the data set is empty, or a folder holds a run with other settings.
        OutputError: results cannot be written.
    """
    if not run.dataset.examples:
        raise InputError("images must hold at least one that is annotated, got none")
    if run.split.rule == "own":
        refuse_scores_only(variant.spec.method for variant in run.variants)
    files = _open(run)
    try:
        return _evaluate(run, files, progress)
    finally:
        for file in files.values():
            file.close()


def _open(run: Run) -> dict[str, RecordFile]:
    for variant in run.variants:
        identity = run.identity(variant)
        try:
            variant.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {str(variant.folder)!r}: {error.strerror}") from error
        path = variant.folder / IDENTITY
        if path.exists():
            check_same_run(read_json(path, "run")[0], identity, str(variant.folder))
        else:
            write_json(path, identity)
    files = {v.name: RecordFile(v.folder / RECORDS) for v in run.variants}
    for file in files.values():
        file.forget_failed()
    return files


def _evaluate(
    run: Run, files: Mapping[str, RecordFile], progress: Callable[[Progress], None] | None
) -> dict[str, Any]:
    classes = class_ids(run)
    thresholds: dict[str, int | None] = dict.fromkeys(files, run.split.given())
    calibration: dict[str, dict[str, Any]] = {name: {} for name in files}
    job = Job(run.protocol, {v.name: v.spec for v in run.variants}, run.tagger, run.threads)
    clock = _Clock(run, files, progress)
    parts = [run.split.part(example) for example in run.dataset.examples]
    if "test" not in parts:
        raise InputError("test images must be at least one, got none; lower "
                         "--calibration or change --split-seed")  # fmt: skip
    if run.split.rule == "calibrate":
        _work(run, job, files, "calibration", dict.fromkeys(files), clock)
        lost = {name for name, file in files.items() if _all_failed(file, "calibration")}
        for name, file in files.items():
            best, miou = calibrated_threshold(file.records("calibration"), classes)
            calibration[name] = {"images": parts.count("calibration"), "miou": miou}
            if name in lost:
                continue
            if best is None:
                raise InputError(
                    "calibration images must show at least one object, got none among "
                    f"{parts.count('calibration')}; take more images, raise --calibration, change "
                    "--split-seed, or give --fixed-threshold own"
                )
            thresholds[name] = best
        clock.files = {name: file for name, file in files.items() if name not in lost}
    _work(run, job, clock.files, "test", thresholds, clock)
    results = {}
    for variant in run.variants:
        name = variant.name
        result = summarize(run, variant, files[name], thresholds[name], calibration[name])
        write_coco_results(files[name], variant.folder / COCO_RESULTS)
        write_json(variant.folder / RESULTS, result)
        results[name] = result
    return results


def _all_failed(file: RecordFile, part: str) -> bool:
    """Whether there are records of a part, and of failures only."""
    failed = ["error" in record for record in file.records(part)]
    return bool(failed) and all(failed)


def _work(
    run: Run,
    job: Job,
    files: Mapping[str, RecordFile],
    part: str,
    thresholds: Mapping[str, int | None],
    clock: _Clock,
) -> None:
    def tasks() -> Iterator[Task]:
        for example in run.dataset.examples:
            if run.split.part(example) == part:
                wanted = {n: thresholds[n] for n, f in files.items()
                          if not _holds(f, example, thresholds[n])}  # fmt: skip
                if wanted:
                    yield Task(example, part, wanted)

    clock.phase = part
    for records in work(job, tasks(), run.workers):
        for name, record in records.items():
            keep(files[name], record)
        clock.tick()


def _holds(file: RecordFile, example: Example, threshold: int | None) -> bool:
    """Whether an image is done: one counted at another threshold, which stood before calibration
    images that had failed were done, is not."""
    there = example.image_id in file
    return there and file.read(example.image_id).get("threshold") == threshold


class _Clock:
    """Counts images and time for `Progress`, over the records of the variants in `files`."""

    def __init__(
        self,
        run: Run,
        files: Mapping[str, RecordFile],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.files, self._progress = files, progress
        self._total = len(run.dataset.examples)
        self._before = self._done()
        self._start = time.monotonic()
        self.phase = ""

    def _done(self) -> int:
        return min((len(file) for file in self.files.values()), default=0)

    def tick(self) -> None:
        if self._progress is None:
            return
        done = self._done()
        rate = (done - self._before) / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - done) / rate if rate else None
        failed = max(file.failed for file in self.files.values())
        self._progress(Progress(done, self._total, failed, rate, left, self.phase))


def class_ids(run: Run) -> list[int]:
    """Ids the rows are counted under."""
    if isinstance(run.protocol, Refer):
        return [1]
    if isinstance(run.protocol, Present):
        return list(run.dataset.categories)
    return [BACKGROUND, *run.dataset.categories]


def summarize(
    run: Run,
    variant: Variant,
    file: RecordFile,
    threshold: int | None,
    calibration: Mapping[str, Any],
) -> dict[str, Any]:
    """The results of a finished variant, JSON-able."""
    classes = class_ids(run)
    names = {BACKGROUND: "background", **run.dataset.categories}
    if isinstance(run.protocol, Refer):
        names = {1: "expression"}
    tally = Tally(classes, run.bootstrap)
    failures = [
        {key: record[key] for key in ("image_id", "file_name", "part", "stage", "error")}
        for record in file.records()
        if "error" in record
    ]
    seconds = scoring = 0.0
    resized = without = 0
    ranked: list[tuple[float, int | str]] = []
    rule = "own" if threshold is None else "fixed"
    for record in file.records("test"):
        if "error" in record:
            continue
        tally.add(record)
        seconds, scoring = seconds + record["seconds"], scoring + record["scoring_seconds"]
        resized += bool(record.get("resized"))
        iou = image_iou(record, rule)
        without += iou is None
        if iou is not None:
            ranked.append((iou, record["image_id"]))
    broken = sum(failure["part"] == "calibration" for failure in failures)
    ranked.sort(key=lambda pair: (pair[0], str(pair[1])))
    return {
        "format": FORMAT,
        "name": variant.name,
        "headline": rule,
        "method": variant.spec.describe(),
        "protocol": run.protocol.describe(),
        "tagger": run.tagger and run.tagger.describe(),
        "data": {"name": run.dataset.name, "fingerprint": run.dataset.fingerprint,
                 "images": len(run.dataset.examples), "categories": len(run.dataset.categories),
                 **run.dataset.source},
        "split": run.split.describe(),
        "threshold": None if threshold is None else {
            "value": threshold / (BINS - 1), "rule": run.split.rule, **calibration},
        "bootstrap": {"replicates": run.bootstrap.replicates, "seed": run.bootstrap.seed,
                      "level": run.bootstrap.level},
        "counts": {"scored": tally.images, "calibration": sum(
                       1 for e in run.dataset.examples if run.split.part(e) == "calibration"),
                   "failed": len(failures) - broken, "failed_in_calibration": broken,
                   "without_objects": without, "resized": resized,
                   "queries_present": tally.rows["present"],
                   "queries_absent": tally.rows["absent"],
                   "queries_without_pixels": tally.dropped},
        "figures": tally.figures(),
        "presence": {**tally.presence(), "curve": tally.presence_curve()},
        "curve": [None if math.isnan(v) else v for v in tally.curve().tolist()],
        "precision_recall": tally.precision_recall(),
        "classes": tally.class_table(names),
        "examples": _examples([image_id for _, image_id in ranked]),
        "failures": failures[:MOST_FAILURES],
        "time": {"method_seconds": round(seconds, 3), "scoring_seconds": round(scoring, 3),
                 "scoring_share": scoring / (seconds + scoring) if seconds + scoring else None,
                 "workers": run.workers, "threads": run.threads, "peak_bytes": peak_memory()},
        "versions": versions(),
        "command": run.command,
        **run.extra,
    }  # fmt: skip


def _examples(ranked: Sequence[int | str]) -> dict[str, list[int | str]]:
    count = min(EXAMPLES, len(ranked))
    middle = max(0, (len(ranked) - count) // 2)
    return {
        "best": list(reversed(ranked[len(ranked) - count :])),
        "median": list(ranked[middle : middle + count]),
        "worst": list(ranked[:count]),
    }
