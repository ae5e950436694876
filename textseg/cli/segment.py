"""`textseg segment`: masks of what queries name, in every form others want them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..errors import OutputError
from ..faults import Guard
from ..file_names import image_stems, query_slugs
from ..formats import SUFFIXES, coco_data, write_json, write_result
from ..picture_files import picture_suffixes
from ..vocabulary import find_unknown_note
from .options_arguments import (
    Listed,
    add_beside_arguments,
    add_mask_options,
    add_model_arguments,
    add_picture_arguments,
    add_report_arguments,
    comma_list,
    given_mask_options,
    load_given,
    refuse,
)
from .progress import Progress, report_failure
from .streams import standard_input

if TYPE_CHECKING:
    from ..masks import Segmentation
    from ..segmenter import Segmenter

DESCRIPTION = """\
Cut what queries name out of images.

With a folder as -o, each image and query become DIR/IMAGE.QUERY.FORMAT.png (or .json, .npz),
written over files of the same name; where two images share a name, the second is IMAGE-2. With a
file as -o, one result becomes that file. One line per result goes to standard output: its files,
the presence (0 to 1: is it there at all) and the share of the image it covers. What cannot be done
is said on standard error, one line each."""
EXAMPLES = """\
formats:
  mask     PNG, 0 and 255            rle      JSON, COCO run lengths
  score    PNG, 16 bits              polygon  JSON, regions with their holes
  overlay  PNG, the image tinted     coco     JSON, a COCO data set: one file per image
  cutout   PNG, transparent ground   npz      everything, to load in Python or to edit by

exit codes: 0 all done, 1 some images failed or the model knows no word of a query (its masks are
empty), 2 none done (usage or bad input), 130 interrupted

examples:
  textseg segment park.jpg -q "the dog" -o dog.png
  textseg segment park.jpg -q "the dog" -o look.jpg --format overlay
  textseg segment *.jpg -q "the dog" -q "the tree" --exclusive -o out --format mask,overlay
  textseg segment park.jpg -q "the dog" -o dog.png --point 240,250 --point 40,40,-
  cat park.jpg | textseg segment - -q "the dog" -o - --format cutout > dog.png
  textseg segment park.jpg -q "the dog" --reference "a photo of grass" --samples 20 --threshold otsu
"""
_OF_SUFFIX = {".png": "mask", ".json": "rle", ".npz": "npz", ".jpg": "mask", ".jpeg": "mask",
              ".webp": "mask"}  # fmt: skip
"""Suffix of a single output file -> the format it is in unless told otherwise."""
_ALSO = {"overlay": (".jpg", ".jpeg", ".webp"), "cutout": (".webp",)}
"""Format -> what its file may end in, beside the ending of `SUFFIXES`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files; - is stdin")
    parser.add_argument("-q", "--query", action="append", required=True, metavar="TEXT",
                        dest="queries", help='what to find, as "the dog"; repeatable')  # fmt: skip
    parser.add_argument("-o", "--output", default=".", metavar="OUT",
                        help="folder for the results, made if need be (default: this one); a file "
                             "(.png, .json, .npz; overlays also .jpg) takes one result; - writes "
                             "one to stdout")  # fmt: skip
    parser.add_argument("--format", type=comma_list(SUFFIXES), action=Listed,
                        metavar="F[,F...]", dest="formats",
                        help=f"{', '.join(SUFFIXES)} (default: mask)")  # fmt: skip
    parser.add_argument("--point", type=_point, action="append", default=[], metavar="X,Y[,-]",
                        dest="points", help="a pixel of the object, or with ,- of what is none of "
                        "it, to correct the mask; repeatable")  # fmt: skip
    parser.add_argument("--box", type=_box, action="append", default=[], metavar="X,Y,X,Y",
                        dest="boxes", help="left, top, right and bottom of a box that the object "
                        "lies in; repeatable")  # fmt: skip
    add_mask_options(parser)
    group = parser.add_argument_group("several queries")
    group.add_argument("--exclusive", action="store_true",
                       help="queries compete: no pixel is in two masks")  # fmt: skip
    add_picture_arguments(parser)
    add_report_arguments(parser)
    add_model_arguments(parser)
    add_beside_arguments(parser)


def _point(text: str) -> tuple[float, float, int]:
    place, _, sign = text.rpartition(",")
    if sign not in ("+", "-"):
        place, sign = text, "+"
    x, y = _finite(place, 2, "X,Y, or X,Y,-")
    return x, y, int(sign == "+")


