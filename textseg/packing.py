"""What results have in common: what they check of their arrays, and their .npz and .json files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import InputError
from .options import ContrastOptions, EditOptions, RefineOptions
from .saving import PNG_KEY

Options = TypeVar("Options", ContrastOptions, RefineOptions, EditOptions)


def area_text(mask: np.ndarray) -> str:
    """As "area 7.2 %"."""
    return f"area {mask.mean():.1%}".replace("%", " %")


def kind_of(value: object) -> str:
    """What a value is, for an error: an array's shape and dtype, or a type."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__


def check_mask(mask: object) -> None:
    """Raise InputError unless it is (H, W) bool with a pixel."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2:
        raise InputError(f"mask must be (H, W) bool, got {kind_of(mask)}")
    if not mask.size:
        raise InputError(f"mask must have at least one pixel, got {mask.shape}")


def check_size(name: str, array: np.ndarray, other: np.ndarray) -> None:
    """Raise InputError unless two arrays have the same height and width."""
    if array.shape[:2] != other.shape[:2]:
        raise InputError(f"{name} must be of size {other.shape[:2]}, got {array.shape[:2]}")


def plain(options: ContrastOptions | RefineOptions | EditOptions) -> dict[str, Any]:
    """Options as JSON has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(options).items()
    }


def parsed(kind: type[Options], fields: Mapping[str, Any]) -> Options:
    """Options from what `plain` gave."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return kind(**values)


def damaged(path: str | os.PathLike[str], error: Exception) -> InputError:
    """The error to raise on a file that holds no such result."""
    reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return InputError(f"cannot read {str(path)!r}: {reason or type(error).__name__}")


def check_kind(path: str | os.PathLike[str], record: Any, kind: str) -> dict[str, Any]:
    """The record, where it is that of a result of a kind; else InputError."""
    if not isinstance(record, dict) or PNG_KEY not in record or record.get("kind") != kind:
        raise InputError(f"cannot read {str(path)!r}: it does not hold a textseg {kind}")
    return record


def pack(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray | None]) -> bytes:
    """The bytes of an .npz file with a record and the arrays that are there."""
    buffer = io.BytesIO()
    present: dict[str, Any] = {k: array for k, array in arrays.items() if array is not None}
    np.savez_compressed(buffer, **{PNG_KEY: np.asarray(json.dumps(record))}, **present)
    return buffer.getvalue()


def unpack(
    path: str | os.PathLike[str], kind: str, data: bytes | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Record and arrays of what `pack` gave, from a file or bytes; InputError where it is none."""
    source = Path(path) if data is None else io.BytesIO(data)
    try:
        with np.load(source, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
        record = json.loads(str(arrays.pop(PNG_KEY)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    return check_kind(path, record, kind), arrays


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds; InputError where it is none."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
