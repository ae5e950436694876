"""Any image a user has becomes one array: RGB, uint8, (H, W, 3)."""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard, Union

import numpy as np
from PIL import Image

from .bit_depth import declared_maximum, is_deep_colour, read_deep_colour, to_8_bits
from .errors import ImageError
from .png_texts import without_long_texts

if TYPE_CHECKING:
    import torch

ImageLike: TypeAlias = Union[
    str, "os.PathLike[str]", bytes, BinaryIO, Image.Image, np.ndarray, "torch.Tensor"
]

MAX_PIXELS = 64_000_000
"""Images of more pixels than this are refused before they are decoded."""

MAX_FILE_BYTES = 512 * 2**20
"""Encoded images longer than this are refused."""

_EXIF_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats whose decoding starts another program or needs one.
_NOT_RASTER = ("EPS", "WMF")


def load_image(
    source: ImageLike,
    *,
    allow_url: bool = False,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
) -> np.ndarray:
    """Reads an image from whatever holds it.

    EXIF orientation is applied, transparency is composited on white, colour profiles are ignored.
    Grey becomes three equal channels. 16-bit values keep the highest 8 of the bits in use: those a
    TIFF says it has, else the fewest of 8, 10, 12, 14 and 16 that hold the largest value.

    Args:
        source: one of

            - a path (str or path-like), encoded bytes, or a binary file object, read to its end;
              of an animation the first frame. Formats: all raster formats of Pillow.
            - an http(s) URL, if `allow_url`; never to a private, loopback or link-local address.
            - a PIL image of any mode, at its current frame.
            - an array (H, W), (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB or
              (H, W, 4) RGBA; bool, uint8, uint16, or float in [0, 1].
            - a torch tensor of the same dtypes: (H, W), or (C, H, W) if its first size is 1 to 4,
              else (H, W, C).
        allow_url: whether a URL may be fetched.
        max_pixels: largest H * W accepted, checked before decoding.
        upright: whether the EXIF orientation is applied to encoded and PIL images.

    Returns:
        (H, W, 3) uint8, a copy that shares no memory with the source.

    Warns:
        ImageWarning: values were taken for fewer than 16 bits although nothing but their size says
            so; a 16-bit picture that dark comes out brighter than it is.

    Raises:
        ImageError: the source is missing, damaged (truncated files too), too large, of another
            type or shape, or holds values out of range.

    >>> load_image(np.array([[0.0, 1.0]]))
    array([[[  0,   0,   0],
            [255, 255, 255]]], dtype=uint8)
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, "image", max_pixels, upright)
    if _is_tensor(source):
        return _from_tensor(source, max_pixels)
    if is_url(source):
        data = fetch_image(source, allow_url=allow_url)
        return _decode(io.BytesIO(data), _short(source), max_pixels, upright)
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_pixels, upright)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), f"{len(source)} bytes", max_pixels, upright)
    if hasattr(source, "read"):
        return _from_file_object(source, max_pixels, upright)
    raise ImageError(
        "image must be a path, URL, bytes, binary file object, PIL image, array or tensor, "
        f"got {type(source).__name__}"
    )


def is_url(source: object) -> TypeGuard[str]:
    """Whether a source is the http(s) URL of an image."""
    return isinstance(source, str) and bool(re.match(r"https?://", source, re.IGNORECASE))


def fetch_image(source: str, *, allow_url: bool) -> bytes:
    """The file at a URL.

    Raises:
        ImageError: `allow_url` is False, or the URL cannot be fetched.
    """
    if not allow_url:
        raise ImageError(
            f"image is a URL, which is fetched only with allow_url=True, got {_short(source)}"
        )
    from .fetching import fetch

    return fetch(source)


def image_identity(image: np.ndarray) -> str:
    """Hex SHA-256 of an image's size and pixels, (H, W, 3) uint8: the same image, the same noise.

    >>> image_identity(np.zeros((1, 2, 3), np.uint8))[:8]
    'a2f77e1b'
    """
    check_rgb(image)
    digest = hashlib.sha256(np.asarray(image.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resamples (H, W, 3) uint8 to `size` (height, width) with an antialiased Lanczos filter.

    To a twelfth or less, whole blocks of pixels are averaged first, which is faster.
    """
    check_rgb(image)
    height, width = size
    if height < 1 or width < 1:
        raise ImageError(f"size must be a height and width of at least 1, got {size!r}")
    if image.shape[:2] == (height, width):
        return image.copy()
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.LANCZOS, reducing_gap=6.0
    )
    return np.array(resized)


