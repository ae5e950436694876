"""COCO annotation files: instance, stuff and panoptic; loading, checking, sampling, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textseg.errors import InputError

from .counters import image_hash
from .truth import Annotation, MapTruth, RegionTruth, Truth


@dataclass(frozen=True)
class Example:
    """One image with its truth; light, so that it travels to worker processes.

    Attributes:
        image_id: as in the annotations.
        path: where the picture lies.
        file_name: its name in the annotations.
        truth: the annotated regions; its size is the size masks are scored at.
        given: prediction records of this image in COCO's results format, where masks are given.
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


def read_json(path: Path, what: str) -> tuple[Any, bytes]:
    """A JSON file's value and bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} must be a readable file, got {path}: {error.strerror}") from error
    try:
        return json.loads(content), content
    except ValueError as error:
        raise InputError(f"{what} must be JSON, got {path}: {error}") from error


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
    records, marks = check_coco(data, annotations)
    panoptic = bool(marks) and "segments_info" in marks[0]
    folder = maps or (annotations.with_suffix("") if panoptic else None)
    if folder is not None and not folder.is_dir():
        raise InputError(f"maps must be a folder of label pictures, got {folder}")
    names = {c["id"]: c["name"] for c in data["categories"]}
    grouped: dict[Any, list[Annotation]] = {}
    for mark in marks:
        grouped.setdefault(mark["image_id"], []).append(mark)
    examples = []
    for record in sorted(records, key=lambda r: r["id"]):
        own = grouped.get(record["id"], [])
        examples.append(
            Example(
                image_id=record["id"],
                path=str(images / record["file_name"]),
                file_name=record["file_name"],
                truth=_truth(record, own, names, folder, panoptic),
            )
        )
    return Dataset(
        name=annotations.stem,
        categories=names,
        examples=examples,
        fingerprint=fingerprint(
            [content, *([b"maps"] if folder else [])], (e.image_id for e in examples)
        ),
        source={"images": str(images), "annotations": str(annotations),
                "maps": str(folder) if folder else None},
    )  # fmt: skip


def _truth(
    record: Mapping[str, Any],
    own: Sequence[Annotation],
    names: Mapping[int, str],
    folder: Path | None,
    panoptic: bool,
) -> Truth:
    height, width = record["height"], record["width"]
    if not panoptic:
        label_map = None
        if folder is not None:
            path = folder / Path(record["file_name"]).with_suffix(".png").name
            label_map = MapTruth(height, width, str(path), {key - 1: key for key in names})
        return RegionTruth(height, width, tuple(slim(a) for a in own), label_map)
    assert folder is not None
    segments = [s for mark in own for s in mark["segments_info"]]
    path = folder / own[0]["file_name"] if own else folder / record["file_name"]
    return MapTruth(
        height,
        width,
        str(path),
        {s["id"]: s["category_id"] for s in segments},
        frozenset(s["id"] for s in segments if s.get("iscrowd")),
        frozenset({0}),
    )


def slim(annotation: Annotation) -> Annotation:
    """An annotation's fields that scoring needs."""
    kept = ("id", "category_id", "segmentation", "area", "iscrowd", "ignore")
    return {name: annotation[name] for name in kept if name in annotation}


def check_coco(data: Any, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The image and annotation records of a COCO file, or an InputError that says what is wrong."""

    def refuse(what: str) -> InputError:
        return InputError(f"annotations must be in COCO's format, got {path}: {what}")

    if not isinstance(data, dict):
        raise refuse("not a JSON object")
    for section, fields in (
        ("images", ("id", "file_name", "height", "width")),
        ("annotations", ("image_id",)),
        ("categories", ("id", "name")),
    ):
        if not isinstance(data.get(section), list):
            raise refuse(f"no list {section!r}")
        for number, record in enumerate(data[section]):
            missing = [f for f in fields if not isinstance(record, dict) or f not in record]
            if missing:
                raise refuse(f"{section}[{number}] has no {missing[0]!r}")
    for section in ("images", "categories"):
        ids = [record["id"] for record in data[section]]
        if len(set(ids)) != len(ids):
            raise refuse(f"two {section} share an id")
    known, names = ({r["id"] for r in data[s]} for s in ("images", "categories"))
    for number, mark in enumerate(data["annotations"]):
        if mark["image_id"] not in known:
            raise refuse(f"annotations[{number}] is of an unknown image {mark['image_id']!r}")
        if "segments_info" in mark:
            continue
        for name in ("category_id", "segmentation"):
            if name not in mark:
                raise refuse(f"annotations[{number}] has no {name!r}")
        if mark["category_id"] not in names:
            raise refuse(f"annotations[{number}] is of an unknown category {mark['category_id']!r}")
    return data["images"], data["annotations"]


def with_given_masks(dataset: Dataset, results: Path) -> Dataset:
    """Attach predictions in COCO's results format, a JSON list of masks, to their images."""
    records, _ = read_json(results, "masks")
    if not isinstance(records, list):
        raise InputError(f"masks must be a JSON list of COCO results, got {results}")
    known = {e.image_id for e in dataset.examples}
    grouped: dict[Any, list[Annotation]] = {}
    for number, record in enumerate(records):
        missing = [f for f in ("image_id", "category_id", "segmentation") if f not in record]
        if missing:
            raise InputError(f"masks must be COCO results, got {results}: [{number}] has no "
                             f"{missing[0]!r}")  # fmt: skip
        if record["image_id"] in known:
            grouped.setdefault(record["image_id"], []).append(record)
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
        unknown = [word for word in words if word not in ids]
        if unknown:
            raise InputError(f"tags must be category names, got {unknown[0]!r} in {tags}")
        examples.append(replace(example, tags=tuple(ids[word] for word in words)))
    return replace(dataset, examples=examples)
