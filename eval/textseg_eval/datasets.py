"""Data sets of COCO annotation files: instance, stuff and panoptic; sampling, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textseg.coco import Annotation, Coco, CocoImage, read_json, read_results, to_coco
from textseg.errors import InputError

from .counters import image_hash
from .truth import BrokenTruth, MapTruth, RegionTruth, Truth


@dataclass(frozen=True)
class Example:
    """One image with its truth; light, so that it travels to worker processes.

    Attributes:
        image_id: as in the annotations.
        path: where the picture lies.
        file_name: its name in the annotations.
        truth: the annotated regions; its size is the size masks are scored at.
        given: predictions for this image, where masks are given.
        tags: category ids a tagger saw here, where tags are given.
    """

    image_id: int | str
    path: str
    file_name: str
    truth: Truth
    given: tuple[Annotation, ...] = ()
    tags: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """Images with annotations.

    Attributes:
        name: for people.
        categories: names by id, in the file's order.
        examples: the images, in the order of their ids.
        fingerprint: sha256 over the annotation files and the ids of the chosen images.
        source: where it came from, JSON-able.
    """

    name: str
    categories: Mapping[int, str]
    examples: Sequence[Example]
    fingerprint: str
    source: Mapping[str, Any] = field(default_factory=dict)

    def limited(self, limit: int | None, seed: int) -> Dataset:
        """At most `limit` images, drawn by the hash of seed and image id."""
        if limit is None or limit >= len(self.examples):
            return self
        if limit < 1:
            raise InputError(f"limit must be a whole number of at least 1, got {limit}")
        chosen = sorted(self.examples, key=lambda e: image_hash("limit", seed, e.image_id))[:limit]
        return self.keeping({e.image_id for e in chosen})

    def keeping(self, image_ids: Iterable[int | str]) -> Dataset:
        """The images of these ids only."""
        kept = set(image_ids)
        examples = [e for e in self.examples if e.image_id in kept]
        digest = fingerprint([self.fingerprint.encode()], (e.image_id for e in examples))
        return replace(self, examples=examples, fingerprint=digest)


def fingerprint(contents: Iterable[bytes], image_ids: Iterable[int | str]) -> str:
    """sha256 over file contents and image ids."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    digest.update(json.dumps(list(image_ids)).encode())
    return digest.hexdigest()


def load_coco(images: Path, annotations: Path, *, maps: Path | None = None) -> Dataset:
    """Load an instance, stuff or panoptic file.

    Args:
        images: folder of the pictures.
        annotations: COCO JSON.
        maps: folder of label pictures. For panoptic files where their PNGs lie (default: the folder
            named as the file without its suffix). For instance files a folder of COCO-Stuff pixel
            maps (category id - 1, 255 for void), which then replace the polygons in label maps.

    Raises:
        InputError: a folder or file is missing, or not in COCO's format.
    """
    if not images.is_dir():
        raise InputError(f"images must be a folder, got {images}")
    data, content = read_json(annotations, "annotations")
    coco = to_coco(data, str(annotations))
    folder = maps or (annotations.with_suffix("") if coco.panoptic else None)
    if folder is not None and not folder.is_dir():
        raise InputError(f"maps must be a folder of label pictures, got {folder}")
    if folder is not None and not coco.panoptic and 0 in coco.categories:
        raise InputError("category ids must be at least 1 with maps, which hold ids less 1, got 0")
    examples = [example_of(image, images, _truth(image, coco, folder)) for image in coco.by_id()]
    return Dataset(
        name=annotations.stem,
        categories=coco.categories,
        examples=examples,
        fingerprint=fingerprint(
            [content, *([b"maps"] if folder else [])], (e.image_id for e in examples)
        ),
        source={"pictures": str(images), "annotations": str(annotations),
                "maps": str(folder) if folder else None},
    )  # fmt: skip


def example_of(image: CocoImage, folder: Path, truth: Truth) -> Example:
    """An image of a COCO file with its truth."""
    return Example(image.id, str(folder / image.file_name), image.file_name, truth)


def readable(truth: Truth, image: CocoImage, annotations: Iterable[Annotation]) -> Truth:
    """A truth of an image's annotations; where one of them cannot be read, why."""
    try:
        image.check(annotations)
    except InputError as error:
        return BrokenTruth(str(error), *image.size)
    return truth


def _truth(image: CocoImage, coco: Coco, folder: Path | None) -> Truth:
    height, width = image.size
    if not coco.panoptic:
        label_map = None
        if folder is not None:
            path = folder / Path(image.file_name).with_suffix(".png").name
            label_map = MapTruth(
                height, width, str(path), {key - 1: key for key in coco.categories}
            )
        truth = RegionTruth(height, width, image.annotations, label_map)
        return readable(truth, image, image.annotations)
    assert folder is not None
    return MapTruth(
        height,
        width,
        str(folder / (image.map_name or image.file_name)),
        {int(s.id or 0): s.category_id for s in image.annotations},
        frozenset(int(s.id or 0) for s in image.annotations if s.crowd),
        frozenset({0}),
    )


def with_given_masks(dataset: Dataset, results: Path) -> Dataset:
    """Attach predictions in COCO's results format, a JSON list of masks, to their images."""
    grouped = read_results(results, dataset.categories)
    examples = [replace(e, given=tuple(grouped.get(e.image_id, ()))) for e in dataset.examples]
    return replace(dataset, examples=examples)


def with_tags(dataset: Dataset, tags: Path) -> Dataset:
    """Attach a tagger's words: JSON, category names by image id or file name."""
    given, _ = read_json(tags, "tags")
    if not isinstance(given, dict):
        raise InputError(f"tags must be a JSON object of category names by image, got {tags}")
    ids = {name: key for key, name in dataset.categories.items()}
    examples = []
    for example in dataset.examples:
        words = given.get(str(example.image_id), given.get(example.file_name, []))
        unknown = [word for word in words if not isinstance(word, str) or word not in ids] if (
            isinstance(words, list)) else [words]  # fmt: skip
        if unknown:
            raise InputError(f"tags must be category names, got {unknown[0]!r} in {tags}")
        examples.append(replace(example, tags=tuple(ids[word] for word in words)))
    return replace(dataset, examples=examples)
