"""What lies over the picture on the page: the places that were pointed at, as SVG."""

from __future__ import annotations

from html import escape

from .work import Work

_SIGNS = {1: "M-.5 0H.5M0-.5V.5", 0: "M-.5 0H.5"}


def describe(work: Work) -> str:
    """What the stage shows, in words."""
    layer = work.layer
    if layer is None:
        return work.picture.name
    if not layer.mask.any():
        return f"{work.picture.name}; nothing is marked for “{layer.query}”"
    share = f"{layer.mask.mean():.0%}".replace("%", " %")
    return f"{work.picture.name}; “{layer.query}” is marked, {share} of the picture"


def over(work: Work) -> str:
    """The selected query's clicks and boxes; it also takes the pointer's gestures."""
    height, width = work.picture.pixels.shape[:2]
    unit = max(height, width) / 55
    layer = work.layer
    marks: list[str] = []
    for left, top, right, bottom in layer.hints.boxes if layer else ():
        marks.append(
            f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"/>'
        )
    for x, y, hint in layer.hints.points if layer else ():
        label = 1 - hint if layer and layer.inverted else hint
        place = f"translate({x + 0.5:g} {y + 0.5:g}) scale({unit:.3g})"
        marks.append(
            f'<g class="ts-{"plus" if label else "minus"}" transform="{place}">'
            f'<circle r=".8"/><path d="{_SIGNS[label]}"/></g>'
        )
    said = (
        f"{describe(work)}. The arrow keys move a cross; Enter adds the place, "
        "Shift and Enter takes it away."
    )
    return (
        f'<svg class="ts-over" viewBox="0 0 {width} {height}" tabindex="0" role="application" '
        f'aria-label="{escape(said)}">{"".join(marks)}<g class="ts-live"></g></svg>'
    )
