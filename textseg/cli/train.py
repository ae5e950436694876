"""`textseg train`: the embedded model, from drawings, cutouts and annotated photographs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..training.options import TrainOptions
from .options_arguments import add_options, given_options, refuse
from .progress import Progress

DESCRIPTION = """\
Train a small text-to-image model that understands absence, and write it as a diffusers folder.

Scenes are composed of cutouts (folders FOLDER/NOUN/*.png with transparent ground) on backgrounds;
photographs of COCO-format sets are used whole, and their objects as cutouts. Half of the captions
say that something is not there, and ask for the scene without it. Checkpoints and logs lie in the
work folder; the same command again goes on where it stopped."""
EXAMPLES = """\
the drawings of the shipped model:
  npm install emoji-datasource emoji-datasource-google emoji-datasource-twitter \\
      @lobehub/fluent-emoji-3d
  textseg train --packages node_modules --hours 2 --work run -o my-mini

more sources:
  textseg train --packages node_modules --cutouts photos/ --backgrounds views/ \\
      --coco train2017 instances_train2017.json --work run -o my-mini

calibrate on an annotated set of your own:
  textseg train --packages node_modules --work run -o my-mini \\
      --calibrate data/drawn/train data/drawn/annotations/instances_train.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                        help="the model folder to write")  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR",
                        help="checkpoints and logs")  # fmt: skip
    parser.add_argument("--packages", type=Path, metavar="DIR",
                        help="node_modules with the emoji packages")  # fmt: skip
    for name, text in (("drawings", "drawn cutouts"), ("cutouts", "photographed cutouts"),
                       ("backgrounds", "photographs without a subject")):  # fmt: skip
        parser.add_argument(f"--{name}", type=Path, action="append", default=[], metavar="DIR",
                            help=f"folder of {text}; repeatable")  # fmt: skip
    parser.add_argument("--coco", type=Path, nargs=2, action="append", default=[],
                        metavar=("IMAGES", "ANNOTATIONS"),
                        help="a COCO-format set; repeatable")  # fmt: skip
    parser.add_argument("--init", type=Path, metavar="DIR",
                        help="a model written by this command to start from")  # fmt: skip
    parser.add_argument("--calibrate", type=Path, nargs=2, metavar=("IMAGES", "ANNOTATIONS"),
                        help="a COCO-format set to find thresholds on")  # fmt: skip
    parser.add_argument("--decoder-minutes", type=float, default=20.0, metavar="X",
                        help="time for the autoencoder's decoder (default: 20)")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="errors only")
    add_options(parser, TrainOptions, title="training")


def run(args: argparse.Namespace) -> int:
    from ..options import ContrastOptions
    from ..training.calibrate import calibrate
    from ..training.recipe import Sources, train_model

    folders = [*args.drawings, *args.cutouts, *args.backgrounds]
    folders += [args.packages] if args.packages else []
    for folder in folders:
        refuse(folder.is_dir(), f"training sources must be folders, got {str(folder)!r}")
    for images, file in [*args.coco, *([args.calibrate] if args.calibrate else [])]:
        refuse(images.is_dir(), f"images must be a folder, got {str(images)!r}")
        refuse(file.is_file(), f"annotations must be a file, got {str(file)!r}")
    options = TrainOptions(**given_options(args, TrainOptions))
    sources = Sources(
        args.packages, args.drawings, args.cutouts, args.backgrounds,
        [(images, file) for images, file in args.coco],
    )  # fmt: skip
    with Progress("s", quiet=args.quiet) as bar:

        def report(stage: str, row: dict[str, Any]) -> None:
            total = options.hours * 3600 if stage == "unet" else args.decoder_minutes * 60
            bar.start(stage, round(row["seconds"]), round(total))

        train_model(
            sources, args.work, args.output, options,
            decoder_minutes=args.decoder_minutes, init=args.init, progress=report,
        )  # fmt: skip
        if args.calibrate:
            images, file = args.calibrate
            found = calibrate(
                args.output, images, file,
                options=ContrastOptions(reference="absent", samples=4),
                progress=lambda done, total: bar.start("calibrate", done, total),
            )  # fmt: skip
            if not args.quiet:
                print(f"mean IoU {found['mean_iou']:.3f} at strength {found['strength']}")
    if not args.quiet:
        print(args.output, file=sys.stdout)
    return 0
