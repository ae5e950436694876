"""Files on disk: whole or not at all, and knowing how they were made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .errors import InputError, OutputError
from .png_texts import open_picture

PNG_KEY = "textseg"
"""Keyword of the PNG text chunk that says, in JSON, how a picture was made."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`, or leaves what was there before.

    The bytes go to a new file in the same folder, to the disk, and then take the name. A symbolic
    link is followed.

    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or `path` is
            something other than a regular file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".textseg-{secrets.token_hex(8)}.tmp"
    try:
        if target.is_dir():
            raise OutputError("it is a folder")
        if target.exists() and not target.is_file():
            raise OutputError("it is not a regular file")
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        _remove(temporary)
        name = str(path) if len(str(path)) <= 200 else f"{str(path)[:150]}...{str(path)[-40:]}"
        raise OutputError(f"cannot write {name!r}: {error.strerror or error}") from error
    except BaseException:
        _remove(temporary)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write one file to; on leaving it takes the name, whole, or is gone.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def utf8(text: str) -> bytes:
    """Text as UTF-8; each byte XX of a file name that is not UTF-8 becomes `\\udcXX`.

    In JSON that is the escape of the character by which Python knows the byte: `json.loads` gives
    back the name that opens the file.

    >>> utf8("dog.png"), utf8(os.fsdecode(b"dog\\xff.png"))
    (b'dog.png', b'dog\\\\udcff.png')
    """
    return text.encode("utf-8", "backslashreplace")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def picture_suffix(
    path: str | os.PathLike[str],
    allowed: tuple[str, ...] = PICTURE_SUFFIXES,
    name: str = "path",
) -> str:
    """The path's suffix in lower case, if it is one of `allowed`; `name` is the argument's."""
    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        raise InputError(f"{name} must end in {', '.join(allowed)}, got {str(path)!r}")
    return suffix


def as_picture(pixels: np.ndarray) -> Image.Image:
    """A Pillow picture of pixels: (H, W) bool, uint8 or uint16, (H, W, 3) or (H, W, 4) uint8.

    Of bool, True becomes 255.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return Image.fromarray(np.ascontiguousarray(pixels))


def encode_picture(
    pixels: np.ndarray, suffix: str, provenance: dict[str, Any], xmp: bytes | None = None
) -> bytes:
    """Pixels as the bytes of an image file that carries its provenance.

    Args:
        pixels: (H, W) bool, uint8 or uint16, (H, W, 3) or (H, W, 4) uint8; JPEG takes only
            (H, W, 3).
        suffix: one of `PICTURE_SUFFIXES`.
        provenance: JSON-able; goes in the PNG text chunk `textseg`, or in the EXIF user comment
            of JPEG and WebP.
        xmp: an XMP packet to put in beside it, such as a label of how the picture was made.
    """
    image = as_picture(pixels)
    text = json.dumps(provenance)
    buffer = io.BytesIO()
    options: dict[str, Any] = {}
    if suffix == ".png":
        chunks = PngInfo()
        chunks.add_text(PNG_KEY, text)
        if xmp is not None:
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8"))
        image.save(buffer, "PNG", pnginfo=chunks)
        return buffer.getvalue()
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"ASCII\0\0\0" + text.encode("ascii")
    options["exif"] = exif
    if xmp is not None:
        options["xmp"] = xmp
    if suffix == ".webp":
        image.save(buffer, "WEBP", lossless=True, **options)
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0, **options)
    return buffer.getvalue()


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `encode_picture` wrote into an image file, or None where there is nothing of ours.

    Raises:
        InputError: the file is missing or not an image.
    """
    try:
        with open_picture(path) as image:
            text = getattr(image, "text", {}).get(PNG_KEY)
            if text is None:
                comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
                if isinstance(comment, bytes) and comment.startswith(b"ASCII\0\0\0{"):
                    text = comment[8:].decode("ascii", "replace")
    except Image.UnidentifiedImageError:
        raise InputError(f"cannot read {str(path)!r}: it is in no known image format") from None
    except Exception as error:
        # A damaged file raises almost anything in Pillow's format readers.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"cannot read {str(path)!r}: {reason}") from error
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and PNG_KEY in found else None
