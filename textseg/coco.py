"""COCO files: the one reader, which checks what they say and draws regions when asked.

Source: the data and results formats of cocodataset.org (instance, stuff and panoptic files).
"""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from .errors import InputError
from .image import MAX_PIXELS
from .rle import check_rle, decode_rle

FARTHEST = 100
"""Polygons may leave the image by this many of its longer sides."""

LONGEST_OUTLINE = 1_000_000
"""Pixels around a polygon: pycocotools takes some 80 bytes for each."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A region and what it shows; light, so that it travels to worker processes.

    Attributes:
        id: as in the file, if it has one.
        category_id: a key of `Coco.categories`.
        crowd: whether it is a crowd (`iscrowd`), or to be ignored (`ignore`).
        area: in pixels, as the file has it; 0 where it does not say.
        segmentation: polygons or RLE as in the file, None of panoptic segments.
        score: of a result, else 1.
        where: file and place, for errors.
    """

    id: int | str | None
    category_id: int
    crowd: bool
    area: float
    segmentation: Any
    score: float
    where: str

    def check(self, size: tuple[int, int]) -> None:
        """Checks the region's numbers without drawing it; fast.

        Args:
            size: (H, W) of the image.

        Raises:
            InputError: the region cannot be read.
        """
        try:
            _check_segmentation(self.segmentation, size)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image of a COCO file.

    Attributes:
        id, file_name: as in the file.
        size: (H, W); (0, 0) where the file was read for its names only.
        annotations: in the file's order; a panoptic image's segments.
        map_name: file name of a panoptic image's label picture.
        where: file and place, for errors.
    """

    id: int | str
    file_name: str
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]
    map_name: str | None
    where: str

    def check(self, annotations: Iterable[Annotation]) -> None:
        """Checks the image's size, and some of its annotations as `Annotation.check` does."""
        try:
            _check_pixels(self.size)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        for annotation in annotations:
            annotation.check(self.size)

    def check_picture(self, path: Path, size: tuple[int, int]) -> None:
        """Raises InputError unless a picture's (H, W) is that of its record."""
        if size != self.size:
            raise InputError(
                f"{path} must have the size its annotations give, {self.size[0]} x {self.size[1]}, "
                f"got {size[0]} x {size[1]}"
            )


@dataclass(frozen=True)
class Coco:
    """What a COCO file holds, apart from the pictures.

    Attributes:
        name: the file's.
        data: the whole of it.
        categories: names by id, in the file's order.
        images: in the file's order.
        panoptic: whether its regions are segments of label pictures.
    """

    name: str
    data: Mapping[str, Any]
    categories: Mapping[int, str]
    images: Sequence[CocoImage]
    panoptic: bool

    def by_id(self) -> list[CocoImage]:
        """The images in the order of their ids, numbers before texts."""
        return sorted(self.images, key=lambda image: (isinstance(image.id, str), image.id))

    def check_regions(self) -> Coco:
        """Itself, with every region checked.

        Raises:
            InputError: one cannot be read.
        """
        for image in self.images:
            image.check(image.annotations)
        return self


