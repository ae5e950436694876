"""Flags and steps that the subcommands share."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textseg.errors import InputError
from textseg.faults import LOG

if TYPE_CHECKING:
    from textseg.cli.progress import Progress

    from ..datasets import Dataset
    from ..methods import MethodSpec
    from ..protocols import Protocol
    from ..run import Progress as State
    from ..run import Split

SCORES = ("miou", "image_iou", "query_iou", "pooled_iou", "pixel_accuracy", "boundary_f",
          "precision", "recall", "empty_when_absent")  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Output, split, intervals, workers."""
    from textseg.cli.options_arguments import add_verbose, result_folder

    parser.add_argument("-o", "--output", type=result_folder, required=True, metavar="DIR",
                        help="folder of the results; a stopped run goes on there")  # fmt: skip
    group = parser.add_argument_group("images, threshold and intervals")
    group.add_argument(
        "--limit", type=int, metavar="N", help="at most N images, drawn by the split seed"
    )
    group.add_argument("--split-seed", type=int, default=0, metavar="N",
                       help="draws the calibration images, the limit and the absent queries "
                            "(default: 0)")  # fmt: skip
    group.add_argument("--fixed-threshold", default="calibrate", metavar="RULE",
                       help="calibrate: on a part of the images; own: the method's masks only; a "
                            "number; or a run on other images (default: calibrate)")  # fmt: skip
    group.add_argument("--calibration", type=float, default=0.2, metavar="X",
                       help="fraction of the images that calibrate (default: 0.2)")  # fmt: skip
    group.add_argument("--replicates", type=int, default=1000, metavar="N",
                       help="bootstrap replicates of the intervals (default: 1000)")  # fmt: skip
    group = parser.add_argument_group("work")
    group.add_argument("--workers", type=int, default=1, metavar="N",
                       help="processes (default: 1); figures do not change")  # fmt: skip
    group.add_argument("--threads", type=int, default=1, metavar="THREADS",
                       help="threads of each (default: 1); part of a run's settings")  # fmt: skip
    group.add_argument("--no-report", action="store_true", help="leave report.html out")
    add_format_argument(group, "DIR/tables")
    group.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    group.add_argument("--quiet", action="store_true", help="errors only")
    add_verbose(group)


def add_format_argument(group: argparse._ActionsContainer, place: str) -> None:
    """Which formats the tables are written in besides the page."""
    from textseg.cli.options_arguments import Listed, comma_list

    from ..tables import FORMATS

    group.add_argument("--format", type=comma_list(FORMATS), action=Listed, default=[],
                       dest="formats", metavar="F[,F...]",
                       help=f"every table of the report as a file too, in {place}: "
                            f"{', '.join(FORMATS)}")  # fmt: skip


def add_absent_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """How many absent queries an image is asked."""
    from textseg.cli.options_arguments import add_alias

    parser.add_argument("--absent-queries", dest="absent", type=int, default=2, metavar="N",
                        help=text)  # fmt: skip
    add_alias(parser, "--absent", "--absent-queries")


def add_method_arguments(parser: argparse.ArgumentParser, *, one: bool = False) -> None:
    """The compared methods and their options."""
    from textseg.cli.options_arguments import (
        Listed,
        add_model_arguments,
        add_options,
        comma_list,
    )
    from textseg.options import ContrastOptions, RefineOptions

    from ..methods import METHODS

    if not one:
        told = {name: entry.told for name, entry in METHODS.items() if entry.offered}
        described = "; ".join(f"{name}: {text}" for name, text in told.items())
        parser.add_argument("--method", type=comma_list(list(told)), action=Listed,
                            metavar="M[,M...]", dest="methods",
                            help=f"{described} (default: textseg). Several, with commas or "
                                 "repeated, have a folder each in DIR")  # fmt: skip
    parser.add_argument("--set", action="append", default=[], metavar="METHOD.NAME=VALUE",
                        dest="settings", help="an option of another method than textseg, as "
                        "cross-attention.samples=4; repeatable")  # fmt: skip
    parser.add_argument("--template", action="append", metavar="TEXT", dest="templates",
                        help="how categories are asked for, as 'a photo of a {}'; repeatable, the "
                             "highest score counts (default: the bare name, which the methods put "
                             "in their own prompt; 'a photo of a {}' for CLIPSeg)")  # fmt: skip
    parser.add_argument("--synonyms", type=Path, metavar="FILE",
                        help="JSON: further names by category name")  # fmt: skip
    parser.add_argument("--exclusive", action="store_true", default=argparse.SUPPRESS,
                        help="textseg: queries compete for pixels")  # fmt: skip
    parser.add_argument("--weigh", action="store_true", default=argparse.SUPPRESS,
                        help="textseg: scores are multiplied by the presence")  # fmt: skip
    parser.add_argument("--captions", type=Path, metavar="FILE", default=argparse.SUPPRESS,
                        help="textseg: captions for --reference erase")  # fmt: skip
    add_model_arguments(parser)
    add_options(parser, ContrastOptions, title="textseg's contrast (default: the model's)")
    add_options(parser, RefineOptions, title="textseg's masks (default: the model's)")


