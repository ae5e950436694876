"""Line charts as SVG, with whole axis labels and a legend that says what each colour is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1d7ed6", "#e63946", "#2aa854", "#8e44c4", "#f47724", "#00909a", "#b5517f", "#7a6a2f")
"""Colours of lines, by order, from the start again after the last."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 372, 84, 16, 14, 62

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: for the legend.
        points: in the order they are joined in; one alone is a dot.
        colour: any of CSS.
        dash: as of `stroke-dasharray`.
        dots: every point has one.
    """

    name: str
    points: Sequence[Point]
    colour: str = COLOURS[0]
    dash: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """A place of a chart that has a name: a point, or all of an x where y is None."""

    name: str
    x: float
    y: float | None = None
    colour: str = COLOURS[1]


Range = tuple[float, float]


def chart(
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    marks: Sequence[Mark] = (),
    across: Range | None = (0.0, 1.0),
    up: Range | None = (0.0, 1.0),
    title: str = "",
) -> str:
    """A chart with its legend, as a <figure>; "" where no line has a point.

    Args:
        lines: drawn in this order.
        x, y: what the axes show.
        marks: drawn over the lines.
        across, up: the axes' ranges; None for what the points need.
        title: above the chart.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    across = across or _range([p[0] for p in points])
    up = up or _range([p[1] for p in points])
    right, low = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(px: float, py: float) -> Point:
        return (_LEFT + (px - across[0]) / (across[1] - across[0]) * (right - _LEFT),
                low - (py - up[0]) / (up[1] - up[0]) * (low - _TOP))  # fmt: skip

    parts = []
    for value in _ticks(up):
        _, level = at(across[0], value)
        parts.append(_grid((_LEFT, level), (right, level)))
        parts.append(_text(_LEFT - 8, level + 4, f"{value:g}", "end"))
    for value in _ticks(across):
        place, _ = at(value, up[0])
        parts.append(_grid((place, _TOP), (place, low)))
        parts.append(_text(place, low + 20, f"{value:g}"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 14, x))
    turned = f"translate(24 {(_TOP + low) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y)}</text>')
    for line in lines:
        placed = [at(*point) for point in line.points]
        if len(placed) > 1:
            path = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
            parts.append(f'<polyline points="{path}" {_stroke(line)}/>')
        if line.dots or len(placed) == 1:
            parts += [_dot(*place, line.colour) for place in placed]
    for mark in marks:
        px, py = at(mark.x, up[0] if mark.y is None else mark.y)
        if mark.y is None:
            parts.append(_upright(px, _TOP, low, mark.colour))
        else:
            parts.append(_dot(px, py, mark.colour, 5))
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    label = escape(title or f"{y} against {x}")
    svg = (f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
           f"{''.join(parts)}</svg>")  # fmt: skip
    return f'<figure class="chart">{heading}{svg}{_legend(lines, marks)}</figure>'


def _legend(lines: Sequence[Line], marks: Sequence[Mark]) -> str:
    entries = [(_key(f'<line x1="0" x2="26" y1="7" y2="7" {_stroke(line)}/>'
                     + (_dot(13, 7, line.colour) if line.dots or len(line.points) == 1 else "")),
                line.name) for line in lines if line.name]  # fmt: skip
    for mark in marks:
        drawn = _dot(13, 7, mark.colour, 5)
        if mark.y is None:
            drawn = _upright(13, 0, 14, mark.colour)
        entries.append((_key(drawn), mark.name))
    return "".join(
        ('<ul class="legend">', *(f"<li>{key}{escape(n)}</li>" for key, n in entries), "</ul>")
    )


def _key(drawn: str) -> str:
    return f'<svg class="key" viewBox="0 0 26 14" aria-hidden="true">{drawn}</svg>'


def _stroke(line: Line) -> str:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'fill="none" stroke="{line.colour}" stroke-width="2.2" stroke-linejoin="round"{dash}'


def _grid(start: Point, end: Point) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="grid"/>'


def _upright(x: float, top: float, low: float, colour: str) -> str:
    return (f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{low}" stroke="{colour}" '
            'stroke-width="1.5" stroke-dasharray="5 4"/>')  # fmt: skip


def _dot(x: float, y: float, colour: str, radius: float = 3.5) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _range(values: Sequence[float]) -> Range:
    """From the least to the greatest, with some room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    return low - room, high + room


def _ticks(ends: Range) -> list[float]:
    """Four to eight round values within a range.

    >>> _ticks((0, 1)), _ticks((17.3, 24.1))
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0])
    """
    low, high = ends
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]
