"""PNG files without the texts for which Pillow refuses the picture."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_LONGEST = 2**20
_LONGEST_TOGETHER = 32 * 2**20


@contextmanager
def open_picture(source: str | os.PathLike[str] | BinaryIO) -> Iterator[Image.Image]:
    """`PIL.Image.open`, of a PNG without its long texts."""
    given = isinstance(source, (str, os.PathLike))
    with (
        open(source, "rb") if given else nullcontext(source) as file,
        Image.open(without_long_texts(file)) as image,
    ):
        yield image


def without_long_texts(file: BinaryIO) -> BinaryIO:
    """A PNG without the texts and colour profiles of more than 1 MiB; any other file as it is.

    No text is inflated beyond that. What is left takes 32 MiB at most.

    Args:
        file: seekable, at the image's start; left there.
    """
    start = file.tell()
    cuts: list[tuple[int, int]] = []
    kept = 0
    if file.read(len(_SIGNATURE)) == _SIGNATURE:
        while len(head := file.read(8)) == 8 and not head.endswith(b"IEND"):
            length, kind = struct.unpack(">I4s", head)
            if kind not in _TEXTS:
                file.seek(length + 4, io.SEEK_CUR)
                continue
            place = file.tell() - 8
            size = _text_size(kind, file.read(length))
            file.seek(place + 12 + length)
            if size > _LONGEST or kept + size > _LONGEST_TOGETHER:
                cuts.append((place, place + 12 + length))
            else:
                kept += size
    file.seek(start)
    if not cuts:
        return file
    data = file.read()
    file.seek(start)
    ends = [0, *(end - start for _, end in cuts)]
    starts = [*(place - start for place, _ in cuts), len(data)]
    return io.BytesIO(b"".join(data[a:b] for a, b in zip(ends, starts, strict=True)))


def _text_size(kind: bytes, data: bytes) -> int:
    """Bytes of a text, counted up to one more than `_LONGEST` where it is compressed."""
    _, _, text = data.partition(b"\0")
    if kind == b"iTXt":
        compressed, text = text[:1] != b"\0", text[2:].split(b"\0", 2)[-1]
    else:
        compressed, text = kind != b"tEXt", text[1:]
    if not compressed:
        return min(len(data), _LONGEST + 1)
    try:
        return len(zlib.decompressobj().decompress(text, _LONGEST + 1))
    except zlib.error:
        return 0
