"""`textseg eval coco`: masks against COCO annotations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textseg.errors import InputError

from .shared import (
    add_absent_argument,
    add_method_arguments,
    add_run_arguments,
    beside,
    exit_code_of,
    measure,
    say,
)

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..protocols import Protocol
    from ..taggers import TaggerSpec

DESCRIPTION = """\
Measure masks against COCO annotations: instance, stuff or panoptic files.

Writes results.json, per_image.jsonl, coco_results.json (masks as RLE) and report.html. A run that
was stopped goes on where it was when the same command is given again."""
EXAMPLES = """\
protocols (docs/evaluation.md states each in full):
  present    the image's own classes, each a yes or no query; binary IoU, no background
  object     all classes and a background by threshold; mIoU over classes and background
  predicted  as object, over the classes a tagger names

exit codes: 0 all done, 1 some images failed, 2 all did, usage or bad input, 130 interrupted

examples:
  textseg eval coco --images val2017 --annotations instances_val2017.json -o runs/mini
  textseg eval coco --images val2017 --annotations instances_val2017.json --protocol object \\
      --method textseg --method cross-attention --method centre-box -o runs/object
  textseg eval coco --images val2017 --annotations instances_val2017.json --results results.json \\
      -o runs/others
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from textseg.cli.options_arguments import add_alias

    add_data_arguments(parser)
    parser.add_argument("--protocol", choices=("present", "object", "predicted"),
                        default="present", help="default: present")  # fmt: skip
    parser.add_argument("--tagger", metavar="T",
                        help="what names the classes under predicted: FILE.json (names by image), "
                             "presence[:LEAST] (textseg's own), caption[:MODEL] (BLIP), "
                             "clip:FOLDER[:LEAST]")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="FILE",
                        help="score the masks of a COCO results file; no model runs")  # fmt: skip
    add_alias(parser, "--masks", "--results")
    add_run_arguments(parser)
    add_method_arguments(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Images, annotations and absent queries."""
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="pictures")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE",
                        help="COCO instances, stuff or panoptic JSON")  # fmt: skip
    parser.add_argument("--maps", type=Path, metavar="DIR",
                        help="label pictures: a panoptic file's PNGs, or COCO-Stuff pixel maps "
                             "that replace the polygons under object and predicted")  # fmt: skip
    add_absent_argument(parser, "absent classes asked an image (default: 2)")


def run(args: argparse.Namespace) -> int:
    from ..datasets import load_coco, with_given_masks
    from ..methods import MethodSpec
    from .shared import method_specs, textseg_options

    dataset = load_coco(args.images, args.annotations, maps=args.maps)
    dataset = dataset.limited(args.limit, args.split_seed)
    if args.results is not None:
        if args.methods or textseg_options(args):
            raise InputError("results must come without methods and their options, got both")
        dataset = with_given_masks(dataset, args.results)
        specs = {"masks": MethodSpec("masks", options={"file": digest(args.results)})}
    else:
        specs = method_specs(args, labels=args.protocol != "present")
    done: dict[str, Any] = {}
    for name, spec in specs.items():
        asked, protocol, tagger = protocol_of(args, dataset, name)
        folder = args.output / name if len(specs) > 1 else args.output
        results = measure(args, asked, protocol, spec, folder, tagger)
        say(args, results, folder)
        done[name] = results
    beside(args, dataset, done)
    return exit_code_of(done.values())


def protocol_of(
    args: argparse.Namespace, dataset: Dataset, method: str
) -> tuple[Dataset, Protocol, TaggerSpec | None]:
    """The protocol asked for, the data set with what its tagger said, and the tagger."""
    from ..datasets import with_tags
    from ..protocols import LabelMap, Present, Vocabulary
    from ..taggers import TaggerSpec
    from .shared import texts_of

    texts = texts_of(args, dataset, method)
    if args.absent < 0:
        raise InputError(f"absent-queries must be at least 0, got {args.absent}")
    if args.protocol == "present":
        return dataset, Present(texts, args.absent, args.split_seed), None
    if args.protocol == "object":
        return dataset, LabelMap(texts), None
    if not args.tagger:
        raise InputError("tagger must be given under predicted, got none")
    kind, _, rest = args.tagger.partition(":")
    if kind == "presence":
        least = number("tagger presence", rest, 0.5)
        return dataset, LabelMap(texts, "predicted", "presence", least), None
    if kind in ("caption", "clip"):
        model, _, least = rest.rpartition(":") if kind == "clip" and ":" in rest else (rest, "", "")
        names = Vocabulary(("{}",), _synonyms(args))
        words = {key: names.texts(name) for key, name in dataset.categories.items()}
        tagger = TaggerSpec(kind, model or None, words, number("tagger clip", least, 0.05),
                            args.device)  # fmt: skip
        return dataset, LabelMap(texts, "predicted", args.tagger), tagger
    path = Path(args.tagger)
    tagged = LabelMap(texts, "predicted", digest(path))
    return with_tags(dataset, path), tagged, None


def _synonyms(args: argparse.Namespace) -> Any:
    from ..datasets import read_json

    return read_json(args.synonyms, "synonyms")[0] if args.synonyms else None


def number(name: str, text: str, default: float) -> float:
    """A number in [0, 1] written behind a colon."""
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{name} must end in a number from 0 to 1, got {text!r}")
    return value


def digest(path: Path) -> str:
    """sha256 of a file, so that a run is not taken up with another one of the same name."""
    import hashlib

    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} must be a readable file: {error.strerror}") from error
