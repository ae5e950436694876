"""What is kept of a run: the file of per-image records, results as JSON and in COCO's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textseg import formats
from textseg.errors import OutputError
from textseg.faults import LOG, append_entry, log_entry
from textseg.records import Record, RecordFile
from textseg.saving import replacing

__all__ = ["Record", "RecordFile", "coco_results", "keep", "write_coco_results", "write_json"]


def keep(records: RecordFile, record: Record) -> None:
    """Add a record; the traceback of one that failed goes to errors.log beside the file."""
    if entry := log_entry(record["file_name"], record):
        append_entry(records.path.with_name(LOG), entry)
    records.append(record)


def write_json(path: Path, value: Any) -> None:
    """A value as an indented JSON file, whole or not at all."""
    formats.write_json(path, value, indent=1)


def write_coco_results(records: RecordFile, path: Path) -> None:
    """The masks of the headline rule as a COCO results file, a line per mask; whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with replacing(path) as temporary, formats.json_array(temporary) as add:
            for record in records.records("test"):
                for result in coco_results(record):
                    add(result)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def coco_results(record: Mapping[str, Any]) -> Iterator[Record]:
    """The masks of one image in COCO's results format; the score is the presence."""
    for row in record.get("rows", ()):
        if row.get("rle"):
            yield {
                "image_id": record["image_id"],
                "category_id": row["category_id"],
                "segmentation": row["rle"],
                "score": row["presence"],
            }
