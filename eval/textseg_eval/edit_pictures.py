"""Rows of pictures of edits: before, mask and after, of one run or of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textseg.errors import ImageError, InputError

from . import page
from .edit_plan import RECONSTRUCT, SHIPPED
from .edit_worker import ANNOTATED, BEFORE, FOUND, MASK, SIDE, picture_path
from .tables import Figure

LEGEND = ((FOUND, "region that is edited"), (ANNOTATED, "outline of the annotated region"))
EXAMPLES = 2
"""Images shown as best, as median and as worst."""


def lead(shown: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The shown setting images are ranked by: that of the shipped method, else of the last."""
    named = {setting["method"]: setting for setting in shown}
    return (
        named.get(SHIPPED) or [named[m] for m in named if m != RECONSTRUCT or len(named) == 1][-1]
    )


def margins(records: Iterable[Mapping[str, Any]], setting: Mapping[str, Any]) -> dict[Any, float]:
    """The evidence margin of each image that was edited, in one setting."""
    found = {}
    for record in records:
        row = row_of(record, setting)
        if row is not None:
            found[record["image_id"]] = row["margin"]
    return found


def row_of(record: Mapping[str, Any], setting: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The figures of an image in a setting; None where it failed or has none."""
    rows = record.get("rows", ())
    return next((row for row in rows if setting.items() <= row.items()), None)


def spread_of(ranked: Sequence[Any]) -> dict[str, list[Any]]:
    """Best, median and worst of what is ranked from the worst up, none twice.

    >>> spread_of([1, 2, 3, 4, 5])
    {'best': [5, 4], 'median': [3], 'worst': [1, 2]}
    >>> spread_of([1])
    {'best': [1], 'median': [], 'worst': []}
    """
    best = list(reversed(ranked[-EXAMPLES:]))
    worst = [each for each in ranked[:EXAMPLES] if each not in best]
    middle = max(0, (len(ranked) - EXAMPLES) // 2)
    median = [e for e in ranked[middle : middle + EXAMPLES] if e not in best and e not in worst]
    return {"best": best, "median": median, "worst": worst}


def pictured(
    folder: Path, record: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]
) -> str | None:
    """Before, mask and after by every method; None where the pictures are gone."""
    shots = [shot(folder, BEFORE, record, "before"), shot(folder, MASK, record, "mask")]
    for setting in shown:
        row = row_of(record, setting)
        if row is not None:
            shots.append(shot(folder, setting["method"], record, told(setting["method"], row)))
    there = [each for each in shots if each]
    return page.row(there, caption(record), LEGEND) if len(there) > 2 else None


def caption(record: Mapping[str, Any]) -> str:
    """What an image shows and what it was to become."""
    return f"{record['file_name']}: {record['category']} to {record['prompt'] or 'nothing'}"


def told(name: str, row: Mapping[str, Any]) -> str:
    """A line about one edit."""
    took = "took" if row["took"] else "did not take"
    psnr = "" if row.get("psnr") is None else f", background {row['psnr']:.1f} dB"
    return f"{name}: {took}, margin {Figure(row['margin']).middle()}{psnr}"


def shot(folder: Path, what: str, record: Mapping[str, Any], words: str) -> str | None:
    """A picture of the report with words below; None where it is gone."""
    from textseg.image import load_image

    try:
        pixels: np.ndarray = load_image(picture_path(folder, what, record["image_id"]))
    except (ImageError, InputError, OSError):
        return None
    return page.shot(pixels, what, words, side=SIDE)
