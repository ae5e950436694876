"""The forms a result is written in, and the files they become."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .masks import Segmentation

SUFFIXES: dict[str, str] = {
    "mask": "mask.png",
    "score": "score.png",
    "overlay": "overlay.png",
    "cutout": "cutout.png",
    "rle": "rle.json",
    "polygon": "polygon.json",
    "coco": "coco.json",
    "npz": "npz",
}
"""Format -> the ending of its file, after the image's name and the query's."""


def write_result(result: Segmentation, path: Path, kind: str) -> None:
    """Write one result in one format, any of `SUFFIXES` but "coco".

    Raises:
        OutputError: the file cannot be written.
    """
    if kind == "polygon":
        write_json(path, result.describe() | {"polygons": result.to_polygons()})
    elif kind in ("rle", "npz"):
        result.save(path)
    else:
        result.save(path, kind)  # pyright: ignore[reportArgumentType]


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:
    """Write a value as an indented JSON file, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    from .saving import utf8, write_atomic

    write_atomic(path, utf8(json.dumps(content, indent=indent, ensure_ascii=False) + "\n"))


@contextlib.contextmanager
def json_array(
    path: Path, opening: str = "[", closing: str = "]\n"
) -> Iterator[Callable[[Any], None]]:
    """Write a JSON file of one long array, an element a line, as they come.

    Args:
        opening, closing: what stands before and behind the elements, brackets included.

    Yields:
        what adds an element.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="ascii") as file:
        separator = opening + "\n"

        def add(element: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(element, separators=(",", ":")))
            separator = ",\n"

        yield add
        file.write(opening + closing if separator != ",\n" else "\n" + closing)


def coco_data(results: Sequence[Segmentation], source: str, number: int) -> dict[str, Any]:
    """A COCO data set of one image; ids stay different when those of a run are put together."""
    height, width = results[0].mask.shape
    image = {"id": number, "file_name": PurePath(source).name, "height": height, "width": width}
    first = (number - 1) * len(results) + 1
    return {
        "info": {"description": "textseg", "results": [result.describe() for result in results]},
        "images": [image],
        "annotations": [
            result.to_coco(number, category, annotation_id=first + category - 1)
            for category, result in enumerate(results, 1)
            if result.mask.any()
        ],
        "categories": [
            {"id": category, "name": result.query} for category, result in enumerate(results, 1)
        ],
    }
