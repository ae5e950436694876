"""`textseg train --recipe painter`: a small model that paints, from drawings."""

from __future__ import annotations

import argparse
from typing import Any

from ..training.painter.options import PainterOptions
from .options_arguments import given_options, refuse
from .progress import Progress

ONLY = ("prepare",)
"""Arguments that go with it alone, but for the fields of `PainterOptions`."""
TAKEN = ("packages", "drawings", "backgrounds", "device")
"""Arguments that it shares with other kinds of training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    painter = parser.add_argument_group("the painter")
    painter.add_argument("--prepare", action="store_true",
                         help="stop when the work folder holds all that a machine without the "
                              "sources needs to go on: drawings.npz and "
                              "autoencoder.pt")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ..training.painter.recipe import PainterSources, train_painter

    packages = [args.packages] if args.packages else []
    for folder in (*packages, *args.drawings, *args.backgrounds):
        refuse(folder.is_dir(), f"training sources must be folders, got {str(folder)!r}")
    options = PainterOptions(**given_options(args, PainterOptions))
    sources = PainterSources(args.packages, args.drawings, args.backgrounds)
    totals = {"autoencoder": 60 * options.autoencoder_minutes, "denoiser": 3600 * options.hours}
    with Progress("s", quiet=args.quiet) as bar:

        def report(stage: str, row: dict[str, Any]) -> None:
            if stage == "pool":
                bar.start("encoding", row["step"], options.pool)
                return
            speed = row.get("scenes_per_second")
            title = stage if speed is None else f"{stage}, {speed:g} scenes/s"
            bar.start(title, round(row["seconds"]), round(totals[stage]))

        train_painter(
            sources, args.work, args.output, options, device=args.device,
            prepare_only=args.prepare, progress=report,
        )  # fmt: skip
    if not args.quiet:
        print(args.work if args.prepare else args.output)
    return 0
