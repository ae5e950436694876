"""What a finished run leaves: the names of its files, and its results read back."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from textseg import __version__
from textseg.errors import InputError

from .datasets import read_json

FORMAT = 1
RECORDS, RESULTS, COCO_RESULTS, IDENTITY = (
    "per_image.jsonl", "results.json", "coco_results.json", "run.json",
)  # fmt: skip
_KINDS = {"masks": "masks (eval coco, refer, folder or sweep)", "edit": "edits (eval edit)"}
_KEYS = {"masks": {"data", "protocol", "method", "headline", "figures", "counts", "time"},
         "edit": {"run", "rows"}}  # fmt: skip
MOST_FAILURES = 100
"""Images that failed listed in the results; the records have all."""


def load_results(run: Path, kind: str = "masks") -> dict[str, Any]:
    """The results of a finished run of a kind, "masks" or "edit".

    Raises:
        InputError: no finished run lies there, or one of another kind or format.
    """
    path = run / RESULTS
    if not path.is_file():
        raise InputError(f"run must be a folder with {RESULTS}, got {run}")
    value, _ = read_json(path, "run")
    found = value if isinstance(value, dict) else {}
    if found.get("format") != FORMAT:
        raise InputError(f"run must have format {FORMAT}, got {found.get('format')!r} in {run}")
    if found.get("kind", "masks") != kind or not found.keys() >= _KEYS[kind]:
        raise InputError(f"run must be of {_KINDS[kind]}, got another in {run}")
    return found


def failed_in(results: Mapping[str, Any]) -> int:
    """How many images of a run failed."""
    return results["counts"]["failed"] + results["counts"]["failed_in_calibration"]


def image_iou(record: Mapping[str, Any], rule: str) -> float | None:
    """Mean IoU over the objects of one image by a rule; None without objects."""
    values = []
    for row in record["rows"]:
        if row.get("truth") and not row.get("below") and row[rule] is not None:
            inside, predicted = row[rule][:2]
            values.append(inside / (predicted + row["truth"] - inside))
    return sum(values) / len(values) if values else None


def versions() -> dict[str, str]:
    """What the figures were made with."""
    found = {"textseg": __version__, "python": platform.python_version()}
    for package in ("torch", "diffusers", "transformers", "numpy", "pycocotools",
                    "opencv-python-headless", "scikit-image", "pillow"):  # fmt: skip
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
