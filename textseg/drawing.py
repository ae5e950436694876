"""Masks made visible: tints, outlines that show on any ground, labels, cutouts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from .errors import InputError

Color: TypeAlias = str | Sequence[int]

PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 57, 70),
    (29, 126, 214),
    (42, 168, 84),
    (255, 183, 3),
    (142, 68, 196),
    (0, 172, 180),
    (244, 119, 36),
    (222, 82, 162),
    (138, 154, 36),
    (122, 88, 62),
)
"""Colours of queries, by order, from the start again after the last."""


def parse_color(color: Color) -> tuple[int, int, int]:
    """(r, g, b) of three whole numbers from 0 to 255, or of a name or "#rrggbb".

    >>> parse_color("#ff8000"), parse_color([1, 2, 3])
    ((255, 128, 0), (1, 2, 3))
    """
    if isinstance(color, str):
        try:
            red, green, blue = ImageColor.getrgb(color)[:3]
        except ValueError:
            raise InputError(f"color must be a name or '#rrggbb', got {color!r}") from None
        return red, green, blue
    values = [int(value) if isinstance(value, (int, np.integer)) else -1 for value in color]
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise InputError(f"color must be three whole numbers from 0 to 255, got {color!r}")
    return values[0], values[1], values[2]


def tint(image: np.ndarray, mask: np.ndarray, color: Color, alpha: float) -> np.ndarray:
    """A copy of the image (H, W, 3) uint8 with the mask (H, W) bool tinted and outlined.

    The outline is a white line just inside the mask and a black one just outside it, so that it
    shows on any ground. Its width grows with the image: one pixel each per 400 of the longer side.

    Args:
        alpha: weight of the colour inside the mask, 0 to 1; at 0 only the outline is drawn.
    """
    import cv2

    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1], got {alpha!r}")
    rgb = np.asarray(parse_color(color), np.float32)
    out = image.copy()
    out[mask] = np.rint(image[mask] * (1 - alpha) + rgb * alpha).astype(np.uint8)
    width = max(1, round(max(mask.shape) / 400))
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inside = mask.astype(np.uint8)
    # Outside the image counts as mask for the erosion: an object cut off by the edge has no
    # outline there.
    outer = cv2.dilate(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > inside
    inner = cv2.erode(inside, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1) < inside
    out[outer] = 0
    out[inner] = 255
    return out


def draw_labels(
    image: np.ndarray,
    labels: Sequence[tuple[str, Color | None]],
    *,
    corner: str = "upper left",
) -> np.ndarray:
    """A copy of the image with lines of text on a dark box in one corner.

    Args:
        labels: text and the colour of the swatch before it, or None for no swatch. Lines too
            long for the image end in an ellipsis.
        corner: "upper left" or "lower left".

    Returns:
        (H, W, 3) uint8; the image as it is where not even one line fits.
    """
    height, width = image.shape[:2]
    size = min(max(11, round(max(height, width) / 40)), height // 2)
    line = round(size * 1.35)
    if size < 8 or width < 5 * size:
        return image.copy()
    font = ImageFont.load_default(size)
    shown = labels[: max(1, (height - size) // line)]
    pad = size // 2
    texts = [
        _fit(" ".join(text.split()), font, width - 3 * pad - (size if color is not None else 0))
        for text, color in shown
    ]
    offsets = [size + pad // 2 if color is not None else 0 for _, color in shown]
    box_width = max(
        round(font.getlength(text)) + offset for text, offset in zip(texts, offsets, strict=True)
    )
    box_height = line * len(shown) + pad
    top = 0 if corner == "upper left" else height - box_height
    canvas = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(canvas, "RGBA")
    draw.rectangle((0, top, box_width + 2 * pad, top + box_height - 1), fill=(0, 0, 0, 190))
    for row, (text, (_, color)) in enumerate(zip(texts, shown, strict=True)):
        y = top + pad // 2 + row * line
        if color is not None:
            swatch = (pad, y + size // 6, pad + size - size // 3, y + size - size // 6)
            draw.rectangle(swatch, fill=parse_color(color), outline=(255, 255, 255))
        draw.text((pad + offsets[row], y), text, fill=(255, 255, 255), font=font)
    return np.array(canvas)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    # No letter is narrower than a pixel, so that the rest of a very long text need not be measured.
    start = text[: max(0, int(room)) + 1]
    if start == text and font.getlength(text) <= room:
        return text
    fitting = bisect_right(
        range(len(start)), room, key=lambda count: font.getlength(start[:count] + "...")
    )
    return start[: max(0, fitting - 1)] + "..."


def cut_out(
    image: np.ndarray, mask: np.ndarray, background: Color | np.ndarray | None
) -> np.ndarray:
    """The masked pixels alone.

    Args:
        background: None for transparency, a colour, or an image of the same size (H, W, 3) uint8.

    Returns:
        (H, W, 4) uint8 RGBA, zero outside the mask, or (H, W, 3) uint8 on a background.
    """
    if background is None:
        out = np.zeros((*mask.shape, 4), np.uint8)
        out[mask, :3] = image[mask]
        out[mask, 3] = 255
        return out
    if isinstance(background, np.ndarray):
        if background.shape != image.shape or background.dtype != np.uint8:
            raise InputError(
                f"background must be {image.shape} uint8 like the image, "
                f"got {background.shape} {background.dtype}"
            )
        return np.where(mask[..., None], image, background)
    rgb = np.asarray(parse_color(background), np.uint8)
    return np.where(mask[..., None], image, rgb)
