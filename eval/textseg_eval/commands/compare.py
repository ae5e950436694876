"""`textseg eval compare`: runs side by side, with paired intervals."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .shared import add_format_argument

DESCRIPTION = """\
Put runs over the same data and protocol side by side. Each is counted again over the test images
all of them scored; the difference to the first run is a paired bootstrap over images.

A run of several methods is the folder that holds theirs. Given alone, its methods are set against
each other; several such runs are compared method by method; beside a run of one method, each of its
methods counts as a run. Runs of edits are compared setting by setting."""
EXAMPLES = """\
examples:
  textseg eval compare runs/mini runs/centre-box runs/cross-attention
  textseg eval compare runs/object                  # its methods, against the first of them
  textseg eval compare runs/before runs/after       # method by method
  textseg eval compare runs/sweep/base runs/sweep/samples=1 -o comparison.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write a page, .html; - writes only that, to stdout",
    )
    add_format_argument(parser, "FILE-tables beside the page FILE.html")
    parser.add_argument("--replicates", type=int, default=1000, metavar="N",
                        help="bootstrap replicates (default: 1000)")  # fmt: skip
    parser.add_argument("--bootstrap-seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--json", action="store_true", help="JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="errors only")


def run(args: argparse.Namespace) -> int:
    from textseg.cli.options_arguments import refuse
    from textseg.cli.progress import Progress

    from ..ablation import left_out
    from ..comparison import compare, group
    from ..comparison_report import comparison_tables, write_comparison
    from ..edit_comparison import compare_edits, is_edit
    from ..edit_report import compared_tables
    from ..tables import FOLDER, markdown, write_tables

    path: Path | None = args.output
    refuse(str(args.output) != "-" or not args.json,
           "-o - cannot go with --json: both write to standard output")  # fmt: skip
    refuse(not args.formats or str(path) not in ("None", "-"),
           "--format needs -o FILE, beside which the tables are written")  # fmt: skip
    settings = {"replicates": args.replicates, "seed": args.bootstrap_seed}
    edits = is_edit(args.runs[0])
    if edits:
        groups = {"": compare_edits(args.runs, **settings)}
    else:
        groups = {name: compare(runs, **settings) for name, runs in group(args.runs).items()}
    tables_of = compared_tables if edits else comparison_tables
    if path is not None:
        write_comparison(path, groups)
        for name, compared in groups.items():
            folder = path.with_name(f"{path.stem}-{FOLDER}") / name
            write_tables(folder, tables_of(compared), args.formats)
    with Progress("image", quiet=True) as out:
        if args.json:
            out.line(json.dumps(groups.get("", {"methods": groups})))
        elif not args.quiet and str(args.output) != "-":
            for name, compared in groups.items():
                title = f"{name}: " if name else ""
                protocol = compared.get("protocol", "edits")
                out.line(f"{title}{compared['images']} common images, {protocol}")
                if edits:
                    for table in tables_of(compared):
                        out.line(f"{table.title}\n\n{markdown(table)}")
                else:
                    out.line("\n".join(map(_line, compared["runs"])))
                    if differing := compared["settings"]:
                        out.line(f"what differs: {', '.join(differing)}")
                for line in left_out(compared["runs"]):
                    out.line(line)
    return 0


def _line(entry: Mapping[str, Any]) -> str:
    from ..tables import figure

    figures = entry["figures"]
    line = f"{entry['name']} ({entry['headline']}): mIoU {figure(figures['miou'])}"
    line += f", per image {figure(figures['image_iou'])}"
    if "difference" in entry:
        gap = entry["difference"]["miou"]
        line += f"; against the first {figure(gap)}"
        if gap["better"] is not None:
            line += f", better in {gap['better']:.1%} of replicates"
    return line
