"""Integers of more than 8 bits become 8-bit ones, whatever part of their range they use."""

from __future__ import annotations

import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .errors import ImageWarning

_DEPTHS = (8, 10, 12, 14, 16)
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 258, 281, 341


def to_8_bits(values: np.ndarray, name: str, declared: int | None = None) -> np.ndarray:
    """The 8 highest bits of 16-bit values, or of fewer where fewer are in use.

    Cameras and scanners keep 10, 12 or 14 bits in files of 16, others 8: taken for 16 they would be
    black. Where nothing says how many there are, the largest value tells, and a warning that it
    did. Alpha is taken for 16 bits if it does not fit in as many as the colours.

    Args:
        values: (H, W) or (H, W, C) uint16; C of 2 and 4 have alpha last.
        name: the image's, for the warning.
        declared: the largest value possible, where the file says it.

    Returns:
        uint8 of the same shape.
    """
    alpha = values.ndim == 3 and values.shape[2] in (2, 4)
    colours = values[..., :-1] if alpha else values
    most = int(colours.max())
    told = declared is not None and most <= declared
    depth = _depth(declared if told and declared is not None else most)
    if depth < 16 and most and not told:
        warnings.warn(
            f"{name} has 16-bit values of at most {most}: taken for {depth}-bit ones",
            ImageWarning,
            stacklevel=2,
        )
    result = (values >> (depth - 8)).astype(np.uint8)
    if alpha and _depth(int(values[..., -1].max())) > depth:
        result[..., -1] = values[..., -1] >> 8
    return result


def _depth(most: int) -> int:
    return next(depth for depth in _DEPTHS if most < 1 << depth)


def declared_maximum(picture: Image.Image) -> int | None:
    """The largest value that a TIFF's tags allow, where they say less than 16 bits."""
    tags: Any = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    given = [tags[t] for t in (_MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE) if t in tags]
    try:
        most = min((1 << int(bits)) - 1, *(int(np.max(value)) for value in given), 65535)
    except (TypeError, ValueError, OverflowError):
        return None
    return most if 0 < most < 65535 else None


def is_deep_colour(picture: Image.Image) -> bool:
    """Whether a PNG or TIFF that is not yet loaded has 16-bit colours, whose high bytes alone
    Pillow keeps."""
    tiles: Any = getattr(picture, "tile", ())
    if picture.format not in ("PNG", "TIFF") or not tiles:
        return False
    args = tiles[0][3]
    layout, _, depth = str(args if isinstance(args, str) else args[0]).partition(";")
    return layout in ("LA", "RGB", "RGBA") and depth.startswith("16")


def read_deep_colour(file: BinaryIO) -> np.ndarray | None:
    """(H, W, 3) or (H, W, 4) uint16 of a PNG or TIFF; None where OpenCV cannot read it.

    Args:
        file: seekable, read from its start.
    """
    import cv2

    file.seek(0)
    try:
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    return values[..., [2, 1, 0, 3][: values.shape[2]]]
