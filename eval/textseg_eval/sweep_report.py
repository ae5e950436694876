"""The page of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import page
from .ablation import COLUMNS, left_out, sweep_table
from .report import write_page


def write_sweep(path: Path, records: Sequence[Mapping[str, Any]], title: str, command: str) -> Path:
    """A sweep's table as one page, with a bar for the figure of each setting.

    Raises:
        OutputError: it cannot be written.
    """
    shown = "own" if any(record["own"] for record in records) else "fixed"
    data = replace(sweep_table(records), bar=1 + list(COLUMNS).index(shown))
    parts = [
        page.heading(title, 1),
        page.paragraph(
            "Each setting differs from the base in what its name says; all share the model's "
            f"predictions. The bars are {COLUMNS[shown]}.",
            soft=True,
        ),
        page.table(data),
        *(page.paragraph(f"{line}.") for line in left_out(records)),
        page.heading("How it was made"),
        page.preformatted(command),
    ]
    return write_page(path, title, parts)
