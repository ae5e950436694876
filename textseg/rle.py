"""Masks as COCO's run lengths, and their bounding boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InputError
from .image import MAX_PIXELS


def decode_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """Mask (H, W) bool of a COCO run-length encoding.

    Args:
        rle: {"size": [H, W], "counts": counts}, counts a string, bytes, or a list of runs as in
            crowd annotations.

    Raises:
        InputError: the runs do not add up to H * W, it is no such mapping, or has too many pixels.

    >>> decode_rle({"size": [2, 2], "counts": [1, 2, 1]})
    array([[False,  True],
           [ True, False]])
    """
    height, width, runs = check_rle(rle)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(values.reshape(width, height).T)


def check_rle(rle: Mapping[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height, width and runs (N,) of what `decode_rle` takes.

    Raises:
        InputError: as `decode_rle`.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        runs = _parse_runs(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"rle must hold size and counts: {error!r}") from error
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"rle must have a size of 1 x 1 to {MAX_PIXELS} pixels, got {height} x {width}"
        )
    if runs.ndim != 1 or runs.dtype.kind not in "iu":
        raise InputError(
            f"rle must hold a list of whole runs, got {runs.ndim}-dimensional {runs.dtype}"
        )
    # No run is longer than the image, so that the sum cannot overflow.
    if (runs < 0).any() or (runs > height * width).any() or int(runs.sum()) != height * width:
        raise InputError(
            f"rle's runs must add up to its size, got {sum(map(int, runs))} for {height} x {width}"
        )
    return height, width, runs


def _parse_runs(counts: str | bytes) -> np.ndarray:
    """Runs of a COCO counts string.

    pycocotools' own decoder leaves memory unset where the runs fall short of the size, so that
    strings from files have to be checked first.
    """
    codes = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(codes, np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    if digits.min() < 0 or digits.max() > 63:
        raise ValueError("unknown character in counts")
    ends = np.flatnonzero(digits < 32)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("counts end in the middle of a run")
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 12:
        raise ValueError("a run in counts is too long")
    shift = 5 * (np.arange(len(digits)) - np.repeat(starts, length))
    runs = np.add.reduceat((digits & 31) << shift, starts)
    runs -= (digits[ends] >> 4 & 1) << (5 * length)
    # From the fourth run on, runs are stored as the change since the last of their kind.
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's compressed RLE with text counts."""
    from pycocotools import mask as coco_mask

    rle: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def bounding_box(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] of the mask's pixels; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return [0, 0, 0, 0]
    y, x = int(rows[0]), int(columns[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