def textseg_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options given for textseg, JSON-able."""
    from textseg.cli.options_arguments import given_mask_options

    if getattr(args, "threshold", None) == "own":
        raise InputError("threshold must be a rule or a number, got 'own'; the masks of a method's "
                         "own rule alone are scored by --fixed-threshold own")  # fmt: skip
    contrast, refine = given_mask_options(args)
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in (contrast | refine).items()}
    for name in ("exclusive", "weigh"):
        if hasattr(args, name):
            options[name] = True
    if hasattr(args, "captions"):
        options["captions"] = str(args.captions)
    return options


def method_specs(args: argparse.Namespace, *, labels: bool = False) -> dict[str, MethodSpec]:
    """The methods asked for, by name."""
    from ..methods import METHODS, MethodSpec
    from ..run import refuse_scores_only

    names = args.methods or ["textseg"]
    given: dict[str, dict[str, Any]] = {}
    for setting in args.settings:
        target, _, value = setting.partition("=")
        method, _, name = target.partition(".")
        if not value or not name or method not in names:
            raise InputError(f"set must be METHOD.NAME=VALUE of a method in use, got {setting!r}")
        try:
            given.setdefault(method, {})[name] = json.loads(value)
        except ValueError:
            given.setdefault(method, {})[name] = value
    specs = {}
    own = textseg_options(args)
    if own and "textseg" not in names:
        flag = min(own).replace("_", "-") if args.refine else "no-refine"
        raise InputError(f"--{flag} is for method textseg, got {', '.join(names)}; "
                         "--set gives another method an option")  # fmt: skip
    if args.fixed_threshold == "own":
        refuse_scores_only(names)
    for name in names:
        options = given.get(name, {})
        if name == "textseg":
            options = own | options
        if name == "truth" and labels:
            options = {"labels": True}
        model = (args.model, args.device, args.dtype)
        place, device, dtype = model if METHODS[name].runs_model else (None, None, None)
        specs[name] = MethodSpec(name, place, options, device, dtype)
    return specs


def texts_of(args: argparse.Namespace, dataset: Dataset, method: str) -> dict[int, tuple[str, ...]]:
    """The texts each category is asked with."""
    from ..datasets import read_json
    from ..methods import METHODS
    from ..protocols import Vocabulary

    synonyms: Mapping[str, Any] | None = None
    if args.synonyms is not None:
        synonyms, _ = read_json(args.synonyms, "synonyms")
        known = set(dataset.categories.values())
        wrong = not isinstance(synonyms, dict) or next(
            (n for n in synonyms if n not in known), None
        )
        if wrong:
            raise InputError(f"synonyms must be a JSON object by category name, got {wrong!r} in "
                             f"{args.synonyms}")  # fmt: skip
    templates = tuple(args.templates or (METHODS[method].template,))
    vocabulary = Vocabulary(templates, synonyms)
    return {key: vocabulary.texts(name) for key, name in dataset.categories.items()}


def split_of(args: argparse.Namespace, dataset: Dataset) -> Split:
    """Where the threshold comes from."""
    from ..run import Split, threshold_of

    rule = args.fixed_threshold
    if rule in ("calibrate", "own"):
        return Split(rule, args.calibration, args.split_seed)
    try:
        value = float(rule)
    except ValueError:
        folder = Path(rule)
        return Split("given", threshold=threshold_of(folder, dataset), source=str(folder))
    return Split("given", threshold=value, source="command line")


def measure(
    args: argparse.Namespace,
    dataset: Dataset,
    protocol: Protocol,
    spec: MethodSpec,
    folder: Path,
    tagger: Any = None,
) -> dict[str, Any]:
    """Run one method, write its report and return its results."""
    from ..aggregate import Bootstrap
    from ..report import write_report
    from ..run import Run, Variant, evaluate
    from ..run_tables import run_tables
    from ..tables import FOLDER, write_tables

    run = Run(
        dataset, protocol, [Variant(folder.name, spec, folder)], split_of(args, dataset),
        Bootstrap(args.replicates), tagger, args.workers, args.threads, command_line(),
    )  # fmt: skip
    with Ticker(spec.method, quiet=args.quiet) as ticker:
        results = evaluate(run, ticker)[folder.name]
    if not args.no_report:
        write_report(folder, dataset, protocol)
    write_tables(folder / FOLDER, run_tables(results), args.formats)
    return results


def beside(
    args: argparse.Namespace, dataset: Dataset, results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Of several methods, a page that sets them side by side, and its tables.

    Args:
        results: by method.
    """
    from ..comparison import common_images, compare
    from ..comparison_report import comparison_tables, write_comparison
    from ..report import REPORT
    from ..tables import FOLDER, write_tables

    folders = [args.output / name for name, each in results.items() if each["counts"]["scored"]]
    if len(folders) < 2 or (args.no_report and not args.formats):
        return
    try:
        common_images(folders)
    except InputError as error:
        if not args.quiet:
            sys.stderr.write(f"textseg: note: no page of the methods side by side: {error}\n")
        return
    compared = compare(folders, replicates=args.replicates)
    if not args.no_report:
        write_comparison(args.output / REPORT, {"": compared}, dataset)
    write_tables(args.output / FOLDER, comparison_tables(compared), args.formats)


