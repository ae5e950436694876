"""`textseg inspect`: what a file says about how it was made."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import InputError

DESCRIPTION = """\
Show what an image file, or a result of textseg, says about how it was made: its IPTC Digital Source
Type, and textseg's own record."""
EXAMPLES = """\
exit codes: 0 every file says something, 1 some do not, 2 none could be read

examples:
  textseg inspect out.png
  textseg inspect *.jpg --json
"""

_MEANINGS = {
    "trainedAlgorithmicMedia": "made by a trained model",
    "compositeWithTrainedAlgorithmicMedia": "edited with a trained model",
    "compositeSynthetic": "partly synthetic",
    "algorithmicallyEnhanced": "altered by an algorithm",
    "digitalCapture": "taken by a camera",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="images, or results of textseg")
    parser.add_argument("--json", action="store_true", help="one JSON object per file on stdout")
    parser.add_argument("--xmp", action="store_true", help="also show the whole XMP packet")


def run(args: argparse.Namespace) -> int:
    import sys

    from .progress import one_line

    silent = failed = 0
    for path in args.files:
        try:
            record = _inspect(path)
        except InputError as error:
            failed += 1
            print(f"textseg: error: {one_line(error)}", file=sys.stderr)
            continue
        packet = record.pop("xmp")
        silent += not (record["digital_source_type"] or record["textseg"])
        if args.json:
            print(json.dumps(record | ({"xmp": packet} if args.xmp else {}), ensure_ascii=False))
            continue
        source_type = record["digital_source_type"]
        meaning = _MEANINGS.get(source_type.rpartition("/")[2], "")
        print(f"{path}")
        print(f"  digital source type: {source_type or 'none'}" + (f" ({meaning})" * bool(meaning)))
        print("  textseg: " + _indented(record["textseg"]))
        if args.xmp:
            print(packet or "  no XMP packet")
    if failed:
        return 2 if failed == len(args.files) else 1
    return 1 if silent else 0


def _inspect(path: str) -> dict[str, Any]:
    """What one file says; of results that are no pictures, only textseg's own record."""
    from ..edits import Edit
    from ..masks import Segmentation
    from ..provenance import read_label
    from ..saving import read_provenance

    record: dict[str, Any] = {"file": path, "digital_source_type": "", "xmp": ""}
    if path.endswith((".npz", ".json")):
        try:
            return record | {"textseg": Segmentation.load(path).describe()}
        except InputError:
            if path.endswith(".json"):
                raise
            return record | {"textseg": Edit.load(path).describe()}
    label = read_label(path)
    return record | {
        "digital_source_type": label.source_type,
        "xmp": label.packet,
        "textseg": read_provenance(path),
    }


def _indented(record: dict[str, Any] | None) -> str:
    if record is None:
        return "no record"
    return json.dumps(record, indent=2, ensure_ascii=False).replace("\n", "\n  ")
