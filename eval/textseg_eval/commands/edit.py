"""`textseg eval edit`: the trade-off of edits between what they change and what they leave."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from textseg.errors import InputError

from .shared import add_format_argument

DESCRIPTION = """\
Edit the objects of a COCO-format data set by prompt and measure what became of the background, how
much changed inside and whether the edit took, for DiffEdit and the methods of its ablation, over
encoding ratios and mask thresholds. Writes results.json, per_image.jsonl and edit.html; a run that
was stopped goes on where it was."""
EXAMPLES = """\
LPIPS, CLIP score and FID are measured where weights are given: TorchScript files as those of
StyleGAN3's metrics (vgg16.pt, inception-2015-12-05.pt), a CLIP folder in transformers' format.

examples:
  textseg eval edit --images data/drawn/val \\
      --annotations data/drawn/annotations/instances_val.json \\
      --swap "dog=a cat" --swap "cat=a dog" -o runs/edit
  textseg eval edit --images val2017 --annotations instances_val2017.json --swaps swaps.json \\
      --model sd-legacy/stable-diffusion-v1-5 --limit 100 --lpips vgg16.pt -o runs/sd
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from textseg.cli.options_arguments import (
        Listed,
        add_alias,
        add_model_arguments,
        add_options,
        comma_list,
        result_folder,
    )
    from textseg.options import EditOptions

    from ..edit_plan import METHODS

    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument(
        "--annotations", type=Path, required=True, metavar="FILE", help="COCO instances"
    )
    parser.add_argument(
        "--swap",
        action="append",
        default=[],
        metavar="CATEGORY=PROMPT",
        help='what a category becomes, as "dog=a cat"; "dog=" removes it; repeatable',
    )
    parser.add_argument(
        "--swaps",
        dest="pairs",
        type=Path,
        metavar="FILE",
        help='swaps as JSON: {"dog": "a cat", ...}',
    )
    parser.add_argument(
        "-o", "--output", type=result_folder, required=True, metavar="DIR", help="results"
    )
    parser.add_argument(
        "--method",
        type=comma_list(METHODS),
        action=Listed,
        metavar="M[,M...]",
        help=f"{', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--encode-ratio",
        dest="ratios",
        type=_numbers,
        action=Listed,
        metavar="R[,R...]",
        help="encoding ratios (default: 0.5,0.6,0.7,0.8,0.9)",
    )
    parser.add_argument(
        "--threshold",
        type=_numbers,
        action=Listed,
        metavar="T[,T...]",
        help="mask thresholds (default: 0.25,0.5,0.75)",
    )
    add_alias(parser, "--ratio", "--encode-ratio")
    add_alias(parser, "--pairs", "--swaps")
    parser.add_argument(
        "--guidance-scale",
        dest="guidances",
        type=_scales,
        action=Listed,
        metavar="G[,G...]",
        help="classifier-free guidance, 1 means none (default: what the model was tuned with)",
    )
    add_alias(parser, "--guidance", "--guidance-scale")
    parser.add_argument(
        "--truth-mask",
        action="store_true",
        help="edit the annotated region, not the one the model finds",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images with a swap")
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        metavar="N",
        help="noise draws that judge whether an edit took (default: 4)",
    )
    parser.add_argument("--save-images", action="store_true", help="keep the edited images")
    parser.add_argument("--lpips", type=Path, metavar="FILE", help="TorchScript LPIPS network")
    parser.add_argument("--clip", type=Path, metavar="DIR", help="CLIP model for the CLIP score")
    parser.add_argument(
        "--inception", type=Path, metavar="FILE", help="TorchScript Inception network for FID"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N",
                        help="processes (default: 1); figures do not change")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="THREADS",
                        help="threads of each (default: 1); part of a run's settings")  # fmt: skip
    add_format_argument(parser, "DIR/tables")
    parser.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="errors only")
    add_model_arguments(parser)
    add_options(
        parser,
        EditOptions,
        title="edit (default: what the model was tuned with)",
        exclude=("encode_ratio", "guidance_scale", "crop", "invert_mask", "composite"),
    )


def run(args: argparse.Namespace) -> int:
    import json

    from textseg.backbone import load
    from textseg.cli.options_arguments import given_options
    from textseg.cli.progress import Progress
    from textseg.editing import edit_defaults
    from textseg.options import EditOptions

    from ..datasets import load_coco
    from ..edit_plan import LEVELS, RATIOS, EditRun
    from ..edit_report import REPORT
    from ..edit_run import Crew, evaluate_edits
    from ..edit_tables import edit_table
    from ..edit_worker import JudgeFiles
    from ..tables import FOLDER, markdown, write_tables
    from .shared import exit_code

    pairs = swaps(args.swap, args.pairs)
    dataset = load_coco(args.images, args.annotations)
    backbone = load(args.model, device=args.device, dtype=args.dtype)
    plan = EditRun(
        dataset=dataset,
        pairs=pairs,
        ratios=args.ratios or RATIOS,
        levels=args.threshold or LEVELS,
        guidances=args.guidances or (),
        options=replace(edit_defaults(backbone), **given_options(args, EditOptions)),
        truth_mask=args.truth_mask,
        draws=args.draws,
        save_images=args.save_images,
    )
    if args.method:
        plan = replace(plan, methods=args.method)
    fitting = dataset.keeping(e.image_id for e in dataset.examples if plan.fits(e))
    plan = replace(plan, dataset=fitting.limited(args.limit, plan.seed))
    files = JudgeFiles(args.lpips, args.clip, args.inception)
    crew = Crew(args.model, args.device, args.dtype, files, args.workers, args.threads)
    with Progress("image", quiet=args.quiet) as progress:
        results = evaluate_edits(plan, backbone, args.output, files.load(), progress.update, crew)
        write_tables(args.output / FOLDER, [edit_table(results["rows"])], args.formats)
        if args.json:
            progress.line(json.dumps(results))
        elif not args.quiet:
            progress.line(markdown(edit_table(results["rows"])))
            progress.line(str(args.output / REPORT))
        for failure in results["failures"]:
            progress.line(f"textseg: error: {failure['file_name']}: {failure['error']}", error=True)
        if not results["images"]:
            progress.line("textseg: error: no image could be edited", error=True)
    return exit_code([(results["images"], results["failed"])])


def swaps(given: list[str], path: Path | None) -> dict[str, str]:
    """Category -> prompt, from "category=prompt" texts and a JSON file."""
    from ..datasets import read_json

    pairs: dict[str, str] = {}
    if path is not None:
        value, _ = read_json(path, "pairs")
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise InputError(f"pairs must be a JSON object of texts, got {path}")
        pairs |= value
    for text in given:
        category, sign, prompt = text.partition("=")
        if not sign or not category.strip():
            raise InputError(f"swap must be CATEGORY=PROMPT, got {text!r}")
        pairs[category.strip()] = prompt.strip()
    return pairs


def _numbers(text: str) -> tuple[float, ...]:
    return _parsed(text, "in (0, 1]", lambda value: 0 < value <= 1)


def _scales(text: str) -> tuple[float, ...]:
    return _parsed(text, "of at least 0", lambda value: 0 <= value < math.inf)


def _parsed(text: str, rule: str, holds: Callable[[float], bool]) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(holds, values)):
        raise argparse.ArgumentTypeError(f"must be numbers {rule}, got {text!r}")
    return values