def _box(text: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = _finite(text, 4, "X,Y,X,Y")
    return left, top, right, bottom


def _finite(text: str, count: int, rule: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"must be {rule} in pixels, got {text!r}")
    return numbers


def run(args: argparse.Namespace) -> int:
    contrast, refine = given_mask_options(args)
    refuse(args.images.count("-") <= 1, "IMAGE may be - once, got it twice")
    out = _Output.of(args)
    if args.points or args.boxes:
        one = len(args.images) == len(args.queries) == 1 and not args.exclusive
        refuse(one, "--point and --box take one image and one query, without --exclusive")

    from ..segmenter import Segmenter

    segmenter = Segmenter(load_given(args))
    job = _Job(segmenter, args, contrast | refine, query_slugs(args.queries), out)
    failed, all_known, images = 0, True, len(args.images)
    with Progress("step", quiet=args.quiet) as progress:
        for i, (source, stem) in enumerate(zip(args.images, image_stems(args.images), strict=True)):
            title = f"{i + 1}/{images} {stem}" if images > 1 else stem

            def step(done: int, total: int, stage: str, i: int = i, title: str = title) -> None:
                share = 0.9 * done / total if stage == "contrast" else 0.9 + 0.1 * done / total
                progress.start(title, i + share, images)

            done = None
            with Guard(source) as guard:
                done = job.do(source, stem, i + 1, step, guard)
            if done is None:
                failed += 1
                report_failure(progress, source, guard.fault, json=args.json)
                continue
            all_known &= done.known
            for line in done.complaints:
                progress.line(line, error=True)
            for line in done.lines:
                progress.line(line)
            sys.stdout.buffer.write(done.data)
            sys.stdout.buffer.flush()
    return 2 if failed == images else 1 if failed or not all_known else 0


@dataclass(frozen=True)
class _Output:
    """Where results go: into a folder, or one of them into a file or, without either, to stdout."""

    formats: Sequence[str]
    folder: Path | None = None
    file: Path | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> _Output:
        """What -o and --format ask for; a folder is made."""
        path, given = Path(args.output), args.formats
        suffix = path.suffix.lower()
        refuse(
            suffix in _OF_SUFFIX or suffix not in picture_suffixes() or path.is_dir(),
            f"output must be a folder or end in {', '.join(_OF_SUFFIX)}, got {args.output!r}",
        )
        is_file = args.output != "-" and suffix in _OF_SUFFIX and not path.is_dir()
        if args.output != "-" and not is_file:
            return cls(given or ["mask"], folder=_make_folder(args.output))
        formats = given or [_OF_SUFFIX[suffix] if is_file else "mask"]
        one = len(args.images) == len(formats) == 1
        one = one and (len(args.queries) == 1 or formats == ["coco"])
        refuse(one, f"-o {args.output} takes one image, one query and one format, got several")
        if not is_file:
            refuse(not args.json, "-o - cannot go with --json: both write to standard output")
            return cls(formats)
        (kind,) = formats
        right = (PurePath(f".{SUFFIXES[kind]}").suffix or f".{kind}", *_ALSO.get(kind, ()))
        got = f"got {args.output!r}"
        refuse(suffix in right, f"output must end in {', '.join(right)} for {kind}, {got}")
        refuse(path.parent.is_dir(), f"output must lie in a folder that is there, {got}")
        image = Path(args.images[0])
        same = path.exists() and image.exists() and path.samefile(image)
        refuse(not same, f"output must not be the image itself, {got}")
        return cls(formats, file=path)

    def path(self, stem: str, slug: str, kind: str) -> Path:
        """The file of a format; "coco" has one an image."""
        if self.folder is None:
            assert self.file is not None
            return self.file
        return self.folder / ".".join([stem, *([slug] * (kind != "coco")), SUFFIXES[kind]])


@dataclass(frozen=True)
class _Job:
    """What is the same for every image."""

    segmenter: Segmenter
    args: argparse.Namespace
    overrides: dict[str, Any]
    slugs: list[str]
    out: _Output

    def do(
        self, source: str, stem: str, number: int, step: Callable[..., None], guard: Guard
    ) -> _Done:
        """Segment one image and write its files."""
        from ..captioning import erase_caption

        args, segmenter = self.args, self.segmenter
        guard.at("decode")
        image = standard_input() if source == "-" else source
        segmenter.set_image(image, allow_url=args.allow_url)
        guard.at("predict")
        caption = erase_caption(
            segmenter, self.overrides.get("reference"), args.caption, captioner=args.caption_model
        )
        asked = self.overrides | {"caption": caption, "progress": step}
        if args.points or args.boxes:
            asked |= {"points": args.points, "boxes": args.boxes}
            results = [segmenter.query(args.queries[0], **asked)]
        else:
            results = segmenter.query(args.queries, exclusive=args.exclusive, **asked)
        guard.at("save")
        done = _Done()
        for result in results:
            if note := find_unknown_note(result.notes):
                done.known = False
                done.complaints.append(f"textseg: error: {source}: {note}")
            elif not args.quiet:
                # The first note names the pairing of prompts, which is no cause for concern.
                done.complaints += [
                    f"textseg: warning: {source}: {result.query!r}: {note}"
                    for note in result.notes[1:]
                ]
        if self.out.folder is None and self.out.file is None:
            (kind,) = self.out.formats
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / SUFFIXES[kind]
                _write(results, path, kind, source, number)
                done.data = path.read_bytes()
            return done
        for i, (result, slug) in enumerate(zip(results, self.slugs, strict=True)):
            files = {kind: self.out.path(stem, slug, kind) for kind in self.out.formats}
            for kind, path in files.items():
                if kind != "coco":
                    _write([result], path, kind, source, number)
                elif i == 0:
                    _write(results, path, kind, source, number)
            done.lines += self._report(result, source, files)
        return done

    def _report(self, result: Segmentation, source: str, files: dict[str, Path]) -> list[str]:
        names = {kind: str(path) for kind, path in files.items()}
        if self.args.json:
            return [json.dumps({"image": source, "files": names} | result.describe())]
        share = float(result.mask.mean())
        line = f"{' '.join(names.values())}\tpresence {result.presence:.2f}\tarea {share:.1%}"
        return [] if self.args.quiet else [line]


@dataclass
class _Done:
    """What is to be said of an image.

    Attributes:
        known: whether the model knows a word of every query.
        complaints: lines for standard error.
        lines, data: for standard output.
    """

    known: bool = True
    complaints: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    data: bytes = b""


def _write(
    results: Sequence[Segmentation], path: Path, kind: str, source: str, number: int
) -> None:
    """A result, or for "coco" all of an image, as a file."""
    if kind == "coco":
        write_json(path, coco_data(results, source, number))
    else:
        write_result(results[0], path, kind)


def _make_folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output folder cannot be made: {error.strerror}: {name!r}") from error
    return folder