def check_rgb(image: np.ndarray, name: str = "image") -> None:
    """Raises ImageError unless `image` is (H, W, 3) uint8 with H and W of at least 1."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"{name} must be an array (H, W, 3) uint8, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f"{name} must be an array (H, W, 3) uint8, got {image.shape} {image.dtype}"
        )


def _is_tensor(source: object) -> TypeGuard[torch.Tensor]:
    """Answers without importing torch: who holds a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _short(source: object) -> str:
    text = repr(os.fspath(source) if isinstance(source, os.PathLike) else source)
    return text if len(text) <= 200 else f"{text[:150]}...{text[-40:]}"


def _check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{name} must have at most {max_pixels} pixels, got {width} x {height} "
            f"= {width * height}"
        )


def _from_path(source: str | os.PathLike[str], max_pixels: int, upright: bool) -> np.ndarray:
    name = _short(source)
    if not os.fspath(source):
        raise ImageError("image must be a path, got ''")
    try:
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"image must be a file, got the folder {name}")
        with path.open("rb") as file:
            if not file.seekable():
                return _from_file_object(file, max_pixels, upright, name)
            return _decode(file, name, max_pixels, upright)
    except FileNotFoundError:
        raise ImageError(f"image must be an existing file, got {name}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"image cannot be opened: {reason}: {name}") from error


def _from_file_object(
    file: Any, max_pixels: int, upright: bool, name: str = "the file object"
) -> np.ndarray:
    try:
        data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImageError(f"image cannot be read from {name}: {error}") from error
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError(
            f"image must be a file object opened in binary mode, got one that reads "
            f"{type(data).__name__}"
        )
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"image must be at most {MAX_FILE_BYTES} bytes long, got more from {name}")
    return _decode(io.BytesIO(data), name, max_pixels, upright)


