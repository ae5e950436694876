"""The report of an editing run: one page with its curves and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from . import page
from .ablation import figure

NAMES = {
    "took": "edit took",
    "margin": "evidence margin",
    "presence": "target's presence",
    "psnr": "background PSNR, dB",
    "ssim": "background SSIM",
    "lpips": "background LPIPS",
    "change": "change inside",
    "clip": "CLIP score",
    "fid": "FID",
}
_SHARES = ("took", "presence")
_COLOURS = ("#1d7ed6", "#e63946", "#2aa854", "#8e44c4", "#f47724", "#555555")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 316, 52, 44


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table, means with their 95 % intervals."""
    return markdown(*_table(rows))


def write_report(path: Path, results: Mapping[str, Any]) -> None:
    """The page, whole or not at all; it needs no other file."""
    from textseg.saving import utf8, write_atomic

    rows, run = results["rows"], results["run"]
    pairs = ", ".join(f"{a} to {b or 'nothing'}" for a, b in run["pairs"].items())
    region = "the annotated region" if run["truth_mask"] else "the region the model finds"
    ratios = ", ".join(f"{r:g}" for r in run["ratios"])
    parts = [
        page.heading("Edits: what they change and what they leave", 1),
        page.paragraph(
            f"{results['images']} images of {run['dataset']['name']}, model {run['model']}, "
            f"{run['options']['steps']} steps, guidance {run['options']['guidance_scale']:g}; "
            f"edited: {region}. Swaps: {pairs}."
        ),
        page.paragraph(
            "Background figures are over the pixels outside the annotated region. An edit took if, "
            "inside the annotated region, the model explains the noise better with the target's "
            f"prompt than with the source's. Points along a curve: r = {ratios}; up and to the "
            "right is better (for LPIPS: up and to the left)."
        ),
    ]
    columns = _columns(rows)
    for name in ("psnr", "ssim", "lpips"):
        if name in columns:
            parts += [
                page.heading(f"{NAMES['took']} against {NAMES[name]}"),
                curves(rows, name, "took"),
            ]
    parts += [
        page.heading("All settings"),
        page.table(*_table(rows)),
        page.paragraph(
            "Means with 95 % bootstrap intervals over images. Identical backgrounds count as "
            f"100 dB. {results['failed']} images failed and are left out.",
            soft=True,
        ),
    ]
    for failure in results["failures"]:
        parts.append(page.paragraph(f"Not edited: {failure['file_name']}: {failure['error']}"))
    write_atomic(path, utf8(page.page("textseg eval edit", parts)))


def compared_table(compared: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and cells of runs side by side: each setting's runs, and their gaps to the first."""
    names = [n for n in NAMES if any(n in row["figures"] for row in compared["runs"][0]["rows"])]
    head = ["method", "r", "threshold", "run", *(NAMES[name] for name in names)]
    cells = []
    for number, setting in enumerate(compared["runs"][0]["rows"]):
        where = [setting["method"], _plain(setting["ratio"]), _plain(setting["level"])]
        for run in compared["runs"]:
            row = run["rows"][number]
            cells.append([*where, run["name"], *(figure(row["figures"].get(n)) for n in names)])
            if "difference" in row:
                gaps = [_gap(row["difference"].get(name)) for name in names]
                cells.append([*where, f"{run['name']}, against the first", *gaps])
    return head, cells


def _gap(interval: Mapping[str, Any] | None) -> str:
    if interval is None or interval["higher"] is None:
        return figure(interval)
    return f"{figure(interval)}, higher in {interval['higher']:.1%}"


def compared_edits(compared: Mapping[str, Any], title: str) -> list[str]:
    """The parts of a page about runs of edits side by side."""
    return [
        page.heading(f"{title}{compared['data']['name']}, edits", 1),
        page.paragraph(
            f"{compared['images']} images that every run edited; paired bootstrap over images.",
            soft=True,
        ),
        page.table(*compared_table(compared)),
    ]


def markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [head, ["---"] * len(head)]
    lines += [[cell.replace("\n", " ") for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def curves(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> str:
    """One line per method and threshold, through its ratios, as SVG."""
    lines: dict[tuple[str, Any], list[tuple[float, float]]] = {}
    for row in rows:
        if x in row and y in row:
            key = row["method"], row["level"]
            lines.setdefault(key, []).append((row[x]["mean"], row[y]["mean"]))
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    low, high = min(p[0] for p in points), max(p[0] for p in points)
    margin = (high - low) * 0.06 or 0.5
    low, high = low - margin, high + margin
    legend = len(lines) * 18 + 8

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - 10), 10 + (1 - point[1]) * (
            _HEIGHT - _BOTTOM - 10
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + legend}" '
        'role="img">'
        f"<title>{escape(NAMES[y])} against {escape(NAMES[x])}</title>"
    ]
    for step in range(6):
        share = step / 5
        _, level = place((low, share))
        across, _ = place((low + share * (high - low), 0))
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{level:.1f}" y2="{level:.1f}" '
            f'stroke="var(--line)"/><text x="{_LEFT - 6}" y="{level + 4:.1f}" '
            f'text-anchor="end">{share:.0%}</text>'
        )
        parts.append(
            f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{low + share * (high - low):.3g}</text>"
        )
    parts.append(
        f'<text x="{(_WIDTH + _LEFT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(NAMES[x])}</text>"
        f'<text transform="translate(12 {_HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(NAMES[y])}</text>'
    )
    methods = list(dict.fromkeys(method for method, _ in lines))
    for number, ((method, level), line) in enumerate(lines.items()):
        colour = _COLOURS[methods.index(method) % len(_COLOURS)]
        dash = {0.25: "2 3", 0.75: "7 3"}.get(level, "none")
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(place, line))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dash}"/>'
        )
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>'
            for px, py in map(place, line)
        ]
        below = _HEIGHT + 8 + number * 18
        name = method if level is None else f"{method}, threshold {level:g}"
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 24}" y1="{below}" y2="{below}" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            f'<circle cx="{_LEFT + 12}" cy="{below}" r="3.5" fill="{colour}"/>'
            f'<text x="{_LEFT + 32}" y="{below + 4}">{escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and cells; an interval is a cell's second line."""
    columns = _columns(rows)
    head = ["method", "r", "threshold", *(NAMES[name] for name in columns)]
    cells = [
        [row["method"], _plain(row["ratio"]), _plain(row["level"])]
        + [_cell(row.get(name), name) for name in columns]
        for row in rows
    ]
    return head, cells


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in NAMES if any(name in row for row in rows)]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{value:.2f}"
    if name in _SHARES:
        return f"{value['mean']:.0%}\n({value['low']:.0%} to {value['high']:.0%})"
    digits = 1 if name in ("psnr", "clip") else 3
    mean, low, high = (f"{value[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean}\n({low} to {high})"
