"""`textseg caption`: say what an image shows."""

from __future__ import annotations

import argparse
import json

from ..faults import Guard
from .options_arguments import (
    Listed,
    add_model_arguments,
    add_picture_arguments,
    add_report_arguments,
    comma_list,
    refuse,
)
from .progress import Progress, report_failure
from .streams import standard_input

DESCRIPTION = """\
Say what images show. BLIP writes a caption (--model blip, once its weights are here: see
`textseg models download`); a diffusion model with a vocabulary of its own, as the embedded one,
names the nouns it sees. That takes samples * (1 + nouns) evaluations of the model."""
EXAMPLES = """\
examples:
  textseg caption park.jpg
  textseg caption park.jpg --nouns "dog,cat,ball" --json
  textseg caption *.jpg --model blip --prefix "a photograph of"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files; - is stdin")
    parser.add_argument(
        "--prefix",
        default="a photograph of",
        metavar="TEXT",
        help='words the caption starts with (default: "a photograph of")',
    )
    parser.add_argument(
        "--nouns",
        type=comma_list(),
        action=Listed,
        metavar="A,B,...",
        help="what to choose from (default: the model's own nouns)",
    )
    parser.add_argument(
        "--most", type=int, default=3, metavar="N", help="nouns in the caption at most (default: 3)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=2,
        metavar="DRAWS",
        help="noise draws for naming (default: 2)",
    )
    add_picture_arguments(parser, captions=False)
    add_report_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    for name in ("most", "samples"):
        value = getattr(args, name)
        refuse(value >= 1, f"{name} must be at least 1, got {value}")

    from ..captioning import BLIP, BlipCaptioner, caption, is_blip

    if is_blip(args.model):
        name = BLIP if args.model == "blip" else args.model
        model = BlipCaptioner.load(name, device=args.device)
    else:
        from ..backbone import load

        model = load(args.model, device=args.device, dtype=args.dtype)
    failed = 0
    with Progress("step", quiet=args.quiet) as progress:
        for source in args.images:
            said = None
            with Guard(source) as guard:
                guard.at("predict")
                said = caption(
                    standard_input() if source == "-" else source,
                    model=model,
                    prefix=args.prefix,
                    nouns=args.nouns,
                    most=args.most,
                    samples=args.samples,
                    allow_url=args.allow_url,
                    progress=lambda d, n, stage: progress.start(stage, d, n),
                )
            if said is None:
                failed += 1
                report_failure(progress, source, guard.fault, json=args.json)
                continue
            if args.json:
                record = {
                    "image": source,
                    "caption": said.text,
                    "model": said.model,
                    "nouns": [list(item) for item in said.nouns],
                    "evaluations": said.evaluations,
                }
                progress.line(json.dumps(record))
            else:
                before = f"{source}\t" if len(args.images) > 1 else ""
                progress.line(before + said.text)
    return 0 if not failed else 2 if failed == len(args.images) else 1
