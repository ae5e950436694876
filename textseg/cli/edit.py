"""`textseg edit`: change what a query names, and nothing else."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..edit_methods import EDIT_METHODS
from ..errors import InputError
from ..options import ContrastOptions, EditOptions, RefineOptions
from ..vocabulary import find_unknown_note
from .options_arguments import (
    CRF_GROUP,
    add_alias,
    add_beside_arguments,
    add_model_arguments,
    add_options,
    add_picture_arguments,
    add_report_arguments,
    given_mask_options,
    given_options,
    load_given,
    refuse,
)
from .streams import standard_input

if TYPE_CHECKING:
    import numpy as np

    from ..edits import Edit
    from ..masks import Segmentation
    from .progress import Progress

DESCRIPTION = """\
Change what a query names in an image, by prompt. The rest of the image keeps its pixels, bit for
bit (as 8-bit RGB, in PNG and WebP; JPEG loses some everywhere). The file says that it was edited
with AI."""
EXAMPLES = """\
An empty prompt removes what the query names. The steps of --save-steps go to OUT's name with
.steps.png, the overlay of --approve to the same with .overlay.png, and the image of --from-prompt,
kept whatever becomes of the edit, to the same with .input.png.

exit codes: 0 done, 1 nothing edited (not found, or not approved), 2 usage or bad input

examples:
  textseg edit park.jpg -q "the dog" -p "a cat" -o out.png
  textseg edit park.jpg -q "the dog" -p "" -o without-dog.png --approve
  textseg edit park.jpg -q "the dog" -p "a beach" --invert-mask -o beach.png
  textseg edit park.jpg -p "an oil painting" --encode-ratio 0.4 -o painting.png
  textseg edit park.jpg -q "the dog" --style autumn.jpg -o autumn-dog.png
  textseg edit park.jpg --mask region.png -p "a cat" -o out.png --method sdedit
  textseg edit --from-prompt "a bowl of fruit" -q "the bowl" -p "a basket" -o out.png --save-steps
