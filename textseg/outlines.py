"""Outlines of a mask along the edges of its pixels."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

# Steps to the right, down, left, up; their order is that of turning right.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


class Polygon(TypedDict):
    """A region without its holes: rings of (x, y) pixel corners, the first not repeated."""

    exterior: list[list[int]]
    holes: list[list[list[int]]]


def mask_to_polygons(mask: np.ndarray) -> list[Polygon]:
    """Polygons of the 4-connected regions of a mask (H, W) bool, in reading order.

    The rings run between pixels: corner (0, 0) is the image's upper left, (W, H) its lower right,
    and a single pixel has four corners. So the polygons enclose the mask's pixels exactly, where
    contours through pixel centres lose half a pixel on every side. Exteriors run clockwise as
    seen, holes the other way.

    >>> mask_to_polygons(np.array([[False, True, True]]))
    [{'exterior': [[1, 0], [3, 0], [3, 1], [1, 1]], 'holes': []}]
    """
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    polygons: dict[int, Polygon] = {}
    holes: list[tuple[int, list[list[int]]]] = []
    stride = mask.shape[1] + 1
    edges = _edges(mask)
    leaving = edges.tobytes()
    fresh = bytearray((edges & 1).tobytes())
    offsets = tuple(x + y * stride for x, y in _STEPS)
    for start in np.flatnonzero(edges & 1).tolist():
        if not fresh[start]:
            continue
        ring, area = _trace(leaving, fresh, start, offsets, stride)
        region = int(labels[divmod(start, stride)])
        if area > 0:
            polygons[region] = {"exterior": ring, "holes": []}
        else:
            holes.append((region, ring))
    for region, ring in holes:
        polygons[region]["holes"].append(ring)
    return list(polygons.values())


def _edges(mask: np.ndarray) -> np.ndarray:
    """Edges that leave each pixel corner with the mask on their right: (H + 1, W + 1) uint8 bits,
    in the order of `_STEPS`."""
    inside = np.pad(mask, 1)
    upper_left, upper_right = inside[:-1, :-1], inside[:-1, 1:]
    lower_left, lower_right = inside[1:, :-1], inside[1:, 1:]
    right = lower_right & ~upper_right
    down = lower_left & ~lower_right
    left = upper_left & ~lower_left
    up = upper_right & ~upper_left
    return (right | (down << 1) | (left << 2) | (up << 3)).astype(np.uint8)


def _trace(
    leaving: bytes, fresh: bytearray, start: int, offsets: tuple[int, ...], stride: int
) -> tuple[list[list[int]], int]:
    """Follows the ring that leaves `start` to the right, and twice its area, negative for holes.

    Takes the ring's steps to the right out of `fresh`.
    """
    ring: list[list[int]] = []
    at, heading = start, 0
    while True:
        y, x = divmod(at, stride)
        ring.append([x, y])
        while True:
            if heading == 0:
                fresh[at] = 0
            at += offsets[heading]
            bits = leaving[at]
            # Right before straight before left: regions that touch at a corner stay apart.
            right = (heading + 1) % 4
            if bits >> right & 1:
                heading = right
                break
            if not bits >> heading & 1:
                heading = (heading + 3) % 4
                break
        if at == start and heading == 0:
            return ring, _twice_area(ring)


def _twice_area(ring: list[list[int]]) -> int:
    following = ring[1:] + ring[:1]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, following, strict=True))
