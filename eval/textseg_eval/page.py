"""Self-contained HTML: one file, no script, no network, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from .tables import Cell, Figure, Table, shown

Color = tuple[int, int, int]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee6;
  --ground: #ffffff; --card: #f5f7fa; --bar: #cfe0fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa5b5; --line: #323b49;
  --ground: #12161d; --card: #1b212b; --bar: #274472; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 24px 20px 64px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
p { max-width: 75ch; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 20px 0; }
.card { background: var(--card); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px;
  min-width: min(100%, 620px); }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td { white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: 13px; line-height: 1.3;
  vertical-align: bottom; }
th.words, td.words { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 5em; }
td.words:first-child { min-width: 7.5em; }
td small { color: var(--soft); display: block; }
td.bar { position: relative; z-index: 0; min-width: 8em; }
td.bar i { position: absolute; z-index: -1; left: 0; top: 3px; bottom: 3px;
  background: var(--bar); border-radius: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr));
  gap: 24px; align-items: start; }
.chart { max-width: 620px; } .chart h3 { margin: 0 0 4px; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; }
svg .grid { stroke: var(--line); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0 0;
  padding: 0; font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }
.legend li { display: flex; align-items: center; gap: 6px; min-width: 0; }
svg.key { width: 26px; height: 14px; flex: none; }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 3px; flex: none; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
  gap: 20px; }
.wide .shots { grid-template-columns: 1fr; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-top: 4px;
  overflow-wrap: anywhere; }
.row { display: grid; gap: 3px; grid-template-columns: repeat(var(--count), minmax(0, 1fr)); }
.wide .row { grid-template-columns: repeat(var(--count), minmax(0, 320px)); }
.row > div { font-size: 12px; line-height: 1.35; color: var(--soft); overflow-wrap: anywhere; }
.row img { width: 100%; height: auto; display: block; border-radius: 4px; }
pre { background: var(--card); padding: 12px; border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 13px; }
@media (max-width: 640px) { body { padding: 16px 14px 48px; } h1 { font-size: 21px; }
  .card b { font-size: 21px; } .cards { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  th, td { padding: 5px; font-size: 13px; } td small { font-size: 11px; }
  svg text { font-size: 19px; } .wide .row { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@page { size: A4; margin: 14mm 12mm; }
@media print {
  :root { color-scheme: light; --ink: #1c2330; --soft: #4a5364; --line: #cdd3dc;
    --ground: #ffffff; --card: #f5f7fa; --bar: #cfe0fb; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin-top: 18pt; } h3 { font-size: 11pt; }
  h1, h2, h3, h2 + p { break-after: avoid; } p { max-width: none; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(105px, 1fr)); gap: 8pt; }
  .card b { font-size: 15pt; } svg text { font-size: 19px; }
  .scroll { overflow: visible; } table { font-size: 8pt; width: 100%; min-width: 0; }
  th { font-size: 7.5pt; } th, td { padding: 2.5pt 4pt; } td { white-space: normal; }
  td.words { min-width: 4em; overflow-wrap: break-word; } td.bar { min-width: 5em; }
  thead { display: table-header-group; } tr, figure, .card, li { break-inside: avoid; }
  .charts { grid-template-columns: 1fr 1fr; gap: 14pt; }
  .shots { grid-template-columns: 1fr 1fr; gap: 12pt; }
  .wide .shots { grid-template-columns: 1fr; }
  .wide .row img { max-height: 40mm; object-fit: contain; object-position: 0 0; }
  pre { font-size: 8pt; } details { display: none; }
}
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; `parts` are HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """Large figures with a line below each."""
    cells = (f'<div class="card"><b>{escape(v)}</b><span>{escape(k)}</span></div>'
             for k, v in figures)  # fmt: skip
    return f'<div class="cards">{"".join(cells)}</div>'


def table(data: Table) -> str:
    """A table; an interval is written small, below its figure."""
    top = "".join(f"<th{_words(data, n)}>{escape(name)}</th>" for n, name in enumerate(data.head))
    body = []
    for cells_of in data.rows:
        cells = [_cell(cell, _words(data, n), n == data.bar) for n, cell in enumerate(cells_of)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def _words(data: Table, column: int) -> str:
    return ' class="words"' if column < data.words else ""


def _cell(cell: Cell, words: str, bar: bool) -> str:
    if isinstance(cell, Figure):
        small = f"<small>{escape(cell.ends())}</small>" if cell.ends() else ""
        start = f'<td class="bar"><i style="width:{cell.value:.1%}"></i>' if bar else "<td>"
        return f"{start}{escape(cell.middle())}{small}</td>"
    first, _, second = shown(cell).partition("\n")
    small = f"<small>{escape(second)}</small>" if second else ""
    return f"<td{words}>{escape(first)}{small}</td>"


def charts(drawn: Sequence[str]) -> str:
    """Charts side by side where there is room; "" without any."""
    there = [each for each in drawn if each]
    return f'<div class="charts">{"".join(there)}</div>' if there else ""


def picture(pixels: np.ndarray, alt: str, *, side: int = 320) -> str:
    """An image (H, W, 3) uint8, at most `side` pixels long, as an <img> that holds its data."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (f'<img alt="{escape(alt)}" width="{image.width}" height="{image.height}" '
            f'src="data:image/jpeg;base64,{data}">')  # fmt: skip


def shot(pixels: np.ndarray, alt: str, words: str = "", *, side: int = 320) -> str:
    """A picture of a row with a line of words below it."""
    below = escape(words or alt)
    return f"<div>{picture(pixels, alt, side=side)}{below}</div>"


def row(shots: Sequence[str], caption: str, legend: Sequence[tuple[Color, str]] = ()) -> str:
    """Pictures side by side, more than six in two lines, words below, and what each colour is."""
    count = len(shots) if len(shots) <= 6 else math.ceil(len(shots) / 2)
    swatches = "".join(
        f'<li><i class="dot" style="background:rgb({",".join(map(str, color))})"></i>'
        f"{escape(name)}</li>"
        for color, name in legend
    )
    below = f'<ul class="legend">{swatches}</ul>' if swatches else ""
    return (f'<figure><div class="row" style="--count:{count}">{"".join(shots)}</div>'
            f"<figcaption>{escape(caption)}{below}</figcaption></figure>")  # fmt: skip


def gallery(rows: Iterable[str], *, wide: bool = False) -> str:
    """Rows of pictures in as many columns as there is room for; in one if they are wide."""
    inside = f'<div class="shots">{"".join(rows)}</div>'
    return f'<div class="wide">{inside}</div>' if wide else inside


def paragraph(text: str, *, soft: bool = False) -> str:
    kind = ' class="soft"' if soft else ""
    return f"<p{kind}>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def preformatted(text: str, summary: str = "") -> str:
    """Text as it is; folded away behind a summary where there is one."""
    block = f"<pre>{escape(text)}</pre>"
    return f"<details><summary>{escape(summary)}</summary>{block}</details>" if summary else block
