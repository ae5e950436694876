"""Self-contained HTML: one file, no script, no network, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee6;
  --ground: #ffffff; --card: #f5f7fa; --a: #2563eb; --b: #d97706; --c: #0f9d76; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa5b5; --line: #323b49;
  --ground: #12161d; --card: #1b212b; --a: #7aa7ff; --b: #f2b35e; --c: #55d3a8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 64px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 8px; }
p { max-width: 75ch; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 20px 0; }
.card { background: var(--card); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.name { white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
td small { color: var(--soft); display: block; }
.bars { columns: 3 270px; column-gap: 28px; }
.bar { display: grid; grid-template-columns: 7.5em 1fr 3em; gap: 8px; align-items: center;
  font-size: 13px; break-inside: avoid; padding: 2px 0; }
.bar i { display: block; height: 10px; border-radius: 3px; background: var(--a); }
.bar div { background: var(--card); border-radius: 3px; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; max-width: 760px; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr));
  gap: 18px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-top: 4px;
  overflow-wrap: anywhere; }
.trio { display: grid; grid-template-columns: repeat(3, 1fr); gap: 3px; }
.trio img { width: 100%; height: auto; display: block; border-radius: 4px; }
pre { background: var(--card); padding: 12px; border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 13px; }
@media (max-width: 640px) { body { padding: 16px 14px 48px; } h1 { font-size: 21px; }
  .card b { font-size: 21px; } .cards { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  th, td { padding: 6px 5px; font-size: 13px; } td.name { min-width: 6em; }
  td small { font-size: 11px; } svg text { font-size: 21px; } }
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column holds names; a second line in a cell is written small."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = []
    for row in rows:
        cells = []
        for number, cell in enumerate(row):
            first, _, second = cell.partition("\n")
            small = f"<small>{escape(second)}</small>" if second else ""
            kind = ' class="name"' if number == 0 else ""
            cells.append(f"<td{kind}>{escape(first)}{small}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def bars(values: Mapping[str, float]) -> str:
    """A bar per name, values in [0, 1]."""
    rows = (
        f'<div class="bar"><span title="{escape(name)}">{escape(name)}</span>'
        f'<div><i style="width:{100 * value:.1f}%"></i></div><span>{value:.2f}</span></div>'
        for name, value in values.items()
    )
    return f'<div class="bars">{"".join(rows)}</div>'


def curve(
    values: Sequence[float | None],
    marks: Sequence[tuple[str, float]],
    *,
    x: str,
    y: str,
) -> str:
    """A line over x from 0 to 1 with named vertical marks, as SVG."""
    known = [(i / (len(values) - 1), v) for i, v in enumerate(values) if v is not None]
    if not known:
        return ""
    top = max(0.1, np.ceil(max(v for _, v in known) * 10.5) / 10)
    left, right, high, low = 56, 700, 14, 270

    def at(a: float, b: float) -> tuple[float, float]:
        return left + a * (right - left), low - b / top * (low - high)

    parts = []
    for step in range(6):
        _, level = at(0, top * step / 5)
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}" '
            f'stroke="var(--line)"/><text x="{left - 8}" y="{level + 4:.1f}" '
            f'text-anchor="end">{top * step / 5:.2f}</text>'
        )
        place, _ = at(step / 5, 0)
        parts.append(
            f'<text x="{place:.1f}" y="{low + 22}" text-anchor="middle">{step / 5:.1f}</text>'
        )
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(a, b) for a, b in known))
    parts.append(
        f'<polyline points="{path}" fill="none" stroke="var(--a)" stroke-width="2.5" '
        'stroke-linejoin="round"/>'
    )
    for number, (name, place) in enumerate(marks):
        px, _ = at(place, 0)
        color = ("var(--b)", "var(--c)")[number % 2]
        end = "end" if place > 0.6 else "start"
        shift = -6 if place > 0.6 else 6
        parts.append(
            f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{high}" y2="{low}" stroke="{color}" '
            f'stroke-dasharray="5 4" stroke-width="1.5"/><text x="{px + shift:.1f}" '
            f'y="{high + 14 + 24 * number}" text-anchor="{end}" style="fill:{color}">'
            f"{escape(name)}</text>"
        )
    parts.append(
        f'<text x="{(left + right) / 2}" y="{low + 46}" text-anchor="middle">{escape(x)}</text>'
    )
    return (f'<svg viewBox="0 0 720 324" role="img" aria-label="{escape(y)} against {escape(x)}">'
            f"{''.join(parts)}</svg>")  # fmt: skip


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


def figure(shots: Sequence[str], caption: str) -> str:
    """Pictures side by side with a line below."""
    return (
        f'<figure><div class="trio">{"".join(shots)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def gallery(figures: Iterable[str]) -> str:
    """Figures in as many columns as there is room for."""
    return f'<div class="shots">{"".join(figures)}</div>'


def paragraph(text: str, *, soft: bool = False) -> str:
    kind = ' class="soft"' if soft else ""
    return f"<p{kind}>{escape(text)}</p>"


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def preformatted(text: str, summary: str = "") -> str:
    """Text as it is; folded away behind a summary where there is one."""
    block = f"<pre>{escape(text)}</pre>"
    return f"<details><summary>{escape(summary)}</summary>{block}</details>" if summary else block