def say(args: argparse.Namespace, results: Mapping[str, Any], folder: Path) -> None:
    """A run's figures on standard output, and that images failed on standard error."""
    from textseg.cli.progress import Progress

    with Progress("image", quiet=True) as out:
        complain(out, results, folder)
        if args.json:
            out.line(json.dumps(results))
        elif not args.quiet:
            out.line(summary(results))
            out.line(f"{folder}/results.json")


def summary(results: Mapping[str, Any]) -> str:
    """The main figures of a run as lines of text."""
    from ..results import failed_in
    from ..tables import figure

    counts = results["counts"]
    lines = [f"{results['method']['method']}: {counts['scored']} images scored, "
             f"{counts['calibration']} for calibration, {failed_in(results)} failed"]  # fmt: skip
    for rule, figures in results["figures"].items():
        shown = [f"{name} {figure(figures[name])}" for name in SCORES
                 if (figures.get(name) or {}).get("value") is not None]  # fmt: skip
        mark = " (headline)" if rule == results["headline"] else ""
        lines.append(f"  {rule}{mark}: {', '.join(shown)}")
    presence = results["presence"]["average_precision"]
    if presence:
        lines.append(f"  presence: average precision {figure(presence)}")
    for failure in results["failures"]:
        lines.append(f"  not scored: {failure['file_name']}: {failure['error']}")
    if unlisted := failed_in(results) - len(results["failures"]):
        lines.append(f"  not scored: {unlisted} more")
    return "\n".join(lines)


def complain(out: Progress, results: Mapping[str, Any], folder: Path) -> None:
    """One line on standard error where images failed: how many, the first, where tracebacks are."""
    from ..results import failed_in

    failed, counts = failed_in(results), results["counts"]
    if not failed:
        return
    first = results["failures"][0]
    tried = counts["scored"] + counts["failed"] + counts["calibration"]
    text = f"{folder}: {failed} of {tried} images failed"
    text += "" if counts["scored"] else " and none could be scored"
    text += f"; the first: {first['file_name']}: {first['error']}"
    text += f"; tracebacks in {folder / LOG}" if (folder / LOG).is_file() else ""
    out.line(f"textseg: error: {text}", error=True)


def exit_code(runs: Iterable[tuple[int, int]]) -> int:
    """0, 1 where some images failed, 2 where nothing else is there.

    Args:
        runs: how many images were done and how many failed, of each method or setting.
    """
    done, failed = (sum(counts) for counts in zip(*runs, strict=True))
    return 0 if not failed else 1 if done else 2


def exit_code_of(results: Iterable[Mapping[str, Any]]) -> int:
    """`exit_code` of runs by their results."""
    from ..results import failed_in

    return exit_code((each["counts"]["scored"], failed_in(each)) for each in results)


def command_line() -> str:
    """How this process was started, for the record."""
    return shlex.join(["textseg", *sys.argv[1:]])


class Ticker:
    """Progress on standard error: a line that renews itself on a terminal, else one a minute."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self.title, self.quiet = title, quiet
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def __call__(self, progress: State) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 60) and progress.done < progress.total:
            return
        self._last = now
        left = duration(progress.seconds_left)
        failed = f", {progress.failed} failed" if progress.failed else ""
        text = (f"{self.title}: {progress.phase} {progress.done}/{progress.total} images, "
                f"{progress.rate:.2f}/s, {left} left{failed}")  # fmt: skip
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and not self.quiet:
            sys.stderr.write("\r\x1b[K")


def duration(seconds: float | None) -> str:
    """Seconds for people.

    >>> duration(None), duration(42.4), duration(150), duration(7300)
    ('?', '42 s', '2 min 30 s', '2 h 1 min')
    """
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
