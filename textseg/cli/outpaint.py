"""`textseg outpaint`: extend a picture beyond its borders."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import EditOptions
from ..outpainting import NO_PART, OUTPAINT_METHODS, count_pads, outpaint
from .edit import (
    add_edit_switches,
    add_output,
    assessed,
    check_output,
    report_edit,
    save_assessed,
    write_stdout,
)
from .options_arguments import (
    PICTURE,
    add_alias,
    add_beside_arguments,
    add_group,
    add_model_arguments,
    add_options,
    add_picture_arguments,
    add_report_arguments,
    given_options,
    load_given,
)
from .streams import standard_input

DESCRIPTION = """\
Extend an image beyond its borders, by prompt. The image itself keeps its pixels, bit for bit (as
8-bit RGB, in PNG and WebP; JPEG loses some everywhere). Wide extensions are painted in rounds."""
EXAMPLES = """\
Amounts are pixels, or percentages of the image's width (left, right) or height (top, bottom). A
model that does not paint, as mini, goes on with the border's colours (--method fill).

exit codes: 0 done, 2 usage or bad input

examples:
  textseg outpaint park.jpg --left 128 --right 25% -o wide.png
  textseg outpaint park.jpg --top 50% -p "a park under a stormy sky" -o high.png --model DIR
  textseg outpaint park.jpg --right 100% -p "a park" -o wide.png --method inpaint --model DIR
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="image file; - is stdin")
    for side in ("left", "right", "top", "bottom"):
        parser.add_argument(
            f"--{side}", default=0, metavar="N|N%", help=f"how much to add on the {side}"
        )
    parser.add_argument(
        "-p", "--prompt", default="", metavar="TEXT", help="what the whole image shows"
    )
    add_output(parser)
    parser.add_argument(
        "--method",
        choices=OUTPAINT_METHODS,
        metavar="M",
        help=f"how: {', '.join(OUTPAINT_METHODS)} (default: diffedit; fill with a model that does "
        "not paint)",
    )
    add_options(
        parser,
        EditOptions,
        title="edit (but encode-ratio 0.8 and a seam of 2% of the longer side)",
        exclude=NO_PART,
        first={"seed": ""},
    )
    add_alias(parser, "--ratio", "--encode-ratio")
    add_picture_arguments(parser, captions=False)
    add_edit_switches(add_group(parser, PICTURE))
    add_report_arguments(parser)
    add_model_arguments(parser)
    add_beside_arguments(parser)


def run(args: argparse.Namespace) -> int:
    changes = given_options(args, EditOptions)
    # Bad options are refused here, before a model is loaded.
    EditOptions(**changes)
    out = check_output(args.output, ".npz", json=args.json)

    from ..image import fetch_image, is_url, load_image
    from ..segmenter import Segmenter
    from .progress import Progress

    image = standard_input().read() if args.image == "-" else args.image
    if is_url(image):
        image = fetch_image(image, allow_url=args.allow_url)
    amounts = {"left": args.left, "right": args.right, "top": args.top, "bottom": args.bottom}
    # What is wrong with the picture or the amounts is said before a model is loaded.
    count_pads(load_image(image).shape[:2], **amounts)
    model: Any = args.model
    if args.method not in ("inpaint", "fill"):
        model = Segmenter(load_given(args))
    with Progress("step", quiet=args.quiet) as progress:
        done = outpaint(
            image, args.prompt, **amounts, model=model, method=args.method,
            progress=lambda done, total, stage: progress.start(stage, done, total), **changes,
        )  # fmt: skip
        for note in () if args.quiet or args.json else done.notes:
            progress.line(f"textseg: warning: {note}", error=True)
        seen = model if done.prompt else None
        if args.output == "-":
            write_stdout(assessed(args, done, seen, progress).to_bytes(".png", args.visible_label))
            return 0
        done = save_assessed(args, done, seen, progress)
        report_edit(args, done, {"image": str(out)}, progress)
    return 0
