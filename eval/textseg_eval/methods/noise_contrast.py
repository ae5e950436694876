"""textseg itself, as one of the compared methods."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.cutting import cut
from textseg.errors import InputError
from textseg.options import ContrastOptions, RefineOptions, override

from .base import Answer, Method, MethodSpec, Query
from .models import backbone_of

if TYPE_CHECKING:
    from textseg.backbone import Backbone
    from textseg.segmenter import Segmenter

    from ..datasets import Example

CACHE_BYTES = 2**30
CONTRAST_FIELDS = tuple(field.name for field in fields(ContrastOptions))
REFINE_FIELDS = tuple(field.name for field in fields(RefineOptions))


class NoiseContrast(Method):
    """`Segmenter.query` with every field of its options.

    Options: any field of `ContrastOptions` and `RefineOptions`; `exclusive`, queries compete;
    `weigh`, scores are multiplied by the presence; `captions`, a file of captions for the
    reference "erase" (COCO captions, or JSON text by image id or file name).

    A query whose presence is below `min_presence` has score 0 everywhere, as it has no mask.
    """

    def __init__(self, spec: MethodSpec) -> None:
        self.name = spec.method
        options = dict(spec.options)
        self.exclusive = bool(options.pop("exclusive", False))
        self.weigh = bool(options.pop("weigh", False))
        captions = options.pop("captions", None)
        self.captions = read_captions(Path(captions)) if captions else {}
        unknown = [name for name in options if name not in CONTRAST_FIELDS + REFINE_FIELDS]
        if unknown:
            raise InputError(
                f"option of {spec.method} must be a contrast or refine option, exclusive, weigh "
                f"or captions, got {unknown[0]!r}"
            )
        # Refused before a model is loaded.
        ContrastOptions(**{k: v for k, v in options.items() if k in CONTRAST_FIELDS})
        override(RefineOptions(), {k: v for k, v in options.items() if k in REFINE_FIELDS})
        self.options = options
        self.segmenter = _segmenter(backbone_of(spec))

    def about(self, example: Example, image: np.ndarray | None, queries: Sequence[Query]) -> Answer:
        self._caption = self.captions.get(str(example.image_id)) or self.captions.get(
            example.file_name
        )
        return super().about(example, image, queries)

    def __call__(self, image: np.ndarray, queries: Sequence[str]) -> Answer:
        segmenter = self.segmenter.set_image(image)
        caption = getattr(self, "_caption", None)
        measured = segmenter.measure(list(queries), caption=caption, **self.options)
        presence = np.array([one.presence for one in measured])
        scores = np.zeros((len(queries), *image.shape[:2]), np.float32)
        masks = np.zeros(scores.shape, bool)
        # What is absent needs no refined mask.
        least = measured[0].refine_options.min_presence if measured else 0.0
        asked = [row for row, one in enumerate(measured) if one.presence >= least]
        results = cut([measured[row] for row in asked], image, exclusive=self.exclusive)
        for row, result in zip(asked, results, strict=True):
            masks[row] = result.mask
            scores[row] = result.score * (result.presence if self.weigh else 1.0)
        return Answer(scores, masks, presence)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "options": self.options}


@lru_cache(maxsize=1)
def _segmenter(backbone: Backbone) -> Segmenter:
    """One segmenter for all variants of a worker: they share an image's predictions."""
    from textseg.segmenter import Segmenter

    return Segmenter(backbone, cache_bytes=CACHE_BYTES)


def read_captions(path: Path) -> Mapping[str, str]:
    """The first caption of each image, by image id and file name."""
    from ..datasets import read_json

    data, _ = read_json(path, "captions")
    if not isinstance(data, dict):
        raise InputError(f"captions must be COCO captions or JSON text by image, got {path}")
    if "annotations" not in data:
        return {str(key): str(text) for key, text in data.items()}
    found: dict[str, str] = {}
    for mark in data["annotations"]:
        if "caption" not in mark:
            raise InputError(f"captions must have a 'caption' each, got {json.dumps(mark)[:80]}")
        found.setdefault(str(mark["image_id"]), mark["caption"])
    return found
