"""`textseg bench`: what a mask costs, beside diffusers' DiffEdit."""

from __future__ import annotations

import argparse
import json
import os

from ..errors import InputError
from .options_arguments import (
    Listed,
    add_alias,
    add_model_arguments,
    add_report_arguments,
    comma_list,
    refuse,
)

DESCRIPTION = """\
Measure UNet evaluations, time by stage and peak memory of a mask and an edit, ours and those of
diffusers' StableDiffusionDiffEditPipeline on the same weights, and how close the UNet comes to
what the machine can do. --arch measures a real size without its weights: masks mean nothing, costs
do."""
EXAMPLES = """\
examples:
  textseg bench
  textseg bench --arch sd15 --random --samples 2 --query-count 2
  textseg bench --model sd-legacy/stable-diffusion-v1-5 --dtype float16 --edit --json > bench.json
  textseg bench --arch sdxl --random --dtype bfloat16 --profile -o bench.json
"""
_ARCHITECTURES = ("sd15", "sd21", "sdxl")
_THINGS = ("dog", "cat", "tree", "car", "house", "ball", "boat", "cup", "bird", "apple", "chair",
           "hat", "horse", "table", "clock", "shoe")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--arch", choices=_ARCHITECTURES,
        help="measure this architecture instead of a model; needs --random")  # fmt: skip
    add("--random", action="store_true", help="fill it with random weights; nothing is downloaded")
    add("--samples", type=int, default=10, metavar="DRAWS",
        help="noise draws of both at equal n (default: 10)")  # fmt: skip
    add("--query-count", dest="queries", type=int, default=8, metavar="N",
        help="queries where several are asked of one image (default: 8)")  # fmt: skip
    add("--image", metavar="FILE", help="picture (default: noise of the model's own size)")
    add("--size", type=int, default=0, metavar="PIXELS",
        help="side of the default picture in pixels (default: the model's own)")  # fmt: skip
    add_alias(parser, "--queries", "--query-count")
    add("--repeats", type=int, default=1, metavar="N", help="the fastest counts (default: 1)")
    add(
        "--defaults",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="also with the default settings of both (default: yes, but not with --random)",
    )
    add("--edit", action="store_true", help="also an edit: invert and __call__")
    add("--steps", type=int, default=50, metavar="STEPS",
        help="steps of the edit over the full schedule (default: 50)")  # fmt: skip
    add("--speed", action=argparse.BooleanOptionalAction, default=True,
        help="the share of the machine's speed that the UNet reaches")  # fmt: skip
    add("--profile", action="store_true", help="where the UNet's time goes")
    add("--rounding", type=comma_list(("bfloat16", "float16")), action=Listed, default=[],
        metavar="DTYPE[,...]",
        help="compare contrast maps in these dtypes with that in the model's own")  # fmt: skip
    add("--channels-last", action="store_true", help="keep the networks' weights channels last")
    add("--keep-memory", action="store_true",
        help="on the CPU, keep what a call frees for the next (Linux)")  # fmt: skip
    add("--compile", action="store_true", help="compile the UNet with torch.compile")
    add(
        "-o",
        "--output",
        metavar="FILE",
        help="also write the figures as JSON; - writes them to stdout alone",
    )
    add_report_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    refuse(
        bool(args.arch) == args.random,
        "--arch and --random must be given together: an architecture has no weights of its own",
    )
    refuse(not (args.arch and args.model != "mini"),
           f"--arch cannot go with --model, got {args.arch} and {args.model}")  # fmt: skip
    refuse(args.queries <= len(_THINGS),
           f"--query-count must be at most {len(_THINGS)}, got {args.queries}")  # fmt: skip

    import numpy as np

    from ..backbone import load
    from ..bench import BenchOptions, compare, random_model, table
    from ..image import load_image
    from ..saving import write_atomic
    from .progress import Progress

    options = BenchOptions(
        samples=args.samples, queries=args.queries, size=args.size, repeats=args.repeats,
        defaults=not args.random if args.defaults is None else args.defaults, edit=args.edit,
        steps=args.steps, speed=args.speed, profile=args.profile, rounding=tuple(args.rounding),
    )  # fmt: skip
    image = load_image(args.image) if args.image else None
    to_stdout = args.output == "-"
    if args.output and not os.path.isdir(os.path.dirname(args.output) or "."):
        raise InputError(f"output must be in a folder that exists, got {args.output!r}")
    with Progress("measurement", quiet=args.quiet) as progress:
        if args.arch:
            model = random_model(args.arch, device=args.device, dtype=args.dtype)
        else:
            model = load(args.model, device=args.device, dtype=args.dtype)
        if args.channels_last or args.compile or args.keep_memory:
            model.tune(  # pyright: ignore
                channels_last=args.channels_last, compiled=args.compile,
                keep_memory=args.keep_memory,
            )  # fmt: skip
        if image is None:
            side = args.size or model.native_size
            shape = (side, side, 3)
            image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        queries = [f"the {thing}" for thing in _THINGS]
        report = compare(
            model, image, queries, options,
            lambda done, total, what: progress.start(what, done, total),
        )  # fmt: skip
        text = json.dumps(report, indent=2)
        if args.output and not to_stdout:
            write_atomic(args.output, (text + "\n").encode())
        if args.json or to_stdout:
            progress.line(text)
        elif not args.quiet:
            progress.line(table(report))
    return 0
