"""Tables of a report as data, and as text: LaTeX, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from textseg.errors import OutputError
from textseg.saving import utf8, write_atomic

FOLDER = "tables"
"""Where a run keeps its tables, a file each."""


@dataclass(frozen=True)
class Figure:
    """A number, with the interval it has.

    Attributes:
        value, low, high: the interval's ends are None where there is none.
        digits: written after the point.
        percent: written as a percentage; the value is a share.

    >>> str(Figure(0.41234, 0.38, 0.447)), str(Figure(0.5, digits=0, percent=True))
    ('0.412 (0.380 to 0.447)', '50%')
    """

    value: float
    low: float | None = None
    high: float | None = None
    digits: int = 3
    percent: bool = False

    @classmethod
    def of(cls, interval: Mapping[str, Any] | None, **form: Any) -> Figure | None:
        """From a `Bootstrap.interval`; None where it is undefined.

        Args:
            form: `digits`, `percent`.
        """
        if not interval or interval["value"] is None:
            return None
        ends = interval.get("low"), interval.get("high")
        return cls(interval["value"], *ends, **form)

    def ends(self) -> str:
        """The interval, "" where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self._text(self.low)} to {self._text(self.high)}"

    def middle(self) -> str:
        """The value alone."""
        return self._text(self.value)

    def _text(self, value: float) -> str:
        text = f"{value:.{self.digits}{'%' if self.percent else 'f'}}"
        # Nothing is written as less than 0 that is rounded to it.
        return text if text.strip("-0.%") else text.lstrip("-")

    def __str__(self) -> str:
        return self.middle() + (f" ({self.ends()})" if self.ends() else "")


Cell: TypeAlias = str | int | float | Figure | None


@dataclass(frozen=True)
class Table:
    """A table as data.

    Attributes:
        name: of its files.
        title: for people.
        head: names of the columns.
        rows: a cell for each column.
        words: how many of the columns, from the left, hold words.
        bar: the column whose figures, in [0, 1], a page shows as bars too.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1
    bar: int | None = None


def shown(cell: Cell) -> str:
    """A cell for people; a dash where nothing is known.

    >>> shown(None), shown(12345), shown(0.25), shown("a")
    ('-', '12,345', '0.25', 'a')
    """
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def figure(interval: Mapping[str, float | None] | None) -> str:
    """A figure with its interval: "0.412 (0.380 to 0.447)"; a dash where there is none."""
    return shown(Figure.of(interval))


def markdown(table: Table) -> str:
    """A table of Markdown, without its title."""
    lines = [list(table.head), ["---"] * len(table.head)]
    lines += [[shown(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(map(_flat, line))} |" for line in lines) + "\n"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


LONG = 45
"""Rows above which a LaTeX table may break over pages."""

_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # Behind the end of a row these two would be its options.
    "[": "{[}", "*": "{*}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


def tex(text: str) -> str:
    r"""Text for LaTeX, its special characters escaped.

    >>> tex("traffic_light & 50 %")
    'traffic\\_light \\& 50 \\%'
    """
    return re.sub(r"[\\~^<>|\[*&%$#_{}]", lambda found: _TEX[found[0]], " ".join(text.split()))


def latex(table: Table) -> str:
    """A `tabular` with the rules of booktabs, to be input into a `table`; a `longtable` from
    `LONG` rows on."""
    kind = "tabular" if len(table.rows) <= LONG else "longtable"
    needs = "booktabs" if kind == "tabular" else "booktabs, longtable"
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    lines = [f"% {tex(table.title)}", f"% \\usepackage{{{needs}}}",
             f"\\begin{{{kind}}}{{{columns}}}", "\\toprule", _tex_row(map(tex, table.head)),
             "\\midrule"]  # fmt: skip
    if kind == "longtable":
        lines.append("\\endhead")
    lines += [_tex_row(map(_tex_cell, row)) for row in table.rows]
    return "\n".join([*lines, "\\bottomrule", f"\\end{{{kind}}}"]) + "\n"


def _tex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex_cell(cell: Cell) -> str:
    if not isinstance(cell, Figure):
        return tex(shown(cell)) if cell is not None else "--"
    return tex(cell.middle()) + (f" {{\\scriptsize ({tex(cell.ends())})}}" if cell.ends() else "")


def comma_separated(table: Table) -> str:
    """Comma-separated values, numbers in full; a figure with an interval takes three columns, NAME,
    NAME low and NAME high, and what is not known is empty."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.head)
    spans = [any(isinstance(c, Figure) and c.low is not None for c in each) for each in columns]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n").writerow
    write([part for name, wide in zip(table.head, spans, strict=True)
           for part in ((name, f"{name} low", f"{name} high") if wide else (name,))])  # fmt: skip
    for row in table.rows:
        values: list[Any] = []
        for cell, wide in zip(row, spans, strict=True):
            if isinstance(cell, Figure):
                values += [cell.value, cell.low, cell.high] if wide else [cell.value]
            else:
                values += [cell, None, None] if wide else [cell]
        write(values)
    return out.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "latex": (".tex", latex),
    "csv": (".csv", comma_separated),
    "markdown": (".md", markdown),
}
"""Format -> the ending of its files, and what writes one."""


def write_tables(folder: Path, tables: Iterable[Table], formats: Sequence[str]) -> list[Path]:
    """Write every table in every format, FOLDER/NAME.tex and so on; nothing without formats.

    Raises:
        OutputError: one cannot be written.
    """
    written = []
    for table in tables if formats else ():
        for suffix, write in (FORMATS[name] for name in formats):
            path = folder / f"{table.name}{suffix}"
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot write {str(folder)!r}: {error.strerror}") from error
            write_atomic(path, utf8(write(table)))
            written.append(path)
    return written
