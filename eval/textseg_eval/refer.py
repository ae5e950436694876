"""Referring expressions: refer files (RefCOCO and its kin) and COCO files that hold them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textseg.errors import InputError

from .coco import Annotation, Dataset, Example, check_coco, fingerprint, read_json, slim
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
    records, marks = check_coco(data, annotations)
    contents = [content]
    expressions: dict[Any, list[Expression]] = {}
    if refs is not None:
        by_id = {mark.get("id"): mark for mark in marks}
        listed, raw = _read_refs(refs)
        contents.append(raw)
        for ref in listed:
            if split is not None and ref.get("split") != split:
                continue
            mark = by_id.get(ref.get("ann_id"))
            if mark is None:
                raise InputError(f"refs must name annotations of {annotations}, got ann_id "
                                 f"{ref.get('ann_id')!r} in {refs}")  # fmt: skip
            for text in sentences(ref):
                expressions.setdefault(mark["image_id"], []).append((text, (slim(mark),)))
    else:
        _collect(records, marks, split, expressions)
    examples = [
        Example(
            image_id=record["id"],
            path=str(images / record["file_name"]),
            file_name=record["file_name"],
            truth=ExpressionTruth(
                record["height"], record["width"], tuple(expressions[record["id"]])
            ),
        )
        for record in sorted(records, key=lambda r: r["id"])
        if record["id"] in expressions
    ]
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
        source={"images": str(images), "annotations": str(annotations),
                "refs": str(refs) if refs else None, "split": split},
    )  # fmt: skip


def _collect(
    records: list[dict[str, Any]],
    marks: list[dict[str, Any]],
    split: str | None,
    expressions: dict[Any, list[Expression]],
) -> None:
    wanted = {r["id"] for r in records if split is None or r.get("split", split) == split}
    captions = {r["id"]: r["caption"] for r in records if "caption" in r}
    own: dict[Any, list[Annotation]] = {}
    for mark in marks:
        if mark["image_id"] not in wanted or mark.get("split", split) != split:
            continue
        own.setdefault(mark["image_id"], []).append(slim(mark))
        for text in sentences(mark):
            expressions.setdefault(mark["image_id"], []).append((text, (slim(mark),)))
    for key, caption in captions.items():
        if key in own:
            expressions.setdefault(key, []).append((caption, tuple(own[key])))


def sentences(record: Mapping[str, Any]) -> list[str]:
    """The expressions of a record, in any of the forms in use.

    >>> sentences({"sentences": [{"sent": "left dog"}, {"raw": "Dog!"}], "caption": "a dog"})
    ['left dog', 'Dog!', 'a dog']
    """
    found = []
    for entry in [*record.get("sentences", ()), *record.get("expressions", ())]:
        found.append(entry if isinstance(entry, str) else entry.get("sent") or entry.get("raw"))
    if "caption" in record:
        found.append(record["caption"])
    if not all(isinstance(text, str) and text.strip() for text in found):
        raise InputError(f"expressions must be texts, got {json.dumps(record)[:120]}")
    return found


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