"""

# `edit` gives one seed to both; a second flag of that name would be another.
_SHARED = ("seed",)
_FIRST = {
    "encode_ratio": "how far the region may change, from above 0 to 1",
    "seed": "of the noise draws, where the region is found and where it is edited",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="image file; - is stdin")
    parser.add_argument(
        "-q", "--query", action="append", metavar="TEXT", help='what to change, as "the dog"'
    )
    parser.add_argument(
        "-p",
        "--prompt",
        metavar="TEXT",
        help='what it is to become, as "a cat"; "" removes it; without -q, of the whole picture',
    )
    add_output(parser)
    parser.add_argument(
        "--mask",
        metavar="FILE",
        help="region to edit: a mask (white is edited), or a result of `textseg segment` as .npz",
    )
    parser.add_argument(
        "--method",
        choices=EDIT_METHODS,
        default=None,
        metavar="M",
        help=f"how: {', '.join(EDIT_METHODS)} (default: diffedit; transport with --style; "
        "poisson with --patch; fill to remove with a model that does not paint)",
    )
    parser.add_argument(
        "--approve",
        action="store_true",
        help="show where the region's overlay lies and ask before editing",
    )
    group = parser.add_argument_group("other pictures, in and out")
    group.add_argument("--from-prompt", metavar="TEXT", help="make the image from this prompt")
    group.add_argument(
        "--style",
        metavar="FILE",
        help="picture whose colours the region, or without one the whole, is given; without -p",
    )
    group.add_argument("--patch", metavar="FILE", help="picture that --method poisson blends in")
    group.add_argument(
        "--save-steps", action="store_true", help="also write a contact sheet of the steps"
    )
    add_edit_switches(group)
    add_options(parser, EditOptions, title="edit", first=_FIRST)
    add_alias(parser, "--ratio", "--encode-ratio")
    add_options(parser, ContrastOptions, title="contrast, finds the region", exclude=_SHARED)
    add_options(parser, RefineOptions, title="mask, cuts the region", apart=CRF_GROUP)
    add_picture_arguments(parser)
    add_report_arguments(parser)
    add_model_arguments(parser)
    add_beside_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.query is not None:
        refuse(len(args.query) == 1, "query must be one, got several; edit one after the other")
        (args.query,) = args.query
    changes = given_options(args, EditOptions)
    # Bad options are refused here, before a model is loaded.
    EditOptions(**changes)
    contrast, refine = given_mask_options(args)
    finding = contrast | refine
    refuse(
        (args.image is None) != (args.from_prompt is None),
        "give an IMAGE or --from-prompt, and not both",
    )
    refuse(
        any(given is not None for given in (args.prompt, args.style, args.patch)),
        "give a --prompt, a --style or a --patch",
    )
    refuse(
        bool(args.query is not None or args.mask is not None or args.prompt or args.style),
        "give a --query or a --mask",
    )
    refuse(not (args.approve and args.image == "-"), "--approve needs stdin for the answer")
    unused = finding.keys() - {"seed"} if args.mask is not None else ()
    if unused:
        name = "no-refine" if not args.refine else min(unused).replace("_", "-")
        raise InputError(f"--{name} is for finding the region, which --mask gives")
    if args.output == "-":
        for name in ("from_prompt", "approve", "save_steps"):
            flag = name.replace("_", "-")
            refuse(not getattr(args, name), f"--{flag} writes beside OUT, which must not be -")
    check_output(args.output, ".npz", json=args.json)

    from .progress import Progress

    with Progress("step", quiet=args.quiet) as progress, ExitStack() as undone:
        return _run(args, changes, finding, progress, undone)


def _run(
    args: argparse.Namespace,
    changes: dict[str, Any],
    finding: dict[str, Any],
    progress: Progress,
    undone: ExitStack,
) -> int:
    """`undone` says what is left where the edit does not come about."""
    from ..captioning import erase_caption
    from ..contact_sheet import contact_sheet
    from ..editing import Steps, edit
    from ..image import load_image
    from ..saving import encode_picture, write_atomic
    from ..segmenter import Segmenter

    def step(done: int, total: int, stage: str) -> None:
        progress.start(stage, done, total)

    mask: Any = None if args.mask is None else _mask(args.mask)
    patch, style = (
        None if name is None else load_image(name, allow_url=args.allow_url)
        for name in (args.patch, args.style)
    )
    refuse(mask is not None or args.method != "inpaint",
           "--method inpaint needs a --mask: its model finds none")  # fmt: skip
    out = Path(args.output)
    model: Any = args.model
    over = EDIT_METHODS[args.method].over if args.method else "latents"
    if (
        (over == "latents" and style is None)
        or (args.mask is None and args.query is not None)
        or args.from_prompt is not None
    ):
        model = Segmenter(load_given(args))
    source, carried = _source(args, model, step)
    made = out.with_suffix(".input.png")
    if args.from_prompt is not None:
        source.save(made)
        source = source.image
        undone.callback(
            progress.line, f"textseg: the picture made from the prompt is kept: {made}", error=True
        )
    if mask is None and args.query is not None:
        pixels = load_image(source)
        model.set_image(pixels)
        finding["caption"] = erase_caption(
            model,
            finding.get("reference"),
            args.caption,
            captioner=args.caption_model,
            progress=step,
        )
        if "seed" in changes:
            finding["seed"] = changes["seed"]
        mask = model.query(args.query, progress=step, **finding)
        if unknown := find_unknown_note(mask.notes):
            progress.line(f"textseg: error: {unknown}", error=True)
            return 1
        if not args.quiet:
            for note in mask.notes[1:]:
                progress.line(f"textseg: warning: {args.query!r}: {note}", error=True)
        if not mask.mask.any():
            progress.line(
                f"textseg: error: {args.query!r} was not found; nothing was edited", error=True
            )
            return 1
    if args.approve and mask is not None and not _approved(out, source, mask, changes, progress):
        progress.line("textseg: not approved; nothing was edited", error=True)
        return 1
    steps = Steps() if args.save_steps else None
    done = edit(
        source,
        args.query,
        args.prompt or "",
        model=model,
        mask=mask,
        method=args.method,
        patch=patch,
        style=style,
        progress=step,
        keep=steps,
        **changes,
    )
    if carried:
        from dataclasses import replace

        done = replace(done, input_xmp=carried)
    if not done.mask.any():
        progress.line("textseg: error: the region is empty; nothing was edited", error=True)
        return 1
    for note in () if args.quiet or args.json else done.notes:
        progress.line(f"textseg: warning: {note}", error=True)
    if args.output == "-":
        write_stdout(assessed(args, done, model, progress).to_bytes(".png", args.visible_label))
        return 0
    done = save_assessed(args, done, model, progress)
    undone.pop_all()
    files = {"image": str(out)}
    if args.from_prompt is not None:
        files["input"] = str(made)
    if steps is not None:
        sheet = out.with_suffix(".steps.png")
        write_atomic(
            sheet,
            encode_picture(contact_sheet(done, steps), ".png", done.describe() | {"what": "steps"}),
        )
        files["steps"] = str(sheet)
    report_edit(args, done, files, progress)
    return 0


def _source(args: argparse.Namespace, model: Any, step: Any) -> tuple[Any, str]:
    """The image in a form that still has its metadata, or a `Generation`, and the XMP it is to
    carry on."""
    if args.from_prompt is not None:
        from ..generation import generate
        from ..provenance import TRAINED, build_packet

        words: str = args.from_prompt
        seed = getattr(args, "seed", 0)
        made = generate(words, model=model.model, seed=seed, progress=step)
        return made, build_packet(TRAINED)
    if args.image == "-":
        return standard_input().read(), ""
    from ..image import fetch_image, is_url

    if is_url(args.image):
        return fetch_image(args.image, allow_url=args.allow_url), ""
    return args.image, ""


def _mask(path: str) -> np.ndarray | Segmentation:
    from ..image import load_image
    from ..masks import Segmentation

    if path.endswith((".npz", ".json")):
        return Segmentation.load(path)
    return load_image(path)[..., 0] > 127


def _approved(
    out: Path, source: Any, mask: Any, changes: dict[str, Any], progress: Progress
) -> bool:
    """Write the overlay, say where it is and read a yes or no."""
    from ..drawing import PALETTE, tint
    from ..image import load_image
    from ..saving import encode_picture, write_atomic

    pixels = load_image(source)
    region = getattr(mask, "mask", mask)
    refuse(
        region.shape == pixels.shape[:2],
        f"mask must have the image's size {pixels.shape[:2]}, got {region.shape}",
    )
    region = ~region if changes.get("invert_mask") else region
    path = out.with_suffix(".overlay.png")
    write_atomic(path, encode_picture(tint(pixels, region, PALETTE[0], 0.45), ".png", {}))
    progress.line(
        f"{path}: edit the tinted region ({region.mean():.1%} of the image)? [y/N] ", error=True
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The flag `--output` of an edited picture; `check_output` reads it."""
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="result: .png, .webp, .jpg, or .npz for everything; - writes a PNG to stdout",
    )


