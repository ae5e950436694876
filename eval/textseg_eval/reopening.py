"""The data set a finished run was made on, found again from its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from textseg.errors import InputError

from .datasets import Dataset, load_coco
from .expressions import load_refer
from .mask_folder import load_folder


def reopened(data: Mapping[str, Any], image_ids: Iterable[int | str]) -> Dataset | None:
    """The images of a run with their truth; None where they lie there no more, or others do.

    Args:
        data: the "data" of a results.json; its paths are as the run was given them.
        image_ids: all images of the run.
    """
    place = {key: Path(data[key]) for key in ("pictures", "annotations", "masks", "maps", "refs",
                                              "queries", "labels") if data.get(key)}  # fmt: skip
    try:
        if "masks" in place:
            dataset = load_folder(
                place["pictures"], place["masks"], query=data.get("query"),
                queries=place.get("queries"), labels=place.get("labels"),
                ignore=data.get("ignore", 255),
            )  # fmt: skip
        elif "split" in data:
            dataset = load_refer(place["pictures"], place["annotations"], refs=place.get("refs"),
                                 split=data["split"])  # fmt: skip
        else:
            dataset = load_coco(place["pictures"], place["annotations"], maps=place.get("maps"))
    except (InputError, OSError, KeyError):
        return None
    for each in (dataset, dataset.keeping(image_ids)):
        if each.fingerprint == data["fingerprint"]:
            return each
    return None
