"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TypeVar

_P = TypeVar("_P", bound=PurePath)

# Formats that Pillow opens and cannot decode, or not without another program.
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")


def picture_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the formats that Pillow decodes as it is installed.

    >>> {".png", ".jfif", ".jp2", ".ppm"} <= picture_suffixes(), ".eps" in picture_suffixes()
    (True, False)
    """
    from PIL import Image

    return frozenset(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in _NOT_DECODED
    )


def split_pictures(paths: Iterable[_P]) -> tuple[list[_P], Counter[str]]:
    """The paths that are pictures by their suffix, in their order, and how many of each other
    suffix, in lower case, there are."""
    suffixes = picture_suffixes()
    pictures: list[_P] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        if path.suffix.lower() in suffixes:
            pictures.append(path)
        else:
            left_out[path.suffix.lower()] += 1
    return pictures, left_out


def find_files(root: Path) -> Iterator[Path]:
    """The files of a folder and those in it, in no order; hidden ones and folders are left out.

    Links to folders are followed after all else, so that a file's own place is preferred; each real
    folder is gone through once, and none that holds `root`.
    """
    barred = {str(parent) for parent in root.resolve().parents}
    seen: set[str] = set()
    waiting = [str(root)]
    while waiting:
        for folder, folders, files in os.walk(waiting.pop(0)):
            real = os.path.realpath(folder)
            names = [] if real in seen or real in barred else sorted(folders)
            paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
            waiting += [path for path in paths if os.path.islink(path)]
            folders[:] = [os.path.basename(path) for path in paths if not os.path.islink(path)]
            if real not in seen and real not in barred:
                yield from (Path(folder, name) for name in files if not name.startswith("."))
            seen.add(real)


def described(left_out: Mapping[str, int]) -> str:
    """How many files of which suffix, most first.

    >>> described({".txt": 1, "": 2, ".heic": 2})
    '5 files: 2 without suffix, 2 .heic, 1 .txt'
    """
    count = sum(left_out.values())
    each = ", ".join(
        f"{number} {suffix or 'without suffix'}"
        for suffix, number in sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    return f"{count} file{'s' * (count != 1)}: {each}"
