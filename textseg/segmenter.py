"""Set an image once, query it many times."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ._version import __version__
from .backbone.base import Backbone
from .backbone.shared import lock_of, shared
from .batch_size import fitting
from .binarize import cut_value
from .clicks import correct_with
from .contrast import Measured, measure
from .cutting import Measurement, cut_with
from .errors import InputError
from .image import image_identity, load_image, resize_image
from .option_table import documented
from .options import (
    ContrastOptions,
    RefineOptions,
    field_names,
    override,
    unknown_option,
)
from .predictions import Predictions
from .prompts import pair_for
from .refine import Refiner
from .showing import size_text

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from .arguments import MeasureArguments, QueryArguments
    from .clicks import Box, Point
    from .image import ImageLike
    from .masks import Segmentation
    from .progress import Progress
    from .prompts import PromptPair

CACHE_BYTES = 2**28

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is asked of a model: queries, the prompts of each, and the options in full."""

    queries: tuple[str, ...]
    pairs: tuple[PromptPair, ...]
    contrast: ContrastOptions
    refine: RefineOptions


class Segmenter:
    """Cuts what queries name out of one image at a time.

    What is costly is done once: `set_image` encodes the image, and every noise prediction is kept
    (up to `cache_bytes`), so that a further query costs only the predictions of prompts not asked
    before. Whatever was asked before, a mask has the same bits.

    Threads: queries may come from several threads, and several segmenters may share a model; they
    run one after the other. A query is about the image that is set when it starts, so give each
    thread that sets images a segmenter of its own.

    Attributes:
        model: the `Backbone`.
        contrast, refine: the options queries start from.

    >>> segmenter = Segmenter("mini").set_image("park.jpg")         # doctest: +SKIP
    >>> segmenter.query("the dog", threshold="otsu").save("dog.png")  # doctest: +SKIP
    >>> dog, tree = segmenter.query(["the dog", "the tree"])          # doctest: +SKIP
    """

    def __init__(
        self,
        model: Backbone | str | os.PathLike[str] = "mini",
        contrast: ContrastOptions | None = None,
        refine: RefineOptions | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """
        Args:
            model: a loaded model, or what `load` takes; the model last loaded by name is kept.
            contrast, refine: the model's calibrated options if None.
            cache_bytes: most bytes of noise predictions to keep, at least 0; the last one stays.

        Raises:
            ModelError, ModelNotFoundError: the model cannot be loaded.
        """
        self.model: Backbone = shared(model)
        self.contrast: ContrastOptions = contrast or self.model.contrast_defaults
        self.refine: RefineOptions = refine or self.model.refine_defaults
        self._cache_bytes = cache_bytes
        self._scene: _Scene | None = None

    def __repr__(self) -> str:
        scene = self._scene
        shown = "no image" if scene is None else size_text(*scene.image.shape[:2])
        return f"Segmenter({self.model!r}, {shown})"

    def set_image(self, image: ImageLike, *, allow_url: bool = False) -> Segmenter:
        """Encode an image; the next queries are about it. Setting the same image again is free.

        Args:
            image: anything `load_image` takes.
            allow_url: whether `image` may be a URL to fetch.

        Raises:
            ImageError: the image cannot be read.
        """
        pixels = load_image(image, allow_url=allow_url)
        identity = image_identity(pixels)
        if self._scene is None or self._scene.predictions.identity != identity:
            latents = self._encoded(pixels)
            predictions = Predictions(self.model, latents, identity, max_bytes=self._cache_bytes)
            pixels.flags.writeable = False
            self._scene = _Scene(pixels, predictions)
        return self

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """The latents of an image, (C, h, w) float32; free for the image that is set.

        Args:
            pixels: (H, W, 3) uint8, of any size: it is brought to the model's.
        """
        scene = self._scene
        if scene is not None and scene.predictions.identity == image_identity(pixels):
            return scene.predictions.latents
        return self._encoded(pixels)

    def _encoded(self, pixels: np.ndarray) -> torch.Tensor:
        with lock_of(self.model):
            size = self.model.fit_size(pixels.shape[0], pixels.shape[1])
            return self.model.encode(resize_image(pixels, size))

    @property
    def image(self) -> np.ndarray:
        """The image that is set, (H, W, 3) uint8, read-only."""
        return self._current().image

    @property
    def evaluations(self) -> int:
        """Noisy images the UNet has been run on for the image that is set."""
        return self._current().predictions.evaluations

    @property
    def predictions(self) -> Predictions:
        """The noise predictions kept for the image that is set."""
        return self._current().predictions

    @overload
    def query(self, query: str, **arguments: Unpack[QueryArguments]) -> Segmentation: ...
    @overload
    def query(
        self, query: Sequence[str], **arguments: Unpack[QueryArguments]
    ) -> list[Segmentation]: ...
    @documented(ContrastOptions, RefineOptions)
    def query(
        self,
        query: str | Sequence[str],
        *,
        reference: str | None = None,
        caption: str | None = None,
        exclusive: bool = False,
        points: Sequence[Point] = (),
        boxes: Sequence[Box] = (),
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Segmentation | list[Segmentation]:
        """Cut out what a query names, or each of several: `measure`, then `cut`.

        Args:
            query: one query, or several; each names one thing and gives one result.
            reference: overrides the contrast option of that name.
            caption: of the image, for the reference "erase".
            exclusive: queries and background compete, so that no pixel is in two masks. Queries
                whose presence is too low do not take part.
            points, boxes: clicks (x, y, label) and boxes (left, top, right, bottom) in pixels that
                correct the mask of one query; see `correct`.
            progress: called as progress(done, total, stage), stage "contrast" or "refine".
            **overrides: fields of `ContrastOptions` and `RefineOptions`, by name.

        Returns:
            a result for one query, a list for several. The mask is empty, and a note says why,
            where the presence is below `min_presence` and where the model knows no word of the
            query's noun (`model.nouns` has what it knows; the note names the nearest).

        Raises:
            InputError: no image is set, or a bad argument.
            CancelledError: `progress` returned False.
        """
        scene = self._current()
        if (len(points) or len(boxes)) and (exclusive or not isinstance(query, str)):
            raise InputError(
                "points and boxes must go with one query that competes with none, "
                f"got query {query!r}, exclusive {exclusive}"
            )
        plan = self.plan(query, reference=reference, caption=caption, **overrides)
        measured = _measure(scene, self.model, plan, progress)
        refiner = scene.refiner(plan.refine)
        if len(points) or len(boxes):
            return correct_with(refiner, measured[0], points, boxes)
        results = cut_with(refiner, measured, exclusive=exclusive, progress=progress)
        return results[0] if isinstance(query, str) else results

    @overload
    def measure(self, query: str, **arguments: Unpack[MeasureArguments]) -> Measurement: ...
    @overload
    def measure(
        self, query: Sequence[str], **arguments: Unpack[MeasureArguments]
    ) -> list[Measurement]: ...
    @documented(ContrastOptions, RefineOptions)
    def measure(
        self,
        query: str | Sequence[str],
        *,
        reference: str | None = None,
        caption: str | None = None,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Measurement | list[Measurement]:
        """What the model finds for a query, or for each of several, to be `cut` into masks.

        Args and errors as of `query`. Options of refinement have no part in it, but for the
        threshold where `stop_risk` stops at a stable mask; `cut` starts from them.
        """
        scene = self._current()
        plan = self.plan(query, reference=reference, caption=caption, **overrides)
        measured = _measure(scene, self.model, plan, progress)
        return measured[0] if isinstance(query, str) else measured

    def plan(
        self,
        query: str | Sequence[str],
        *,
        reference: str | None = None,
        caption: str | None = None,
        **overrides: Any,
    ) -> Plan:
        """What `query` will ask of the model about the image that is set.

        Args and errors as of `query`.
        """
        scene = self._current()
        if reference is not None:
            overrides["reference"] = reference
        contrast, refine = _override(self.contrast, self.refine, overrides)
        contrast = fitting(contrast, self.model, scene.predictions.latents)
        queries = _queries(query)
        with lock_of(self.model):
            pairs = [
                pair_for(self.model, text, contrast.reference, caption=caption) for text in queries
            ]
        return Plan(tuple(queries), tuple(pairs), contrast, refine)

    def _current(self) -> _Scene:
        if self._scene is None:
            raise InputError("image must be set before a query, got none; call set_image first")
        return self._scene


@overload
def segment(
    image: ImageLike,
    query: str,
    *,
    model: Backbone | str | os.PathLike[str] = "mini",
    contrast: ContrastOptions | None = None,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    **arguments: Unpack[QueryArguments],
) -> Segmentation: ...
@overload
def segment(
    image: ImageLike,
    query: Sequence[str],
    *,
    model: Backbone | str | os.PathLike[str] = "mini",
    contrast: ContrastOptions | None = None,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    **arguments: Unpack[QueryArguments],
) -> list[Segmentation]: ...
@documented(ContrastOptions, RefineOptions)
def segment(
    image: ImageLike,
    query: str | Sequence[str],
    *,
    model: Backbone | str | os.PathLike[str] = "mini",
    contrast: ContrastOptions | None = None,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    **arguments: Any,
) -> Segmentation | list[Segmentation]:
    """Cut what a query names out of an image.

    Args:
        image: path, bytes, file object, PIL image, array or tensor; a URL with `allow_url`.
        query: what to find, as "the dog"; several give a list of results.
        model: a loaded model or its name.
        contrast, refine: whole options; the model's calibrated ones if None.
        allow_url: whether `image` may be a URL to fetch.
        **arguments: those of `Segmenter.query`, with any field of the options by name.

    Raises:
        ImageError, InputError, ModelError: each with one line on what is wrong.

    >>> segment("park.jpg", "the dog", samples=4).mask.shape  # doctest: +SKIP
    (480, 640)
    """
    segmenter = Segmenter(model, contrast, refine).set_image(image, allow_url=allow_url)
    return segmenter.query(query, **arguments)


class _Scene:
    """The image that is set, and all that was worked out about it."""

    def __init__(self, image: np.ndarray, predictions: Predictions) -> None:
        self.image, self.predictions = image, predictions
        self._refiner = Refiner(image)

    def refiner(self, options: RefineOptions) -> Refiner:
        """A refiner that holds the image's CRF for as long as the options stay the same."""
        refiner = self._refiner
        if refiner.options != options:
            refiner = self._refiner = Refiner(self.image, options)
        return refiner


def _measure(
    scene: _Scene, model: Backbone, plan: Plan, progress: Progress | None
) -> list[Measurement]:
    options, predictions = plan.contrast, scene.predictions
    with lock_of(model):
        seen = [pair for pair in plan.pairs if not pair.unknown]
        cut = partial(cut_value, options=plan.refine)
        begun, before = time.perf_counter(), predictions.evaluations
        found = iter(measure(predictions, seen, options, progress, cut=cut))
        nothing = np.zeros(predictions.latents.shape[-2:], np.float32)
        results = []
        for text, pair in zip(plan.queries, plan.pairs, strict=True):
            what = Measured(nothing, nothing, np.zeros(0), 0.0) if pair.unknown else next(found)
            notes = [*pair.notes, *([pair.unknown] if pair.unknown else [])]
            if 0 < what.draws < options.samples:
                notes.append(f"used {what.draws} of {options.samples} draws")
            results.append(
                Measurement(
                    query=text,
                    prompts=(pair.query, pair.reference),
                    contrast=what.contrast if options.measure == "contrast" else what.evidence,
                    presence=what.presence,
                    contrast_options=options,
                    refine_options=plan.refine,
                    model=model.name,
                    version=__version__,
                    notes=tuple(notes),
                )
            )
    for one in results:
        _log.info("%r: %r against %r, presence %.2f",
                  one.query, *one.prompts, one.presence)  # fmt: skip
    _log.info("measured with %d evaluations of the model in %.2f s",
              predictions.evaluations - before, time.perf_counter() - begun)  # fmt: skip
    return results


def _queries(query: object) -> list[str]:
    texts = [query] if isinstance(query, str) else query
    if not isinstance(texts, Sequence) or not texts:
        raise InputError(f"query must be a text or a list of texts, got {query!r}")
    return list(texts)


def _override(
    contrast: ContrastOptions, refine: RefineOptions, overrides: dict[str, Any]
) -> tuple[ContrastOptions, RefineOptions]:
    names = field_names(ContrastOptions)
    for name in overrides:
        if name not in names | field_names(RefineOptions):
            raise unknown_option(name, ContrastOptions, RefineOptions)
    return (
        override(contrast, {k: v for k, v in overrides.items() if k in names}),
        override(refine, {k: v for k, v in overrides.items() if k not in names}),
    )
