"""Referring expressions: refer files (RefCOCO and its kin) and COCO files that hold them."""

from __future__ import annotations

import io
import pickle
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.coco import Annotation, Coco, check_text, read_json, to_coco
from textseg.errors import InputError

from .datasets import Dataset, example_of, fingerprint, readable
from .truth import ExpressionTruth

CATEGORIES = {1: "expression"}
Expression = tuple[str, tuple[Annotation, ...]]


def load_refer(
    images: Path, annotations: Path, *, refs: Path | None = None, split: str | None = None
) -> Dataset:
    """Load expressions and the regions they refer to.

    Args:
        images: folder of the pictures.
        annotations: COCO instances. Without `refs` they must hold the expressions: "expressions",
            "sentences" or "caption" in an annotation, or "caption" in an image record, which then
            refers to all of the image's annotations.
        refs: a refer file, JSON or the published pickle: a list of records with ann_id, image_id,
            split and sentences.
        split: "val", "testA" and so on; all if None.

    Raises:
        InputError: a file is missing or of another format, or no expression is left.
    """
    if not images.is_dir():
        raise InputError(f"images must be a folder, got {images}")
    data, content = read_json(annotations, "annotations")
    coco = to_coco(data, str(annotations))
    if coco.panoptic:
        raise InputError(f"annotations must be instances, got a panoptic file {annotations}")
    contents = [content]
    if refs is not None:
        expressions, raw = _referred(coco, refs, split)
        contents.append(raw)
    else:
        expressions = _collect(coco, split)
    examples = [
        example_of(image, images, readable(
            ExpressionTruth(*image.size, tuple(expressions[image.id])), image,
            {a.where: a for _, own in expressions[image.id] for a in own}.values()))
        for image in coco.by_id()
        if image.id in expressions
    ]  # fmt: skip
    if not examples:
        raise InputError(
            f"annotations must hold expressions{f' of split {split!r}' if split else ''}, "
            f"got none in {refs or annotations}"
        )
    return Dataset(
        name=(refs or annotations).stem,
        categories=CATEGORIES,
        examples=examples,
        fingerprint=fingerprint([*contents, str(split).encode()], (e.image_id for e in examples)),
        source={"pictures": str(images), "annotations": str(annotations),
                "refs": str(refs) if refs else None, "split": split},
    )  # fmt: skip


def _referred(
    coco: Coco, refs: Path, split: str | None
) -> tuple[dict[int | str, list[Expression]], bytes]:
    """Expressions of a refer file by image id, and the file's bytes."""
    by_id = {mark.id: (image.id, mark) for image in coco.images for mark in image.annotations}
    listed, raw = _read_refs(refs)
    expressions: dict[int | str, list[Expression]] = {}
    for number, ref in enumerate(listed):
        if split is not None and ref.get("split") != split:
            continue
        key = ref.get("ann_id")
        if type(key) not in (int, str) or key not in by_id:
            raise InputError(f"refs must name annotations of {coco.name}, got ann_id {key!r} in "
                             f"{refs}")  # fmt: skip
        image_id, mark = by_id[key]
        for text in sentences(ref, f"{refs}: [{number}]"):
            expressions.setdefault(image_id, []).append((text, (mark,)))
    return expressions, raw


def _collect(coco: Coco, split: str | None) -> dict[int | str, list[Expression]]:
    """Expressions that a COCO file holds, by image id: those of annotations before captions."""

    def wanted(record: Mapping[str, Any]) -> bool:
        return split is None or record.get("split", split) == split

    marks: dict[int | str, list[Mapping[str, Any]]] = {}
    for mark in coco.data["annotations"]:
        marks.setdefault(mark["image_id"], []).append(mark)
    expressions: dict[int | str, list[Expression]] = {}
    for image, record in zip(coco.images, coco.data["images"], strict=True):
        if not wanted(record):
            continue
        pairs = zip(image.annotations, marks.get(image.id, ()), strict=True)
        chosen = [(annotation, mark) for annotation, mark in pairs if wanted(mark)]
        found: list[Expression] = [
            (text, (annotation,))
            for annotation, mark in chosen
            for text in sentences(mark, annotation.where)
        ]
        if "caption" in record and chosen:
            caption = check_text(record["caption"], f"{coco.name}: caption of {image.file_name}")
            found.append((caption, tuple(annotation for annotation, _ in chosen)))
        if found:
            expressions[image.id] = found
    return expressions


def sentences(record: Mapping[str, Any], where: str) -> list[str]:
    """The expressions of a record, in any of the forms in use.

    >>> sentences({"sentences": [{"sent": "left dog"}, {"raw": "Dog!"}], "caption": "a dog"}, "")
    ['left dog', 'Dog!', 'a dog']
    """
    found = []
    for name in ("sentences", "expressions"):
        listed = record.get(name, [])
        if not isinstance(listed, list):
            raise InputError(f"{where}: {name} must be a list, got {reprlib.repr(listed)}")
        found += [e.get("sent") or e.get("raw") if isinstance(e, dict) else e for e in listed]
    if "caption" in record:
        found.append(record["caption"])
    return [check_text(text, f"{where}: an expression") for text in found]


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers, and refuses everything a pickle could run."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(f"refs must hold plain data, got a pickle that loads {module}.{name}")


def _read_refs(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    if path.suffix == ".json":
        data, raw = read_json(path, "refs")
        data = data.get("refs") if isinstance(data, dict) else data
    else:
        try:
            raw = path.read_bytes()
            data = _PlainUnpickler(io.BytesIO(raw), encoding="latin1").load()
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"refs must be a readable file, got {path}: {error.strerror}") from (
                error
            )
        except Exception as error:
            # A damaged pickle raises almost anything.
            raise InputError(f"refs must be JSON or a refer pickle, got {path}: {error}") from error
    if not isinstance(data, list) or not all(isinstance(ref, dict) for ref in data):
        raise InputError(f"refs must be a list of records, got {path}")
    return data, raw