def read_json(path: Path, what: str) -> tuple[Any, bytes]:
    """A JSON file's value and bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} must be a readable file, got {path}: {error.strerror}") from error
    return _parse(content, what, str(path)), content


def read_coco(path: Path) -> Coco:
    """A COCO file whose regions are wanted.

    Raises:
        InputError: it cannot be read, or is not in COCO's format.
    """
    return to_coco(read_json(path, "annotations")[0], str(path))


def parse_names(content: str | bytes, name: str) -> Coco:
    """A COCO file of which only the names of what is where are wanted: sizes, regions, all
    annotations may be missing; sizes and regions are not looked at."""
    return to_coco(_parse(content, "annotations", name), name, regions=False)


def _parse(content: str | bytes, what: str, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} must be JSON, got {name}: {error}") from error


def to_coco(data: Any, name: str, *, regions: bool = True) -> Coco:
    """A COCO file's JSON value, checked but for the numbers of its regions.

    Raises:
        InputError: it is not in COCO's format.
    """
    start = f"annotations must be in COCO's format, got {name}"
    if not isinstance(data, dict):
        raise InputError(f"{start}: not a JSON object")
    if not regions:
        data = {"annotations": [], "categories": []} | data
    for section in ("images", "annotations", "categories"):
        if not isinstance(data.get(section), list):
            raise InputError(f"{start}: no list {section!r}")
    categories: dict[int, str] = {}
    for number, record in enumerate(data["categories"]):
        category = _Record(record, name, f"categories[{number}]")
        key = category.whole("id")
        if key in categories:
            raise InputError(f"{start}: two categories share an id, {key}")
        categories[key] = category.text("name")
    images: dict[int | str, _Record] = {}
    for number, record in enumerate(data["images"]):
        image = _Record(record, name, f"images[{number}]")
        key = image.identity("id")
        if key in images:
            raise InputError(f"{start}: two images share an id, {key!r}")
        images[key] = image
    panoptic = any(isinstance(m, dict) and "segments_info" in m for m in data["annotations"])
    found: dict[int | str, list[Annotation]] = {key: [] for key in images}
    maps: dict[int | str, str] = {}
    seen: set[int | str] = set()
    for number, record in enumerate(data["annotations"]):
        mark = _Record(record, name, f"annotations[{number}]")
        if mark.has("id") and not panoptic:
            key = mark.identity("id")
            if key in seen:
                raise InputError(f"{start}: two annotations share an id, {key!r}")
            seen.add(key)
        image_id = mark.identity("image_id")
        if image_id not in images:
            raise mark.error("image_id must be an image's", image_id, "unknown image")
        if panoptic:
            if image_id in maps:
                raise mark.error("image_id must be of no other annotation", image_id)
            maps[image_id] = mark.file_name() if regions else ""
            for segment in mark.records("segments_info"):
                if segment.whole("id") in (other.id for other in found[image_id]):
                    raise segment.error("id must be of no other segment", segment["id"])
                found[image_id].append(segment.annotation(categories))
        else:
            if regions:
                mark["segmentation"]
            found[image_id].append(mark.annotation(categories))
    return Coco(
        name,
        data,
        categories,
        [
            CocoImage(
                key,
                image.file_name(),
                image.size() if regions else (0, 0),
                tuple(found[key]),
                maps.get(key),
                image.where,
            )
            for key, image in images.items()
        ],
        panoptic,
    )


def read_results(path: Path, categories: Mapping[int, str]) -> dict[int | str, list[Annotation]]:
    """Regions in COCO's results format, a JSON list, by image id.

    Raises:
        InputError: it cannot be read or is not in that format.
    """
    records, _ = read_json(path, "results")
    if not isinstance(records, list):
        raise InputError(f"results must be a JSON list of COCO results, got {path}")
    found: dict[int | str, list[Annotation]] = {}
    for number, record in enumerate(records):
        result = _Record(record, str(path), f"[{number}]")
        result["segmentation"]
        annotation = result.annotation(categories)
        found.setdefault(result.identity("image_id"), []).append(annotation)
    return found


def union_mask(annotations: Iterable[Annotation], size: tuple[int, int]) -> np.ndarray:
    """The pixels, (H, W) bool, of annotations of an image of size (H, W).

    Raises:
        InputError: a region cannot be read.
    """
    from pycocotools import mask as coco_mask

    polygons: list[list[float]] = []
    codes: list[Mapping[str, Any]] = []
    for annotation in annotations:
        annotation.check(size)
        if isinstance(annotation.segmentation, list):
            polygons += annotation.segmentation
        else:
            codes.append(annotation.segmentation)
    if polygons:
        drawn: Any = coco_mask.frPyObjects(polygons, *size)  # pyright: ignore
        codes.append(coco_mask.merge(drawn))
    inside = np.zeros(size, bool)
    for code in codes:
        inside |= decode_rle(code)
    return inside


def noun_masks(
    annotations: Iterable[Annotation], names: Mapping[int, str], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """The union of an image's annotations by noun, (H, W) bool each, in the order of the first.

    Args:
        annotations: the image's.
        names: noun by category id.
        size: (H, W) of the image.
    """
    grouped: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        grouped.setdefault(names[annotation.category_id], []).append(annotation)
    return {noun: union_mask(found, size) for noun, found in grouped.items()}


def check_text(value: Any, what: str) -> str:
    """A text that says something and can be encoded.

    Raises:
        InputError: it is none, in the words "WHAT must be a text, got VALUE".
    """
    if not isinstance(value, str) or not value.strip() or not _encodable(value):
        raise InputError(f"{what} must be a text, got {reprlib.repr(value)}")
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Record:
    """A JSON object of a COCO file, whose fields are checked as they are taken."""

    def __init__(self, record: Any, name: str, place: str) -> None:
        self._name, self._place = name, place
        self._fields: Mapping[str, Any] = {}
        if not isinstance(record, dict):
            raise self.error("must be an object", record)
        self._fields = record

    @property
    def where(self) -> str:
        """File, place and id."""
        key = self._fields.get("id")
        told = f" (id {reprlib.repr(key)})" if "id" in self._fields else ""
        return f"{self._name}: {self._place}{told}"

    def error(self, rule: str, value: Any, what: str = "") -> InputError:
        return InputError(
            f"{self.where}: {rule}, got {what}{' ' * bool(what)}{reprlib.repr(value)}"
        )

    def has(self, key: str) -> bool:
        return key in self._fields

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise InputError(f"{self.where} has no {key!r}")
        return self._fields[key]

    def whole(self, key: str, least: int = 0) -> int:
        value = self[key]
        if not _is_whole(value) or value < least:
            raise self.error(f"{key} must be a whole number of at least {least}", value)
        return value

    def identity(self, key: str) -> int | str:
        value = self[key]
        if _is_whole(value) or (isinstance(value, str) and value and _encodable(value)):
            return value
        raise self.error(f"{key} must be a whole number of at least 0 or a text", value)

    def text(self, key: str) -> str:
        return check_text(self[key], f"{self.where}: {key}")

    def file_name(self) -> str:
        value = self["file_name"]
        try:
            # Names that are not UTF-8 come as lone surrogates.
            if value and b"\0" not in os.fsencode(value):
                return value
        except (TypeError, ValueError):
            pass
        raise self.error("file_name must be a file's name", value)

    def size(self) -> tuple[int, int]:
        return self.whole("height", 1), self.whole("width", 1)

    def flag(self, key: str) -> bool:
        value = self._fields.get(key, 0)
        if not isinstance(value, (int, float)) or value not in (0, 1):
            raise self.error(f"{key} must be 0 or 1", value)
        return bool(value)

    def number(self, key: str, default: float) -> float:
        value = self._fields.get(key, default)
        if type(value) not in (int, float) or not -1e18 < value < 1e18:
            raise self.error(f"{key} must be a number", value)
        return float(value)

    def records(self, key: str) -> list[_Record]:
        value = self[key]
        if not isinstance(value, list):
            raise self.error(f"{key} must be a list", value)
        place = f"{self._place}.{key}"
        return [_Record(each, self._name, f"{place}[{n}]") for n, each in enumerate(value)]

    def annotation(self, categories: Mapping[int, str]) -> Annotation:
        category = self.whole("category_id")
        if category not in categories:
            raise self.error("category must be one of the file's", category, "unknown category")
        return Annotation(
            id=self.identity("id") if self.has("id") else None,
            category_id=category,
            crowd=self.flag("iscrowd") | self.flag("ignore"),
            area=self.number("area", 0.0),
            segmentation=self._fields.get("segmentation"),
            score=self.number("score", 1.0),
            where=self.where,
        )


def _is_whole(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _check_pixels(size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"image must have at most {MAX_PIXELS} pixels, got {size[0]} x {size[1]}")


def _check_segmentation(shape: Any, size: tuple[int, int]) -> None:
    _check_pixels(size)
    height, width = size
    if isinstance(shape, dict):
        if shape.get("size") not in ([height, width], (height, width)):
            raise InputError(
                f"segmentation must have the image's size {[height, width]}, "
                f"got {reprlib.repr(shape.get('size'))}"
            )
        check_rle(shape)
        return
    if not isinstance(shape, list) or not shape or not all(isinstance(p, list) for p in shape):
        raise InputError(
            "segmentation must be a list of polygons [[x, y, x, y, x, y, ...], ...] or an RLE "
            f"{{size, counts}}, got {reprlib.repr(shape)}"
        )
    for polygon in shape:
        _check_polygon(polygon, size)


def _check_polygon(polygon: list[Any], size: tuple[int, int]) -> None:
    if len(polygon) < 6 or len(polygon) % 2:
        raise InputError(
            "segmentation's polygons must be an x and a y of each of three points or more, got "
            f"{len(polygon)} values: {reprlib.repr(polygon)}"
        )
    if not {*map(type, polygon)} <= {int, float}:
        wrong = next(value for value in polygon if type(value) not in (int, float))
        raise InputError(f"segmentation's coordinates must be numbers, got {reprlib.repr(wrong)}")
    farthest = min(FARTHEST * max(size), 1 << 27)
    # Python compares whole numbers of any size; NaN lies within nothing.
    if not all(-farthest <= value <= farthest for value in polygon):
        wrong = next(value for value in polygon if not -farthest <= value <= farthest)
        raise InputError(
            f"segmentation's coordinates must lie from {-farthest} to {farthest} in an image of "
            f"{size[0]} x {size[1]}, got {reprlib.repr(wrong)}"
        )
    if len(polygon) * (max(polygon) - min(polygon)) > LONGEST_OUTLINE:
        points = np.array(polygon, float).reshape(-1, 2)
        steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
        if steps.sum() > LONGEST_OUTLINE:
            raise InputError(
                f"segmentation's polygons must be at most {LONGEST_OUTLINE} pixels around, "
                f"got {steps.sum():.0f}"
            )
