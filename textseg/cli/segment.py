"""`textseg segment`: masks of what queries name, in every form others want them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, OutputError
from ..file_names import image_stems, query_slugs
from ..formats import SUFFIXES, coco_data, write_json, write_result
from ..vocabulary import find_unknown_note
from .options_arguments import (
    Listed,
    add_beside_arguments,
    add_mask_options,
    add_model_arguments,
    add_refine_switch,
    add_report_arguments,
    comma_list,
    given_mask_options,
    load_given,
    refuse,
)
from .streams import standard_input

if TYPE_CHECKING:
    from ..masks import Segmentation
    from ..segmenter import Segmenter
    from .progress import Progress

DESCRIPTION = """\
Cut what queries name out of images.

For each image and query, files DIR/IMAGE.QUERY.FORMAT.png (or .json) are written over files of the
same name. Where two images share a name, the second becomes IMAGE-2. One line per result
goes to standard output: its files, the presence (0 to 1: is it there at all) and the share of the
image it covers. What cannot be done is said on standard error, one line each."""
EXAMPLES = """\
formats:
  mask     PNG, 0 and 255            rle      JSON, COCO run lengths
  score    PNG, 16 bits              polygon  JSON, regions with their holes
  overlay  PNG, the image tinted     coco     JSON, a COCO data set: one file per image
  cutout   PNG, transparent ground   npz      everything, to load in Python or to edit by

exit codes: 0 all done, 1 some images failed or the model knows no word of a query (its masks are
empty), 2 none done (usage or bad input), 130 interrupted

examples:
  textseg segment park.jpg -q "the dog" -o out
  textseg segment *.jpg -q "the dog" -q "the tree" --exclusive -o out --format mask,overlay
  cat park.jpg | textseg segment - -q "the dog" -o - --format cutout > dog.png
  textseg segment park.jpg -q "the dog" --reference "a photo of grass" --samples 20 --threshold otsu
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files; - is stdin")
    parser.add_argument("-q", "--query", action="append", required=True, metavar="TEXT",
                        dest="queries", help='what to find, as "the dog"; repeatable')  # fmt: skip
    parser.add_argument("-o", "--output", default=".", metavar="DIR",
                        help="folder for the results, made if need be (default: this one); "
                             "- writes one result to stdout")  # fmt: skip
    parser.add_argument("--format", type=comma_list(SUFFIXES), action=Listed,
                        default=["mask"], metavar="F[,F...]", dest="formats",
                        help=f"{', '.join(SUFFIXES)} (default: mask)")  # fmt: skip
    parser.add_argument("--exclusive", action="store_true",
                        help="queries compete: no pixel is in two masks")  # fmt: skip
    parser.add_argument("--caption", metavar="TEXT",
                        help="what the image shows, for --reference erase; written by "
                             "--caption-model where it is not given")  # fmt: skip
    parser.add_argument("--caption-model", metavar="NAME",
                        help="who captions: blip, or a model that names nouns "
                             "(default: --model)")  # fmt: skip
    parser.add_argument("--allow-url", action="store_true", help="fetch images given as http(s)")
    add_refine_switch(parser)
    add_report_arguments(parser)
    add_model_arguments(parser)
    add_beside_arguments(parser)
    add_mask_options(parser)


def run(args: argparse.Namespace) -> int:
    contrast, refine = given_mask_options(args)
    to_stdout = args.output == "-"
    refuse(args.images.count("-") <= 1, "IMAGE may be - once, got it twice")
    if to_stdout:
        one = len(args.images) == len(args.formats) == 1
        one = one and (len(args.queries) == 1 or args.formats == ["coco"])
        refuse(one, "-o - takes one image, one query and one format, got several")
        refuse(not args.json, "-o - cannot go with --json: both write to standard output")
        folder = None
    else:
        folder = _make_folder(args.output)

    from ..segmenter import Segmenter
    from .progress import Progress

    model = load_given(args)
    segmenter = Segmenter(model)
    job = _Job(segmenter, args, contrast | refine, query_slugs(args.queries), folder)
    stems = image_stems(args.images)
    failed, all_known = 0, True
    with Progress("step", quiet=args.quiet) as progress:
        for number, (source, stem) in enumerate(zip(args.images, stems, strict=True), 1):
            try:
                all_known &= job.do(source, stem, number, progress)
            except (ImageError, OutputError) as error:
                failed += 1
                job.report_failure(source, error, progress)
    return 2 if failed == len(stems) else 1 if failed or not all_known else 0


