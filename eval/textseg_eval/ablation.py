"""The table of what each choice is worth, from one pass over the images."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textseg.errors import InputError

from . import tables
from .methods import MethodSpec
from .methods.noise_contrast import CONTRAST_FIELDS, REFINE_FIELDS
from .results import failed_in
from .run import Variant
from .tables import Figure, Table

COLUMNS = {
    "own": "mIoU, own rule",
    "fixed": "mIoU, fixed threshold",
    "oracle": "oracle",
    "own_image_iou": "IoU per image",
    "own_boundary_f": "boundary F",
    "empty_when_absent": "empty when absent",
    "presence_ap": "presence AP",
}
"""Figures of a sweep's table."""

REFINEMENTS: dict[str, dict[str, Any]] = {
    "off": {"crf": False, "guided": 0.0, "opening": 0.0, "closing": 0.0, "min_area": 0.0,
            "max_hole": 0.0},
    "morphology": {"crf": False, "guided": 0.0, "opening": 0.005, "closing": 0.005,
                   "min_area": 0.001, "max_hole": 0.001},
    "guided": {"crf": False, "guided": 0.02, "opening": 0.0, "closing": 0.0, "min_area": 0.001,
               "max_hole": 0.001},
    "crf": {"crf": True, "guided": 0.0, "opening": 0.0, "closing": 0.0, "min_area": 0.001,
            "max_hole": 0.001},
}  # fmt: skip
"""Named settings of `refine`, an axis of its own."""

DEFAULT_AXES: dict[str, tuple[Any, ...]] = {
    "reference": ("null", "absent", "swap"),
    "measure": ("contrast", "evidence"),
    "strength": ((0.3,), (0.5,), (0.7,), (0.3, 0.5, 0.7)),
    "samples": (1, 2, 4, 10),
    "threshold": ("paper", "otsu", "quantile", "calibrated"),
    "refine": ("off", "morphology", "guided", "crf"),
}
"""What is varied when nothing is said."""


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        name: of its folder, made of what differs from the base.
        changes: value by axis, as differs from the base.
        options: the options of the method.
    """

    name: str
    changes: Mapping[str, Any]
    options: Mapping[str, Any]


def parse_axis(text: str) -> tuple[str, tuple[Any, ...]]:
    """An axis from the command line: "samples=1,4,10"; levels of one setting are joined by "+".

    >>> parse_axis("strength=0.5,0.3+0.7")
    ('strength', ((0.5,), (0.3, 0.7)))
    """
    name, separator, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not separator or not values.strip():
        raise InputError(f"vary must be like samples=1,4,10, got {text!r}")
    if name not in (*CONTRAST_FIELDS, *REFINE_FIELDS, "refine", "exclusive", "weigh"):
        raise InputError(f"vary must name an option, refine, exclusive or weigh, got {name!r}")
    parsed = tuple(_value(name, part.strip()) for part in values.split(","))
    if name == "refine":
        unknown = [part for part in parsed if part not in REFINEMENTS]
        if unknown:
            raise InputError(f"refine must be one of {', '.join(REFINEMENTS)}, got {unknown[0]!r}")
    return name, parsed


def _value(name: str, text: str) -> Any:
    if name == "strength":
        try:
            return tuple(float(part) for part in text.split("+"))
        except ValueError as error:
            raise InputError(f"strength must be numbers joined by +, got {text!r}") from error
    if text.lower() in ("true", "on", "yes", "false", "off", "no") and name != "refine":
        return text.lower() in ("true", "on", "yes")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def settings(
    base: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], *, cross: bool = False
) -> list[Setting]:
    """The base, and every setting that differs from it in one axis, or in any number of them.

    Draws are predicted one at a time unless `base` says otherwise: the draws of a setting with few
    are then among those of a setting with many, and predicted once for both.

    Args:
        base: options every setting starts from.
        axes: values to try, by option.
        cross: every combination instead of one change at a time.
    """
    base = {"batch_size": 1, **base}
    if cross:
        combinations = [
            dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
        ]
    else:
        combinations = [{}, *({name: value} for name, values in axes.items() for value in values)]
    found: dict[str, Setting] = {}
    for changes in combinations:
        name = _name(changes)
        options = dict(base)
        for key, value in changes.items():
            options |= REFINEMENTS[value] if key == "refine" else {key: value}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
        found.setdefault(name, Setting(name, changes, plain))
    return list(found.values())


def _name(changes: Mapping[str, Any]) -> str:
    parts = [f"{key}={show(value)}" for key, value in changes.items()]
    return re.sub(r"[^\w=+.,-]+", "_", ",".join(parts)) or "base"


def show(value: Any) -> str:
    """A setting's value for people.

    >>> show((0.3, 0.7)), show(True), show("null")
    ('0.3+0.7', 'on', 'null')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return "+".join(str(part) for part in value)
    return str(value)


def variants(spec: MethodSpec, rows: Sequence[Setting], folder: Path) -> list[Variant]:
    """A run of its own for every setting, to be measured side by side."""
    return [
        Variant(
            row.name,
            MethodSpec(spec.method, spec.model, dict(row.options), spec.device, spec.dtype),
            folder / row.name,
        )
        for row in rows
    ]


def table(rows: Sequence[Setting], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One record per setting: its changes and its main figures, JSON-able."""
    records = []
    for row in rows:
        result = results[row.name]
        own = result["figures"].get("own") or {}
        fixed = result["figures"].get("fixed") or {}
        presence = result["presence"]["average_precision"]
        records.append(
            {
                "name": row.name,
                "changes": {key: show(value) for key, value in row.changes.items()},
                "own": own.get("miou"),
                "own_image_iou": own.get("image_iou"),
                "own_boundary_f": own.get("boundary_f"),
                "empty_when_absent": own.get("empty_when_absent"),
                "fixed": fixed.get("miou"),
                "threshold": (result["threshold"] or {}).get("value"),
                "oracle": result["figures"].get("oracle", {}).get("miou"),
                "presence_ap": presence,
                "seconds": result["time"]["method_seconds"],
                "scored": result["counts"]["scored"],
                "failed": failed_in(result),
            }
        )
    return records


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """The table for a page of documentation, and which figures lack images."""
    told = [f"- {line}" for line in left_out(records)]
    return "\n".join([tables.markdown(sweep_table(records)), *told]).rstrip()


def sweep_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The records of `table` as a table of a report."""
    rows = [[record["name"], *(Figure.of(record[key]) for key in COLUMNS)] for record in records]
    return Table("sweep", "What each choice is worth", ["setting", *COLUMNS.values()], rows)


def left_out(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each setting whose figures lack images that failed."""
    return [
        f"{record['name']}: {record['failed']} images failed and are left out"
        for record in records
        if record["failed"]
    ]
