"""`textseg eval sweep`: what each option is worth, from one pass over the images."""

from __future__ import annotations

import argparse
import json

from .coco import add_data_arguments, protocol_of
from .shared import add_method_arguments, add_run_arguments, exit_code_of

DESCRIPTION = """\
Measure many settings of textseg side by side on COCO annotations, sharing the model's predictions.

Each setting differs from the base (the model's defaults, with what is given on this command line)
in one option, or with --cross in any combination. Every setting has a folder of its own in DIR, as
if it had been run alone; the table goes to sweep.json, sweep.md and report.html."""
EXAMPLES = """\
Without --vary: reference, measure, strength, samples, threshold and refine. Several noise levels of
one setting are joined by +. Draws are predicted one at a time (--batch-size 1), so that a setting
with few draws shares those of a setting with many.

examples:
  textseg eval sweep --images data/drawn/val --annotations \\
      data/drawn/annotations/instances_val.json -o runs/sweep
  textseg eval sweep --images val2017 --annotations instances_val2017.json --limit 100 \\
      --vary samples=1,4,10 --vary strength=0.5,0.3+0.7 --vary refine=off,crf --cross -o runs/s
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_arguments(parser)
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=V[,V...]",
                        help="values of an option, of refine (off, morphology, guided, crf), "
                             "exclusive or weigh; repeatable")  # fmt: skip
    parser.add_argument("--cross", action="store_true", help="every combination")
    parser.add_argument("--protocol", choices=("present", "object"), default="present",
                        help="default: present")  # fmt: skip
    add_run_arguments(parser)
    add_method_arguments(parser, one=True)
    parser.set_defaults(methods=None, tagger=None)


def run(args: argparse.Namespace) -> int:
    from textseg.cli.progress import Progress

    from ..ablation import (
        DEFAULT_AXES,
        markdown,
        parse_axis,
        settings,
        sweep_table,
        table,
        variants,
    )
    from ..aggregate import Bootstrap
    from ..datasets import load_coco
    from ..methods import MethodSpec
    from ..records import write_json
    from ..report import REPORT, write_report
    from ..run import Run, evaluate
    from ..run_tables import run_tables
    from ..sweep_report import write_sweep
    from ..tables import FOLDER, write_tables
    from .shared import Ticker, command_line, complain, split_of, textseg_options

    axes = dict(parse_axis(text) for text in args.vary) or DEFAULT_AXES
    rows = settings(textseg_options(args), axes, cross=args.cross)
    dataset = load_coco(args.images, args.annotations, maps=args.maps)
    dataset = dataset.limited(args.limit, args.split_seed)
    dataset, protocol, _ = protocol_of(args, dataset, "textseg")
    spec = MethodSpec("textseg", args.model, {}, args.device, args.dtype)
    runs = variants(spec, rows, args.output)
    for variant in runs:
        # A bad value is refused before the first image.
        _check(variant.spec.options)
    run = Run(
        dataset, protocol, runs, split_of(args, dataset), Bootstrap(args.replicates), None,
        args.workers, args.threads, command_line(),
    )  # fmt: skip
    with Ticker(f"{len(rows)} settings", quiet=args.quiet) as ticker:
        results = evaluate(run, ticker)
    records = table(rows, results)
    write_json(args.output / "sweep.json", {"command": command_line(), "rows": records})
    text = markdown(records)
    (args.output / "sweep.md").write_text(text + "\n")
    write_tables(args.output / FOLDER, [sweep_table(records)], args.formats)
    for variant in runs:
        write_tables(variant.folder / FOLDER, run_tables(results[variant.name]), args.formats)
    if not args.no_report:
        for variant in runs:
            write_report(variant.folder, dataset, protocol)
        title = f"{args.model}: what each choice is worth on {dataset.name}"
        write_sweep(args.output / REPORT, records, title, command_line())
    with Progress("image", quiet=True) as out:
        for variant in runs:
            complain(out, results[variant.name], variant.folder)
        if args.json:
            out.line(json.dumps(records))
        elif not args.quiet:
            out.line(text)
            out.line(f"{args.output}/sweep.json")
    return exit_code_of(results.values())


def _check(options: object) -> None:
    from textseg.options import ContrastOptions, RefineOptions, override

    from ..methods.noise_contrast import CONTRAST_FIELDS, REFINE_FIELDS

    assert isinstance(options, dict)
    ContrastOptions(**{k: v for k, v in options.items() if k in CONTRAST_FIELDS})
    override(RefineOptions(), {k: v for k, v in options.items() if k in REFINE_FIELDS})