@dataclass(frozen=True)
class _Job:
    """What is the same for every image."""

    segmenter: Segmenter
    args: argparse.Namespace
    overrides: dict[str, Any]
    slugs: list[str]
    folder: Path | None

    def do(self, source: str, stem: str, number: int, progress: Progress) -> bool:
        """Segment one image, write its files and report them.

        Returns:
            whether the model knows a word of every query.
        """
        from ..captioning import erase_caption

        images = len(self.args.images)
        title = f"{number}/{images} {stem}" if images > 1 else stem

        def step(done: int, total: int, stage: str) -> None:
            share = 0.9 * done / total if stage == "contrast" else 0.9 + 0.1 * done / total
            progress.start(title, number - 1 + share, images)

        image = standard_input() if source == "-" else source
        self.segmenter.set_image(image, allow_url=self.args.allow_url)
        results = self.segmenter.query(
            self.args.queries,
            caption=erase_caption(
                self.segmenter,
                self.overrides.get("reference"),
                self.args.caption,
                captioner=self.args.caption_model,
            ),
            exclusive=self.args.exclusive,
            progress=step,
            **self.overrides,
        )
        unknown = [find_unknown_note(result.notes) for result in results]
        for result, note in zip(results, unknown, strict=True):
            if note:
                progress.line(f"textseg: error: {source}: {note}", error=True)
                continue
            # The first note names the pairing of prompts, which is no cause for concern.
            for note in result.notes[1:] if not self.args.quiet else ():
                progress.line(f"textseg: warning: {source}: {result.query!r}: {note}", error=True)
        if self.folder is None:
            self._to_stdout(results, source, number)
            return not any(unknown)
        coco = self.folder / f"{stem}.{SUFFIXES['coco']}"
        if "coco" in self.args.formats:
            write_json(coco, coco_data(results, source, number))
        for result, slug in zip(results, self.slugs, strict=True):
            files = {"coco": coco} if "coco" in self.args.formats else {}
            for kind in self.args.formats:
                if kind != "coco":
                    files[kind] = self.folder / f"{stem}.{slug}.{SUFFIXES[kind]}"
                    write_result(result, files[kind], kind)
            files = {kind: files[kind] for kind in self.args.formats}
            self._report(result, source, files, progress)
        return not any(unknown)

    def report_failure(self, source: str, error: Exception, progress: Progress) -> None:
        from . import one_line

        message = one_line(error)
        if source not in message and repr(source)[1:-1] not in message:
            message = f"{source}: {message}"
        progress.line(f"textseg: error: {message}", error=True)
        if self.args.json:
            progress.line(json.dumps({"image": source, "error": message}))

    def _to_stdout(self, results: list[Segmentation], source: str, number: int) -> None:
        kind = self.args.formats[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SUFFIXES[kind]
            if kind == "coco":
                write_json(path, coco_data(results, source, number))
            else:
                write_result(results[0], path, kind)
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()

    def _report(
        self, result: Segmentation, source: str, files: dict[str, Path], progress: Progress
    ) -> None:
        if self.args.json:
            names = {kind: str(path) for kind, path in files.items()}
            progress.line(json.dumps({"image": source, "files": names} | result.describe()))
        elif not self.args.quiet:
            names = " ".join(str(path) for path in files.values())
            share = float(result.mask.mean())
            progress.line(f"{names}\tpresence {result.presence:.2f}\tarea {share:.1%}")


def _make_folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"output folder cannot be made: {error.strerror}: {name!r}") from error
    return folder
