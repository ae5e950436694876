"""Plain folders of images and of masks, without annotation files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.coco import check_text
from textseg.errors import InputError
from textseg.faults import Guard
from textseg.picture_files import split_pictures
from textseg.saving import utf8

from .datasets import Dataset, Example, fingerprint, read_json
from .truth import BrokenTruth, MapTruth, PictureTruth, Truth


def load_folder(
    images: Path,
    masks: Path,
    *,
    query: str | None = None,
    queries: Path | None = None,
    labels: Path | None = None,
    ignore: int | None = 255,
) -> Dataset:
    """Pair images with masks of the same name (apart from the suffix).

    Four layouts:

    - `query`: MASKS/NAME.png, black and white, all of one thing.
    - `queries`: the same, and a JSON object that gives each image's query by NAME or file name.
    - `labels`: MASKS/NAME.png are label maps, and a JSON object names their values.
    - none of them: MASKS/QUERY/NAME.png, black and white, one folder for each query.

    Args:
        images, masks: folders.
        query: what every mask shows.
        queries: JSON file of queries.
        labels: JSON file of names by pixel value.
        ignore: value of label maps that counts neither way; None for no such value.

    Raises:
        InputError: a folder or file is missing or of another form, or nothing pairs up.
    """
    for name, folder in (("images", images), ("masks", masks)):
        if not folder.is_dir():
            raise InputError(f"{name} must be a folder, got {folder}")
    if sum(option is not None for option in (query, queries, labels)) > 1:
        raise InputError("query, queries and labels exclude each other, got more than one")
    pictures = _pictures_in(images)
    content = b""
    source = {"pictures": str(images), "masks": str(masks), "query": query,
              "queries": str(queries) if queries else None,
              "labels": str(labels) if labels else None, "ignore": ignore}  # fmt: skip
    if labels is not None:
        table, content = read_json(labels, "labels")
        names = _label_names(table, labels)
        found = {stem: path for stem, path in _pictures_in(masks).items() if stem in pictures}
        spared = frozenset() if ignore is None else frozenset({ignore})
        truths: dict[str, Truth] = {}
        for stem, path in found.items():
            values = {value: value for value in names}
            size = _size(path)
            truths[stem] = BrokenTruth(size) if isinstance(size, str) else MapTruth(
                *size, str(path), values, ignored_values=spared)  # fmt: skip
        return _dataset(source, pictures, truths, names, content)
    asked: dict[str, dict[str, Path]] = {}
    if query is not None or queries is not None:
        by_name: Mapping[str, str] = {}
        if queries is not None:
            table, content = read_json(queries, "queries")
            if not isinstance(table, dict):
                raise InputError(f"queries must be a JSON object of texts, got {queries}")
            by_name = table
        for stem, path in _pictures_in(masks).items():
            if stem in pictures:
                text = query or by_name.get(stem) or by_name.get(pictures[stem].name)
                if not text:
                    raise InputError(f"queries must name every mask, got none for {stem!r}")
                asked[stem] = {check_text(text, f"queries: that of {stem!r}"): path}
    else:
        for folder in sorted(p for p in masks.iterdir() if p.is_dir()):
            for stem, path in _pictures_in(folder).items():
                if stem in pictures:
                    asked.setdefault(stem, {})[folder.name] = path
    texts = sorted({text for each in asked.values() for text in each})
    keys = {text: number for number, text in enumerate(texts, start=1)}
    truths = {}
    for stem, each in asked.items():
        size = _size(next(iter(each.values())))
        truths[stem] = BrokenTruth(size) if isinstance(size, str) else PictureTruth(
            *size, {keys[text]: str(path) for text, path in each.items()})  # fmt: skip
    return _dataset(source, pictures, truths, {k: t for t, k in keys.items()}, content)


def _dataset(
    source: Mapping[str, Any],
    pictures: Mapping[str, Path],
    truths: Mapping[str, Truth],
    names: Mapping[int, str],
    content: bytes,
) -> Dataset:
    images, masks = Path(source["pictures"]), Path(source["masks"])
    if not truths:
        raise InputError(f"masks must have the images' names, got no pair in {images} and {masks}")
    examples = [
        Example(image_id=stem, path=str(pictures[stem]), file_name=pictures[stem].name, truth=truth)
        for stem, truth in sorted(truths.items())
    ]
    files = sorted({path for t in truths.values() for path in _files(t)})
    sizes = "\n".join(f"{Path(f).relative_to(masks)} {Path(f).stat().st_size}" for f in files)
    return Dataset(
        name=images.name,
        categories=names,
        examples=examples,
        fingerprint=fingerprint([content, utf8(sizes)], (e.image_id for e in examples)),
        source=source,
    )


def _files(truth: Truth) -> list[str]:
    if isinstance(truth, PictureTruth):
        return list(truth.paths.values())
    return [truth.path] if isinstance(truth, MapTruth) else []


def _pictures_in(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in split_pictures(sorted(folder.iterdir()))[0]}


def _label_names(table: object, path: Path) -> dict[int, str]:
    if not isinstance(table, dict) or not table:
        raise InputError(f"labels must be a JSON object of names by pixel value, got {path}")
    try:
        names = {int(value): check_text(name, f"labels: {value!r} in {path}")
                 for value, name in table.items()}  # fmt: skip
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"labels must have whole numbers as keys, got {path}: {error}") from error
    names.pop(0, None)
    return names


def _size(path: Path) -> tuple[int, int] | str:
    """Height and width from a picture's header, or why it has none."""
    from PIL import Image

    with Guard(path.name) as guard, Image.open(path) as picture:
        return picture.height, picture.width
    return f"masks must be pictures, got {path}: {guard.fault.error}"
