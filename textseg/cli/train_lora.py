"""`textseg train --rank N`: LoRA for any model, on any annotated set."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..training.lora_options import LoraOptions
from .options_arguments import given_options, refuse
from .progress import Progress

ONLY = ("annotations", "images", "validate", "merge", "device")
"""Arguments that go with --rank alone, but for the fields of `LoraOptions`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    lora = parser.add_argument_group("LoRA")
    lora.add_argument("--rank", type=int, metavar="N", default=argparse.SUPPRESS,
                      help="tune --init with low-rank updates of this rank, 1 to 1024")  # fmt: skip
    lora.add_argument("--annotations", type=Path, metavar="FILE",
                      help="a COCO-format instance file")  # fmt: skip
    lora.add_argument("--images", type=Path, metavar="DIR", help="its images")
    lora.add_argument("--validate", type=int, metavar="N", default=0,
                      help="hold out N images; give the IoU of the contrast on them before and "
                           "after, and calibrate on them")  # fmt: skip
    lora.add_argument("--merge", type=Path, metavar="DIR",
                      help="also write the tuned model as a folder of its own")  # fmt: skip
    lora.add_argument("--device", metavar="DEVICE",
                      help="cpu, cuda, cuda:1, mps (default: the best there is)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ..training.lora_tuning import TuneJob, tune

    for name in ("annotations", "images", "init"):
        refuse(getattr(args, name) is not None, f"--{name} must be given with --rank, got none")
    refuse(args.images.is_dir(), f"images must be a folder, got {str(args.images)!r}")
    refuse(args.annotations.is_file(), f"annotations must be a file, got {str(args.annotations)!r}")
    refuse(
        args.validate >= 0, f"validate must be a whole number of at least 0, got {args.validate}"
    )
    options = LoraOptions(**given_options(args, LoraOptions))
    job = TuneJob(
        args.init, args.images, args.annotations, args.output, args.work, args.validate,
        merge=args.merge, device=args.device,
    )  # fmt: skip
    with Progress("step", quiet=args.quiet) as bar:
        figures = tune(job, options, lambda done, total, stage: bar.start(stage, done, total))
    if figures is not None and not args.quiet:
        print(f"held-out contrast, mean IoU of {figures.queries} queries "
              f"(everything: {figures.everything:.3f})")  # fmt: skip
        for name, value in figures.after.items():
            print(f"  {name:8}before {figures.before[name]:.3f}  after {value:.3f}")
    if not args.quiet:
        print(args.output)
    return 0
