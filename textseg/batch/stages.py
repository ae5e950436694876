"""What is done to one image, in three steps that may run in different processes.

    load     pixels from wherever the image lies
    draft    the model: a contrast map for each query
    finish   threshold, refinement and files; needs no model

A step hands a failure on instead of its result: whatever goes wrong with one image alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import MAYBE_TEXT, Rule, option, validate, whole
from ..faults import Fault, Guard
from ..formats import SUFFIXES, coco_data, write_json, write_result
from ..options import override
from .sources import Item
from .storage import Folder, read_image

if TYPE_CHECKING:
    from ..cutting import Measurement
    from ..masks import Segmentation

Record = dict[str, Any]

_FORMATS = Rule(
    f"of {', '.join(SUFFIXES)}",
    lambda v: isinstance(v, (tuple, list)) and all(one in [*SUFFIXES] for one in v),
)


@dataclass(frozen=True)
class Job:
    """What is the same for every image; travels to other processes.

    Attributes:
        output: folder or URL the results go to.
        model, device, dtype: as `load` takes them.
        contrast, refine: option fields that replace the model's own.
        exclusive: whether an image's queries compete.
        formats: of the files written for each query, keys of `SUFFIXES`; may be empty.
        caption_model: who captions images for the reference "erase"; the model itself if None.
        allow_url: whether images may be fetched from the web.
        threads: of the numerical libraries around the model; the last bits of a prediction on a
            CPU may depend on it.
    """

    output: str
    model: str = "mini"
    device: str | None = option(None, MAYBE_TEXT)
    dtype: str | None = option(None, MAYBE_TEXT)
    contrast: Mapping[str, Any] = field(default_factory=dict)
    refine: Mapping[str, Any] = field(default_factory=dict)
    exclusive: bool = False
    formats: tuple[str, ...] = option(("mask",), _FORMATS)
    caption_model: str | None = option(None, MAYBE_TEXT)
    allow_url: bool = False
    threads: int = option(1, whole(1, 4096))

    __post_init__ = validate

    def identity(self) -> dict[str, Any]:
        """What must be the same for results to belong together, JSON-able."""
        return {
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "contrast": {k: list(v) if isinstance(v, tuple) else v
                         for k, v in self.contrast.items()},
            "refine": dict(self.refine),
            "exclusive": self.exclusive,
            "formats": list(self.formats),
            "caption_model": self.caption_model,
        }  # fmt: skip

    def key(self, item: Item) -> str:
        """The name under which the journal keeps an image's record."""
        return item.key(*([item.image_id] if "coco" in self.formats else []))


@dataclass(frozen=True)
class Failure:
    """An image that cannot be done, and why."""

    item: Item
    fault: Fault


@dataclass(frozen=True, eq=False)
class Loaded:
    """An image's pixels, (H, W, 3) uint8."""

    item: Item
    pixels: np.ndarray


@dataclass(frozen=True, eq=False)
class Draft:
    """An image, (H, W, 3) uint8, with what the model found for each query."""

    item: Item
    pixels: np.ndarray
    measured: tuple[Measurement, ...]


def load(job: Job, item: Item) -> Loaded | Failure:
    """The first step."""
    with Guard(item.name) as guard:
        guard.at("decode")
        return Loaded(item, read_image(item.source, allow_url=job.allow_url))
    return Failure(item, guard.fault)


class Drafter:
    """The second step: holds the model.

    Raises:
        ModelError, ModelNotFoundError, InputError: the model cannot be loaded, or options are bad.
    """

    def __init__(self, job: Job) -> None:
        from .. import backbone
        from ..segmenter import Segmenter

        self.job = job
        model = backbone.load(job.model, device=job.device, dtype=job.dtype)
        contrast = override(model.contrast_defaults, job.contrast)
        refine = override(model.refine_defaults, job.refine)
        self._segmenter = Segmenter(model, contrast, refine)

    def draft(self, loaded: Loaded | Failure) -> Draft | Failure:
        """Contrast maps of an image's queries."""
        if isinstance(loaded, Failure):
            return loaded
        with Guard(loaded.item.name) as guard:
            guard.at("predict")
            return self._draft(loaded)
        return Failure(loaded.item, guard.fault)

    def _draft(self, loaded: Loaded) -> Draft:
        from ..captioning import erase_caption

        segmenter = self._segmenter.set_image(loaded.pixels)
        caption = erase_caption(
            segmenter, None, loaded.item.caption, captioner=self.job.caption_model
        )
        measured = segmenter.measure(loaded.item.queries, caption=caption)
        return Draft(loaded.item, loaded.pixels, tuple(measured))


class Finisher:
    """The third step: cuts the masks, writes the files and says what became of the image."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._folder = Folder(job.output)

    def finish(self, draft: Draft | Failure) -> Record:
        """The image's record: with a `Fault`'s fields, or "size" and one of "results" per query."""
        from ..cutting import cut

        item = draft.item
        head = {"image_id": self.job.key(item), "name": item.name}
        if isinstance(draft, Failure):
            return head | {"part": "failed"} | draft.fault.record()
        with Guard(item.name) as guard:
            guard.at("refine")
            results = cut(draft.measured, draft.pixels, exclusive=self.job.exclusive)
            guard.at("save")
            files = self._write(item, results)
            return head | {
                "part": "done",
                "size": list(draft.pixels.shape[:2]),
                "results": [
                    _summary(result) | {"files": names}
                    for result, names in zip(results, files, strict=True)
                ],
            }
        return head | {"part": "failed"} | guard.fault.record()

    def _write(self, item: Item, results: list[Segmentation]) -> list[dict[str, str]]:
        names: list[dict[str, str]] = [{} for _ in results]
        for kind in self.job.formats:
            if kind == "coco":
                name = f"{item.stem}.{SUFFIXES[kind]}"
                content = coco_data(results, item.source, item.image_id)
                self._put(name, lambda path, content=content: write_json(path, content))
                for each in names:
                    each[kind] = name
                continue
            for result, slug, each in zip(results, item.slugs, names, strict=True):
                each[kind] = f"{item.stem}.{slug}.{SUFFIXES[kind]}"
                self._put(
                    each[kind],
                    lambda path, result=result, kind=kind: write_result(result, path, kind),
                )
        return names

    def _put(self, name: str, write: Any) -> None:
        if self._folder.local is not None:
            write(self._folder.local_file(name))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"result.{name.rpartition('/')[2].partition('.')[2]}"
            write(path)
            self._folder.write(name, path.read_bytes())


def _summary(result: Segmentation) -> dict[str, Any]:
    record = result.to_coco()
    return {
        "presence": result.presence,
        "area": record["area"],
        "bbox": record["bbox"],
        "rle": record["segmentation"]["counts"],
        "notes": list(result.notes),
    }
