"""What annotations say about the pixels of one image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from textseg.coco import Annotation, union_mask
from textseg.errors import ImageError, InputError


class Truth(ABC):
    """The annotated regions of one image of size (height, width).

    A region has a key: the category id, or the number of an expression.
    """

    height: int
    width: int

    @abstractmethod
    def keys(self) -> tuple[set[int], set[int]]:
        """Keys with a countable region, and keys that are there but not to be counted (crowds)."""

    @abstractmethod
    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The region (H, W) bool, and the pixels (H, W) bool that count neither way, if any."""

    @abstractmethod
    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        """A label map (H, W) uint16: `classes` of the keys where they lie, 0 elsewhere."""


@dataclass(frozen=True)
class RegionTruth(Truth):
    """COCO instance or stuff annotations.

    A category's region is the union of its instances. Crowd regions (`iscrowd`, `ignore`) of the
    category, without the pixels of its instances, count neither way. In the label map, crowds lie
    under everything and instances of smaller area over larger ones; a picture of it, where given,
    replaces it.
    """

    height: int
    width: int
    annotations: tuple[Annotation, ...]
    label_map: MapTruth | None = None

    def keys(self) -> tuple[set[int], set[int]]:
        countable = {a.category_id for a in self.annotations if not a.crowd}
        return countable, {a.category_id for a in self.annotations} - countable

    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        mine = [a for a in self.annotations if a.category_id == key]
        crowds = [a for a in mine if a.crowd]
        inside = self._union(a for a in mine if not a.crowd)
        return inside, self._union(crowds) & ~inside if crowds else None

    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        if self.label_map is not None:
            return self.label_map.labels(classes)
        result = np.zeros((self.height, self.width), np.uint16)
        known = [a for a in self.annotations if a.category_id in classes]
        order = sorted(
            known, key=lambda a: (not a.crowd, -a.area, isinstance(a.id, str), a.id or 0)
        )
        for annotation in order:
            result[self._union([annotation])] = classes[annotation.category_id]
        return result

    def _union(self, annotations: Iterable[Annotation]) -> np.ndarray:
        return union_mask(annotations, (self.height, self.width))


@dataclass(frozen=True)
class ExpressionTruth(Truth):
    """Referring expressions: the key is the expression's number within the image.

    Attributes:
        expressions: text and annotations of each expression.
    """

    height: int
    width: int
    expressions: tuple[tuple[str, tuple[Annotation, ...]], ...]

    def keys(self) -> tuple[set[int], set[int]]:
        return set(range(len(self.expressions))), set()

    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        own = tuple(replace(a, category_id=key) for a in self.expressions[key][1])
        return RegionTruth(self.height, self.width, own).region(key)

    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        raise InputError("protocol must be present for referring expressions, got a label map")


@dataclass(frozen=True)
class MapTruth(Truth):
    """A picture whose pixel values say what lies where: panoptic ids or class labels.

    Attributes:
        path: the picture; RGB pictures are read as panoptic ids R + 256 G + 65536 B.
        keys_of_values: the key each pixel value stands for; other values are background.
        crowd_values: values that count as crowd of their key.
        ignored_values: values that count neither way, for any key.
    """

    height: int
    width: int
    path: str
    keys_of_values: Mapping[int, int]
    crowd_values: frozenset[int] = frozenset()
    ignored_values: frozenset[int] = frozenset()

    @cached_property
    def _values(self) -> np.ndarray:
        values = read_values(Path(self.path))
        if values.shape != (self.height, self.width):
            raise ImageError(
                f"{self.path} must have the image's size {self.height} x {self.width}, "
                f"got {values.shape[0]} x {values.shape[1]}"
            )
        return values

    def keys(self) -> tuple[set[int], set[int]]:
        found = {int(v) for v in np.unique(self._values)} & self.keys_of_values.keys()
        countable = {self.keys_of_values[v] for v in found - self.crowd_values}
        return countable, {self.keys_of_values[v] for v in found} - countable

    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        mine = {value for value, k in self.keys_of_values.items() if k == key}
        inside = self._where(mine - self.crowd_values)
        ignore = self._where((mine & self.crowd_values) | self.ignored_values)
        return inside, ignore if ignore.any() else None

    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        result = np.zeros((self.height, self.width), np.uint16)
        for value, key in self.keys_of_values.items():
            if key in classes:
                result[self._values == value] = classes[key]
        return result

    def _where(self, values: set[int] | frozenset[int]) -> np.ndarray:
        return np.isin(self._values, sorted(values))


@dataclass(frozen=True)
class PictureTruth(Truth):
    """One black and white mask picture per key; values above 127 (or true) are the region."""

    height: int
    width: int
    paths: Mapping[int, str]

    def keys(self) -> tuple[set[int], set[int]]:
        return set(self.paths), set()

    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self._read(self.paths[key]), None

    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        result = np.zeros((self.height, self.width), np.uint16)
        regions = [(self._read(path), classes[key]) for key, path in self.paths.items()
                   if key in classes]  # fmt: skip
        for region, label in sorted(regions, key=lambda pair: -np.count_nonzero(pair[0])):
            result[region] = label
        return result

    def _read(self, path: str) -> np.ndarray:
        values = read_values(Path(path))
        if values.shape != (self.height, self.width):
            raise ImageError(
                f"{path} must have the image's size {self.height} x {self.width}, "
                f"got {values.shape[0]} x {values.shape[1]}"
            )
        return values > (0 if values.max() == 1 else 127)


@dataclass(frozen=True)
class BrokenTruth(Truth):
    """Annotations that cannot be read: an image that fails when its turn comes.

    Attributes:
        why: the message of the ImageError that everything raises.
    """

    why: str
    height: int = 0
    width: int = 0

    def keys(self) -> tuple[set[int], set[int]]:
        raise ImageError(self.why)

    def region(self, key: int) -> tuple[np.ndarray, np.ndarray | None]:
        raise ImageError(self.why)

    def labels(self, classes: Mapping[int, int]) -> np.ndarray:
        raise ImageError(self.why)


def read_values(path: Path) -> np.ndarray:
    """A label picture as (H, W) integers; RGB as R + 256 G + 65536 B, palettes as indices."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
                picture = picture.convert("RGB")
            values = np.asarray(picture)
    except (OSError, UnidentifiedImageError) as error:
        raise ImageError(f"mask picture cannot be read: {path}: {error}") from error
    if values.ndim == 3:
        parts = values.astype(np.int64)
        return parts[..., 0] + 256 * parts[..., 1] + 65536 * parts[..., 2]
    return values.astype(np.uint8) * 255 if values.dtype == bool else values
