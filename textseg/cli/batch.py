"""`textseg batch`: many images, here or on Ray, with results that do not depend on where."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..formats import SUFFIXES
from .options_arguments import (
    PICTURE,
    Listed,
    add_group,
    add_mask_options,
    add_model_arguments,
    add_report_arguments,
    comma_list,
    given_mask_options,
    refuse,
)

if TYPE_CHECKING:
    from ..batch.run import Progress as State
    from ..batch.run import Summary
    from ..batch.sources import Plan

DESCRIPTION = """\
Cut what queries name out of many images.

The results of DIR/a/park.jpg are OUT/a/park.QUERY.FORMAT.png (or .json); the masks are those that
`textseg segment` makes. OUT/index.jsonl (and index.parquet, where pyarrow is installed) has a row
for each image and query, with the mask as run lengths; OUT/coco_results.json the same in COCO's
format. Give the same command again to go on after an interruption: what is done is not done again,
images that failed are tried again."""
EXAMPLES = """\
sources, any number of them, local or in a store (s3://, gs://, ... with the packages they need):
  a folder        all its images, in depth, by the suffixes Pillow reads
  a glob          "photos/**/*.jpg", in quotes
  LIST.csv        columns image and query (several with | between, or in several rows), caption
  LIST.jsonl      lines {"image": ..., "queries": [...]}; paths are relative to the list
  COCO.json       its images; without -q, each is asked for the categories that are in it

exit codes: 0 all done, 1 some images failed, 2 none done (usage or bad input), 130 interrupted

examples:
  textseg batch photos -q "the dog" -q "the tree" -o out
  textseg batch list.jsonl -o out --format mask,overlay --workers 4
  textseg batch instances_val2017.json --images val2017 -o out --format none
  textseg batch s3://bucket/photos -q "the dog" -o s3://bucket/masks --ray=auto --actors 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", metavar="SOURCE",
                        help="folder, glob, image, manifest or COCO file; see below")  # fmt: skip
    parser.add_argument("-q", "--query", action="append", default=[], metavar="TEXT",
                        dest="queries", help='what to find, as "the dog"; repeatable; asked of '
                        "images that have no queries of their own, and instead of COCO's "
                        "categories")  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="OUT",
                        help="folder for the results, made if need be, or URL of a "
                             "store")  # fmt: skip
    parser.add_argument("--format", type=comma_list([*SUFFIXES, "none"]), action=Listed,
                        default=["mask"], metavar="F[,F...]", dest="formats",
                        help=f"{', '.join(SUFFIXES)}, as in `textseg segment`, or none: the index "
                             "only (default: mask)")  # fmt: skip
    parser.add_argument("--images", metavar="DIR",
                        help="where the pictures of a COCO file or manifest lie (default: beside "
                             "it)")  # fmt: skip
    add_mask_options(parser)
    group = parser.add_argument_group("where it runs (the results are the same)")
    group.add_argument("--workers", type=int, metavar="N",
                       help="processes that refine and write beside the model, 0 for none "
                            "(default: one core less than there are, 8 at most)")  # fmt: skip
    group.add_argument("--threads", type=int, metavar="THREADS",
                       help="threads of each model on a CPU; the last bits of a result may depend "
                            "on it (default: the number of cores)")  # fmt: skip
    group.add_argument("--ray", nargs="?", const="", metavar="ADDRESS",
                       help="run on Ray: on a cluster (auto, HOST:PORT, ray://HOST:PORT), or one "
                            "started here for the run")  # fmt: skip
    group.add_argument("--actors", type=int, metavar="N",
                       help="models in memory at once on Ray (default: one for each GPU, or as "
                            "many as there are cores for)")  # fmt: skip
    group = parser.add_argument_group("several queries")
    group.add_argument("--exclusive", action="store_true",
                       help="queries compete: no pixel is in two masks of an image")  # fmt: skip
    group = add_group(parser, PICTURE)
    group.add_argument("--allow-url", action="store_true", help="fetch images given as http(s)")
    group.add_argument("--caption-model", metavar="NAME",
                       help="who captions images without a caption, for --reference erase: blip, "
                            "or a model that names nouns (default: --model)")  # fmt: skip
    add_report_arguments(parser, "the summary as JSON on stdout")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    contrast, refine = given_mask_options(args)
    for name, least in (("workers", 0), ("threads", 1), ("actors", 1)):
        value = getattr(args, name)
        refuse(value is None or value >= least, f"{name} must be at least {least}, got {value}")
    refuse(args.actors is None or args.ray is not None, f"actors need --ray, got {args.actors}")
    refuse(args.output != "-", "-o must be a folder or a store for many results, got -")
    formats = () if args.formats == ["none"] else tuple(args.formats)
    refuse("none" not in formats, f"format none must stand alone, got {','.join(args.formats)}")

    from ..batch.run import Engine, run_batch
    from ..batch.sources import Item, make_plan
    from ..batch.stages import Job
    from ..workers import available_cores
    from .progress import Progress, one_line

    cores = available_cores()
    workers = min(8, cores - 1) if args.workers is None else args.workers
    plan = make_plan(args.sources, args.queries, images=args.images, exclude=args.output)
    job = Job(
        output=args.output,
        model=args.model,
        device=args.device,
        dtype=args.dtype,
        contrast=contrast,
        refine=refine,
        exclusive=args.exclusive,
        formats=formats,
        caption_model=args.caption_model,
        allow_url=args.allow_url,
        threads=args.threads or cores,
    )
    engine = Engine(workers, args.ray is not None, args.ray or None, args.actors)
    with Progress("image", quiet=args.quiet) as bar:

        def progress(state: State) -> None:
            bar.start(f"{state.done}/{state.total} images, {state.rate:.2f}/s",
                      state.done, state.total)  # fmt: skip

        def failed(item: Item, error: str) -> None:
            where = "" if item.source in error or repr(item.source)[1:-1] in error else (
                f"{item.source}: ")  # fmt: skip
            bar.line(f"textseg: error: {where}{one_line(error)}", error=True)

        bar.start(f"0/{len(plan.items)} images", 0, len(plan.items))
        summary = run_batch(job, plan, engine, args.sources, args.queries,
                            progress=progress, failed=failed)  # fmt: skip
    _report(summary, plan, args)
    return 0 if not summary.failed else 2 if summary.failed == summary.images else 1


def _report(summary: Summary, plan: Plan, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps({
            "images": summary.images, "done_before": summary.before, "failed": summary.failed,
            "masks": summary.masks, "empty": summary.empty, "unasked": plan.unasked,
            "left_out": plan.left_out, "seconds": round(summary.seconds, 3), "output": args.output,
            "files": list(summary.files), "log": summary.log,
        }))  # fmt: skip
    elif not args.quiet:
        from ..picture_files import described

        notes = [f"{summary.empty} empty"] * bool(summary.empty)
        notes += [f"{summary.before} done before"] * bool(summary.before)
        log = f", tracebacks in {summary.log}" * bool(summary.log)
        notes += [f"{summary.failed} failed{log}"] * bool(summary.failed)
        notes += [f"{plan.unasked} without a category left out"] * bool(plan.unasked)
        notes += [f"left out {described(plan.left_out)}"] * bool(plan.left_out)
        tail = f" ({', '.join(notes)})" if notes else ""
        counts = ((summary.images, "image"), (summary.masks, "mask"))
        made = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts)
        print(f"{made}{tail}: "
              f"{args.output.rstrip('/')}/{summary.files[0]}")  # fmt: skip