def add_edit_switches(parser: Any) -> None:
    """The flags `--visible-label`, `--assess` and `--no-assess`."""
    parser.add_argument(
        "--visible-label", action="store_true", help='write "Edited with AI" into the picture'
    )
    parser.add_argument(
        "--assess",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="say whether the edit took, by what the model sees before and after it (default: on)",
    )


def assessed(args: argparse.Namespace, done: Edit, model: Any, progress: Progress) -> Edit:
    """The edit with what the model says of it, which is also said to people; as it is where that
    is not asked for, nothing that finds things was loaded, or only colours changed."""
    from dataclasses import replace

    from ..assessing import assess
    from ..segmenter import Segmenter

    recolours = EDIT_METHODS[done.method].recolours
    if not args.assess or args.quiet or recolours or not isinstance(model, Segmenter):
        return done
    outcome = assess(
        done, model=model, progress=lambda done, total, _: progress.start("assessing", done, total)
    )
    if not args.json:
        progress.line(f"textseg: {outcome}", error=True)
    return replace(done, outcome=outcome)


def save_assessed(args: argparse.Namespace, done: Edit, model: Any, progress: Progress) -> Edit:
    """The edit, written before and after it is `assessed`: what takes long cannot lose it."""
    done.save(args.output, visible_label=args.visible_label)
    said = assessed(args, done, model, progress)
    if said is not done:
        said.save(args.output, visible_label=args.visible_label)
    return said


def check_output(name: str, *more_suffixes: str, json: bool) -> Path:
    """The path of a picture to write, before any work is done for it; "-" is standard output."""
    from ..saving import PICTURE_SUFFIXES, picture_suffix

    if name == "-":
        refuse(not json, "-o - cannot go with --json: both write to standard output")
        return Path(name)
    picture_suffix(name, (*PICTURE_SUFFIXES, *more_suffixes), "output")
    if not Path(name).parent.is_dir():
        raise InputError(f"output must lie in a folder that is there, got {name!r}")
    return Path(name)


def write_stdout(data: bytes) -> None:
    """A file's bytes as the command's whole standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def report_edit(
    args: argparse.Namespace, done: Edit, files: dict[str, str], progress: Progress
) -> None:
    if args.json:
        progress.line(json.dumps({"files": files} | done.describe()))
    elif not args.quiet:
        progress.line(f"{' '.join(files.values())}\tarea {done.mask.mean():.1%}")
