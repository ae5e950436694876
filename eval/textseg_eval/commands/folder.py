"""`textseg eval folder`: masks against a plain folder of masks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from textseg.errors import InputError

from .shared import (
    add_absent_argument,
    add_method_arguments,
    add_run_arguments,
    beside,
    exit_code_of,
    measure,
    say,
)

DESCRIPTION = """\
Measure masks against a folder of mask pictures with the images' names.

Layouts: --query TEXT, all masks show one thing; --queries FILE, a JSON object with the query of
each image; --labels FILE, the masks are label maps and a JSON object names their values; none of
these, masks lie in MASKS/QUERY/NAME.png. The protocols are those of `textseg eval coco`."""
EXAMPLES = """\
examples:
  textseg eval folder --images photos --masks masks --query dog -o runs/dogs
  textseg eval folder --images photos --masks labels --labels names.json --protocol object -o runs/l
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="mask pictures")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--query", metavar="TEXT", help="what every mask shows")
    which.add_argument("--queries", type=Path, metavar="FILE", help="JSON: query by image name")
    which.add_argument("--labels", type=Path, metavar="FILE", help="JSON: name by pixel value")
    parser.add_argument("--ignore", type=int, default=255, metavar="N",
                        help="value of label maps that counts neither way; -1 for none "
                             "(default: 255)")  # fmt: skip
    parser.add_argument("--protocol", choices=("present", "object"), default="present",
                        help="default: present")  # fmt: skip
    add_absent_argument(parser, "absent queries asked per image under present, drawn from those of "
                                "other images (default: 2)")  # fmt: skip
    add_run_arguments(parser)
    add_method_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from textseg.picture_files import described, split_pictures

    from ..mask_folder import load_folder
    from ..protocols import LabelMap, Present, Protocol
    from .shared import method_specs, texts_of

    if args.absent < 0:
        raise InputError(f"absent-queries must be at least 0, got {args.absent}")
    dataset = load_folder(
        args.images, args.masks, query=args.query, queries=args.queries, labels=args.labels,
        ignore=None if args.ignore < 0 else args.ignore,
    )  # fmt: skip
    others = split_pictures(path for path in args.images.iterdir() if path.is_file())[1]
    if others and not args.quiet:
        print(f"textseg: note: left out as no pictures: {described(others)}", file=sys.stderr)
    dataset = dataset.limited(args.limit, args.split_seed)
    specs = method_specs(args, labels=args.protocol != "present")
    done: dict[str, Any] = {}
    for name, spec in specs.items():
        texts = texts_of(args, dataset, name)
        protocol: Protocol = LabelMap(texts)
        if args.protocol == "present":
            protocol = Present(texts, args.absent, args.split_seed)
        folder = args.output / name if len(specs) > 1 else args.output
        results = measure(args, dataset, protocol, spec, folder)
        say(args, results, folder)
        done[name] = results
    beside(args, dataset, done)
    return exit_code_of(done.values())
