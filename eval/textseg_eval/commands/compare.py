"""`textseg eval compare`: runs side by side, with paired intervals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DESCRIPTION = """\
Put runs over the same data and protocol side by side. Each is counted again over the test images
all of them scored; the difference to the first run is a paired bootstrap over images."""
EXAMPLES = """\
examples:
  textseg eval compare runs/mini runs/centre-box runs/cross-attention
  textseg eval compare runs/sweep/base runs/sweep/samples=1 -o comparison.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a page, .html")
    parser.add_argument("--replicates", type=int, default=1000, metavar="N",
                        help="bootstrap replicates (default: 1000)")  # fmt: skip
    parser.add_argument("--bootstrap-seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="errors only")


def run(args: argparse.Namespace) -> int:
    from textseg.cli.progress import Progress

    from ..compare import compare
    from ..report import write_comparison
    from ..sweep import figure

    compared = compare(args.runs, replicates=args.replicates, seed=args.bootstrap_seed)
    if args.output is not None:
        write_comparison(args.output, compared)
    with Progress("image", quiet=True) as out:
        if args.json:
            out.line(json.dumps(compared))
        elif not args.quiet:
            out.line(f"{compared['images']} common images, {compared['protocol']}")
            for entry in compared["runs"]:
                figures = entry["figures"]
                line = f"{entry['name']} ({entry['headline']}): mIoU {figure(figures['miou'])}"
                line += f", per image {figure(figures['image_iou'])}"
                if "difference" in entry:
                    gap = entry["difference"]["miou"]
                    line += f"; against the first {figure(gap)}"
                    if gap["better"] is not None:
                        line += f", better in {gap['better']:.1%} of replicates"
                out.line(line)
    return 0
