"""`textseg generate`: make images from prompts."""

from __future__ import annotations

import argparse
import json

from ..options import GenerateOptions
from .edit import check_output, write_stdout
from .options_arguments import (
    add_beside_arguments,
    add_model_arguments,
    add_options,
    add_report_arguments,
    given_options,
    load_given,
    refuse,
)

DESCRIPTION = """\
Make images from prompts, with the model that also segments and edits. The files say that they were
made by a trained model."""
EXAMPLES = """\
With several images, OUT's name is numbered: fruit.png becomes fruit-1.png, fruit-2.png, ...

examples:
  textseg generate "a bowl of fruit" -o fruit.png
  textseg generate "a dog" "a cat" --count 4 --seed 7 -o out.webp
  textseg generate "a boat" --scheduler DPMSolverMultistepScheduler --steps 20 -o boat.png
"""


_FIRST = ("steps", "guidance_scale", "seed", "height", "width")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to make")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="result: .png, .webp or .jpg; - writes one PNG to stdout",
    )
    parser.add_argument(
        "-n", "--count", type=int, default=1, metavar="N", help="images per prompt (default: 1)"
    )
    parser.add_argument(
        "--visible-label", action="store_true", help='write "Generated with AI" into the picture'
    )
    add_options(parser, GenerateOptions, title="sampling", first=dict.fromkeys(_FIRST, ""))
    add_report_arguments(parser)
    add_model_arguments(parser)
    add_beside_arguments(parser)


def run(args: argparse.Namespace) -> int:
    changes = given_options(args, GenerateOptions)
    # Bad options are refused here, before a model is loaded.
    GenerateOptions(**changes)
    refuse(args.count >= 1, f"count must be at least 1, got {args.count}")
    out, prompts = check_output(args.output, json=args.json), list[str](args.prompts)
    total = len(prompts) * args.count
    refuse(args.output != "-" or total == 1, f"-o - takes one image, got {total}")

    from ..generation import generate_each
    from .progress import Progress

    model = load_given(args)
    with Progress("step", quiet=args.quiet) as progress:
        made = generate_each(
            prompts,
            args.count,
            model,
            progress=lambda done, total, stage: progress.start(stage, done, total),
            **changes,
        )
        for number, one in enumerate(made, 1):
            for note in () if args.quiet or args.json else one.notes:
                progress.line(f"textseg: warning: {one.prompt!r}: {note}", error=True)
            if args.output == "-":
                write_stdout(one.to_bytes(".png", args.visible_label))
                break
            path = out if total == 1 else out.with_stem(f"{out.stem}-{number}")
            one.save(path, visible_label=args.visible_label)
            if args.json:
                progress.line(json.dumps({"file": str(path)} | one.describe()))
            elif not args.quiet:
                progress.line(f"{path}\tseed {one.options.seed}\t{one.prompt}")
    return 0
