"""`textseg eval refer`: masks of referring expressions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import (
    add_method_arguments,
    add_run_arguments,
    beside,
    exit_code_of,
    measure,
    say,
)

DESCRIPTION = """\
Measure masks of referring expressions: RefCOCO and its kin, or a COCO file with expressions.

Every expression is a query of its own. pooled_iou is the overall IoU of that literature, query_iou
its mean IoU, and the shares of IoU at least 0.5, 0.7 and 0.9 its precision at those values."""
EXAMPLES = """\
examples:
  textseg eval refer --images train2014 --annotations instances.json --refs "refs(unc).p" \\
      --refs-split val -o runs/refcoco
  textseg eval refer --images train2014 --annotations finetune_refcoco_val.json -o runs/refcoco
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE",
                        help="COCO instances, with expressions unless --refs is given")  # fmt: skip
    parser.add_argument("--refs", type=Path, metavar="FILE", help="refer JSON or pickle")
    parser.add_argument("--refs-split", metavar="NAME", help="val, testA and so on (default: all)")
    add_run_arguments(parser)
    add_method_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ..expressions import load_refer
    from ..protocols import Refer
    from .shared import method_specs

    dataset = load_refer(args.images, args.annotations, refs=args.refs, split=args.refs_split)
    dataset = dataset.limited(args.limit, args.split_seed)
    specs = method_specs(args)
    done: dict[str, Any] = {}
    for name, spec in specs.items():
        folder = args.output / name if len(specs) > 1 else args.output
        results = measure(args, dataset, Refer(), spec, folder)
        say(args, results, folder)
        done[name] = results
    beside(args, dataset, done)
    return exit_code_of(done.values())
