"""What all images became, in the plan's order: an index, and COCO files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from ..formats import json_array
from ..saving import utf8
from .journal import Journal
from .sources import Item, Plan
from .stages import Job, Record
from .storage import Folder

INDEX, PARQUET, COCO_RESULTS, COCO_IMAGES = (
    "index.jsonl", "index.parquet", "coco_results.json", "coco_images.json",
)  # fmt: skip
_ROWS = 4096
"""Rows of a Parquet row group."""


def write_index(job: Job, plan: Plan, journal: Journal, folder: Folder) -> list[str]:
    """Write the files that cover the whole run.

    - index.jsonl and, where pyarrow is installed, index.parquet: a row for each image and query, or
      one with "error" for an image that failed.
    - coco_results.json: COCO's results format, a record for each mask that is not empty; the score
      is the presence.
    - coco_images.json: the images and categories that those ids stand for.

    Returns:
        the names of the files.
    """
    with contextlib.ExitStack() as stack:
        jsonl = stack.enter_context(_lines(folder, INDEX))
        results = stack.enter_context(_array(folder, COCO_RESULTS, "[", "]\n"))
        images = stack.enter_context(
            _array(folder, COCO_IMAGES, '{"info":{"description":"textseg"},"images":[',
                   '],"annotations":[],"categories":' + _categories(plan) + "}\n")
        )  # fmt: skip
        table = stack.enter_context(_parquet(folder, job))
        for item in plan.items:
            record = journal.get(job.key(item))
            if record is None:
                continue
            for row in rows(job, item, record):
                jsonl(row)
                if table is not None:
                    table(row)
            if "error" in record:
                continue
            height, width = record["size"]
            images({"id": item.image_id, "file_name": item.name, "height": height, "width": width})
            for category, result in zip(item.categories, record["results"], strict=True):
                if result["area"]:
                    results({
                        "image_id": item.image_id,
                        "category_id": category,
                        "bbox": result["bbox"],
                        "segmentation": {"size": record["size"], "counts": result["rle"]},
                        "score": result["presence"],
                    })  # fmt: skip
    return [INDEX, *([PARQUET] if table is not None else []), COCO_RESULTS, COCO_IMAGES]


def rows(job: Job, item: Item, record: Record) -> Iterator[dict[str, Any]]:
    """The index rows of one image; see docs/batch.md for the columns."""
    head = {"image": item.source, "name": item.name, "image_id": item.image_id}
    if "error" in record:
        yield head | _NOTHING | {f"{kind}_file": None for kind in job.formats} | {
            "error": record["error"]}  # fmt: skip
        return
    height, width = record["size"]
    for query, category, result in zip(
        item.queries, item.categories, record["results"], strict=True
    ):
        yield head | {
            "height": height,
            "width": width,
            "query": query,
            "category_id": category,
            "presence": result["presence"],
            "area": result["area"],
            "bbox": result["bbox"],
            "rle": result["rle"],
            "notes": result["notes"],
            **{f"{kind}_file": result["files"][kind] for kind in job.formats},
            "error": None,
        }


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("height", "width", "query", "category_id", "presence", "area", "bbox", "rle", "notes")
)


def _categories(plan: Plan) -> str:
    return json.dumps([{"id": i, "name": name} for i, name in plan.categories.items()])


@contextlib.contextmanager
def _lines(folder: Folder, name: str) -> Iterator[Callable[[Any], object]]:
    with folder.file(name) as path, path.open("w", encoding="ascii") as file:
        yield lambda row: file.write(json.dumps(row) + "\n")


@contextlib.contextmanager
def _array(
    folder: Folder, name: str, opening: str, closing: str
) -> Iterator[Callable[[Any], object]]:
    with folder.file(name) as path, json_array(path, opening, closing) as add:
        yield add


@contextlib.contextmanager
def _parquet(folder: Folder, job: Job) -> Iterator[Callable[[Any], object] | None]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        yield None
        return
    text, whole = pyarrow.string(), pyarrow.int64()
    schema = pyarrow.schema(
        [("image", text), ("name", text), ("image_id", whole), ("height", pyarrow.int32()),
         ("width", pyarrow.int32()), ("query", text), ("category_id", whole),
         ("presence", pyarrow.float64()), ("area", whole), ("bbox", pyarrow.list_(whole)),
         ("rle", text), ("notes", pyarrow.list_(text)),
         *((f"{kind}_file", text) for kind in job.formats), ("error", text)]
    )  # fmt: skip
    waiting: list[dict[str, Any]] = []
    with folder.file(PARQUET) as path, ParquetWriter(path, schema, compression="zstd") as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def add(row: dict[str, Any]) -> None:
            waiting.append({name: _valid(value) for name, value in row.items()})
            if len(waiting) >= _ROWS:
                flush()

        yield add
        if waiting:
            flush()


def _valid(value: Any) -> Any:
    """Texts that are valid in UTF-8: file names and queries need not be."""
    if isinstance(value, list):
        return [_valid(one) for one in value]
    return utf8(value).decode() if isinstance(value, str) else value
