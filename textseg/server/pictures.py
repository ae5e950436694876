"""Images that strangers send: told by their first bytes, measured, then decoded."""

from __future__ import annotations

import hashlib

import numpy as np

from ..errors import ImageError
from ..image import load_image

_MAGIC: tuple[tuple[bytes, int, bytes], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, b""),
    (b"\xff\xd8\xff", 0, b""),
    (b"GIF8", 0, b""),
    (b"BM", 0, b""),
    (b"II*\0", 0, b""),
    (b"MM\0*", 0, b""),
    (b"RIFF", 8, b"WEBP"),
)
"""First bytes, and where which others follow."""


def read_picture(data: bytes, max_pixels: int, name: str = "image") -> np.ndarray:
    """The pixels of an encoded image, (H, W, 3) uint8.

    Raises:
        ImageError: it is none of PNG, JPEG, GIF, BMP, TIFF and WebP, too large, or damaged.
    """
    known = any(
        data.startswith(first) and data[at : at + len(then)] == then for first, at, then in _MAGIC
    )
    if not known:
        raise ImageError(
            f"{name} must be PNG, JPEG, GIF, BMP, TIFF or WebP, got {len(data)} other bytes"
        )
    return load_image(data, max_pixels=max_pixels)


def key_of(data: bytes) -> str:
    """Names the encoded image; equal bytes, equal pixels."""
    return hashlib.sha256(data).hexdigest()