def _decode(file: BinaryIO, name: str, max_pixels: int, upright: bool) -> np.ndarray:
    if not file.read(1):
        where = "" if name == "0 bytes" else f": {name}"
        raise ImageError(f"image is empty (0 bytes){where}")
    file.seek(0)
    file = without_long_texts(file)
    try:
        image = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow looks at the header's size before it returns, and says it in its message only.
        found = re.search(r"\((\d+) pixels\)", str(error))
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        count = found.group(1) if found else "more"
        raise ImageError(f"image must have at most {limit} pixels, got {count}: {name}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"image is in no known format, or its header is damaged: {name}") from None
    except Exception as error:
        # A damaged header raises almost anything in Pillow's format readers.
        raise ImageError(f"image cannot be decoded: {_reason(error)}: {name}") from error
    with image:
        return _from_pil(image, name, max_pixels, upright, file)


def _reason(error: Exception) -> str:
    line = " ".join(str(error).split())
    return line or type(error).__name__


def _from_pil(
    image: Image.Image, name: str, max_pixels: int, upright: bool, file: BinaryIO | None = None
) -> np.ndarray:
    _check_pixels(image.width, image.height, max_pixels, "image")
    if image.width < 1 or image.height < 1:
        raise ImageError(
            f"image must be at least 1 x 1 pixels, got {image.width} x {image.height}: {name}"
        )
    if image.format in _NOT_RASTER:
        raise ImageError(f"image must be a raster image, got {image.format}: {name}")
    try:
        deep = file is not None and is_deep_colour(image)
        image.load()
        pixels = _dark_pixels(image, file, name) if deep and file is not None else None
        if pixels is None:
            pixels = _pil_to_rgb(image, name)
        return _turned(pixels, image) if upright else pixels
    except ImageError:
        raise
    except Exception as error:
        # Damaged data raises OSError, SyntaxError, struct.error, ValueError, EOFError and others.
        raise ImageError(f"image cannot be decoded: {_reason(error)}: {name}") from error


def _turned(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """The pixels of an image as its EXIF orientation has them."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        # Broken metadata says nothing about the orientation; the pixels are sound.
        return pixels
    if orientation in _TRANSPOSE:
        return np.array(Image.fromarray(pixels).transpose(_TRANSPOSE[orientation]))
    return pixels


def _dark_pixels(image: Image.Image, file: BinaryIO, name: str) -> np.ndarray | None:
    """RGB of a file of 16-bit colours of which Pillow's high bytes show next to nothing."""
    extrema: Any = image.getextrema()
    colours = extrema[:-1] if image.mode.endswith("A") else extrema
    if max(high for _, high in colours) >= 64:
        return None
    values = read_deep_colour(file)
    return (
        None if values is None else _from_array(values, sys.maxsize, name, declared_maximum(image))
    )


def _pil_to_rgb(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        # "I" is Pillow's mode for 16-bit grey in some formats, and for 32-bit integers.
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"image of 32-bit integers must hold values from 0 to 65535, got {low} to {high}"
            )
        declared = 255 if image.mode == "I" and high < 256 else declared_maximum(image)
        return _from_array(values.astype(np.uint16), sys.maxsize, name, declared)
    if image.mode == "F":
        return _from_array(np.asarray(image), sys.maxsize, name)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        if image.mode == "La":
            image = image.convert("LA")
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _from_tensor(tensor: torch.Tensor, max_pixels: int) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        raise ImageError(f"image tensor must be dense, got {tensor.layout}")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.ndim == 3 and 1 <= tensor.shape[0] <= 4:
        tensor = tensor.permute(1, 2, 0)
    elif tensor.ndim not in (2, 3) or (tensor.ndim == 3 and not 1 <= tensor.shape[2] <= 4):
        raise ImageError(
            "image tensor must be (H, W), (C, H, W) or (H, W, C) with C from 1 to 4, "
            f"got {tuple(tensor.shape)}"
        )
    try:
        array = tensor.cpu().numpy()
    except (TypeError, RuntimeError) as error:
        raise ImageError(
            f"image tensor must be bool, uint8, uint16 or float, got {tensor.dtype}"
        ) from error
    return _from_array(array, max_pixels)


def _from_array(
    array: np.ndarray, max_pixels: int, name: str = "image array", declared: int | None = None
) -> np.ndarray:
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4):
        raise ImageError(
            "image array must be (H, W) or (H, W, C) with C from 1 to 4, channels last, "
            f"got {array.shape}"
        )
    if 0 in array.shape:
        raise ImageError(f"image array must not be empty, got {array.shape}")
    _check_pixels(array.shape[1], array.shape[0], max_pixels, "image array")
    values = _to_uint8(array, name, declared)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] in (1, 2):
        values = np.concatenate([np.repeat(values[..., :1], 3, axis=2), values[..., 1:]], axis=2)
    if values.shape[2] == 4:
        return _on_white(values)
    return np.array(values, order="C")


def _to_uint8(array: np.ndarray, name: str, declared: int | None) -> np.ndarray:
    kind, itemsize = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and itemsize == 1:
        return array
    if kind == "u" and itemsize == 2:
        return to_8_bits(array, name, declared)
    if kind == "f":
        if not np.isfinite(array).all():
            raise ImageError("image array must be finite, got NaN or infinity")
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 1:
            raise ImageError(
                f"image array of floats must lie in [0, 1], got {low:.6g} to {high:.6g}"
            )
        return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    raise ImageError(f"image array must be bool, uint8, uint16 or float, got {array.dtype}")
