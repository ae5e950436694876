"""The way of an edit in one picture: input, contrast, mask, encoded, decoded, result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .drawing import PALETTE, draw_labels, tint
from .image import resize_image

if TYPE_CHECKING:
    from .editing import Steps
    from .edits import Edit

LONGER_SIDE = 384
COLUMNS = 3
_GAP = 6


def contact_sheet(edit: Edit, steps: Steps | None = None) -> np.ndarray:
    """The pictures of an edit, side by side, each with its name.

    Args:
        edit: with its `source`; its `segmentation` gives the contrast.
        steps: what `edit(..., keep=steps)` filled; panels without a picture are left out.

    Returns:
        (H, W, 3) uint8; panels in rows of three, four of them in two, each about 384 pixels on its
        longer side.
    """
    source = edit.image if edit.source is None else edit.source
    height, width = source.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    panels: list[tuple[str, np.ndarray | None]] = [("input", source)]
    found = edit.segmentation
    if found is not None and found.contrast is not None:
        panels.append(("contrast", heat(found.contrast)))
    panels.append(("mask", tint(source, edit.mask, PALETTE[0], 0.45)))
    if steps is not None:
        panels += [("encoded", steps.encoded), ("decoded", steps.decoded)]
    panels.append(("result", edit.image))
    shown = [
        draw_labels(resize_image(picture, size), [(name, None)])
        for name, picture in panels
        if picture is not None
    ]
    columns = 2 if len(shown) == 4 else min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    sheet = np.full(
        (rows * (size[0] + _GAP) + _GAP, columns * (size[1] + _GAP) + _GAP, 3), 255, np.uint8
    )
    for number, panel in enumerate(shown):
        top = _GAP + (number // columns) * (size[0] + _GAP)
        left = _GAP + (number % columns) * (size[1] + _GAP)
        sheet[top : top + size[0], left : left + size[1]] = panel
    return sheet


def heat(values: np.ndarray) -> np.ndarray:
    """A map (h, w) as colours (h, w, 3) uint8: its range from dark blue to yellow."""
    import cv2

    low, high = float(values.min()), float(values.max())
    grey = np.rint((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
