"""Set an image once, query it many times."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ._version import __version__
from .backbone.base import Backbone
from .backbone.shared import lock_of, shared
from .batch_size import fitting
from .binarize import cut_value
from .contrast import Measured, Predictions, measure
from .errors import InputError
from .image import image_identity, load_image, resize_image
from .masks import Segmentation
from .options import ContrastOptions, RefineOptions, override
from .progress import report
from .prompts import pair_for
from .refine import Refiner
from .vocabulary import unknown_note

if TYPE_CHECKING:
    import torch

    from .image import ImageLike
    from .progress import Progress

CACHE_BYTES = 2**28
_EMPTIED = "the mask is empty: presence "
_COMPETING = "; competing with "
_CONTRAST_FIELDS = frozenset(field.name for field in fields(ContrastOptions))
_REFINE_FIELDS = frozenset(field.name for field in fields(RefineOptions))


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
        self.model = shared(model)
        self.contrast = contrast or self.model.contrast_defaults
        self.refine = refine or self.model.refine_defaults
        self._cache_bytes = cache_bytes
        self._scene: _Scene | None = None

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
    def query(self, query: str, **kwargs: Any) -> Segmentation: ...
    @overload
    def query(self, query: Sequence[str], **kwargs: Any) -> list[Segmentation]: ...
    def query(
        self,
        query: str | Sequence[str],
        *,
        reference: str | None = None,
        caption: str | None = None,
        exclusive: bool = False,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Segmentation | list[Segmentation]:
        """Cut out what a query names, or each of several.

        Args:
            query: one query, or several; each names one thing and gives one result.
            reference: overrides the contrast option of that name.
            caption: of the image, for the reference "erase".
            exclusive: queries and background compete, so that no pixel is in two masks. Queries
                whose presence is too low do not take part.
            progress: called as progress(done, total, stage), stage "contrast" or "refine".
            **overrides: fields of `ContrastOptions` and `RefineOptions`, by name.

        Returns:
            a result for one query, a list for several. The mask is empty, and a note says why,
            where the presence is below `min_presence` and where the model knows no word of the
            query's noun (`model.nouns` has what it knows; the note names the nearest).

        Raises:
            InputError: no image is set, or a bad argument; CancelledError: `progress` returned
            False.
        """
        scene = self._current()
        if reference is not None:
            overrides["reference"] = reference
        contrast_options, refine_options = _override(self.contrast, self.refine, overrides)
        contrast_options = fitting(contrast_options, self.model, scene.predictions.latents)
        queries = _queries(query)
        with lock_of(self.model):
            pairs = [
                pair_for(self.model, text, contrast_options.reference, caption=caption)
                for text in queries
            ]
            unknown = [
                unknown_note(self.model, text, pair.noun)
                for text, pair in zip(queries, pairs, strict=True)
            ]
            seen = [pair for pair, note in zip(pairs, unknown, strict=True) if not note]
            cut = partial(cut_value, options=refine_options)
            found = iter(measure(scene.predictions, seen, contrast_options, progress, cut=cut))
            height, width = scene.predictions.latents.shape[-2:]
            measured = [_nothing(height, width) if note else next(found) for note in unknown]
        drafts = [
            _Draft(
                query=text,
                contrast=what.contrast if contrast_options.measure == "contrast" else what.evidence,
                presence=what.presence,
                notes=(
                    *pair.notes,
                    *([note] if note else []),
                    *(
                        [f"used {what.draws} of {contrast_options.samples} draws"]
                        * (0 < what.draws < contrast_options.samples)
                    ),
                ),
            )
            for what, pair, text, note in zip(measured, pairs, queries, unknown, strict=True)
        ]
        cuts = _cut_out(drafts, scene.refiner(refine_options), exclusive, progress)
        results = [
            Segmentation(
                mask=mask,
                score=score,
                presence=draft.presence,
                query=text,
                prompts=(pair.query, pair.reference),
                contrast_options=contrast_options,
                refine_options=refine_options,
                model=self.model.name,
                version=__version__,
                notes=notes,
                image=scene.image,
                contrast=draft.contrast,
            )
            for (mask, score, notes), draft, pair, text in zip(
                cuts, drafts, pairs, queries, strict=True
            )
        ]
        return results[0] if isinstance(query, str) else results

    def _current(self) -> _Scene:
        if self._scene is None:
            raise InputError("image must be set before a query, got none; call set_image first")
        return self._scene


@overload
def segment(image: ImageLike, query: str, **kwargs: Any) -> Segmentation: ...
@overload
def segment(image: ImageLike, query: Sequence[str], **kwargs: Any) -> list[Segmentation]: ...
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


@overload
def remask(segmentation: Segmentation, **kwargs: Any) -> Segmentation: ...
@overload
def remask(segmentation: Sequence[Segmentation], **kwargs: Any) -> list[Segmentation]: ...
def remask(
    segmentation: Segmentation | Sequence[Segmentation],
    *,
    image: ImageLike | None = None,
    exclusive: bool = False,
    refine: RefineOptions | None = None,
    allow_url: bool = False,
    progress: Progress | None = None,
    **overrides: Any,
) -> Segmentation | list[Segmentation]:
    """Threshold and refine again, from the stored contrast map and without any model.

    Args:
        segmentation: one result, or several of the same image.
        image: the image, where the results do not hold it.
        exclusive: the results compete, as in `Segmenter.query`.
        refine: options to start from; those of the (first) result if None.
        allow_url: whether `image` may be a URL to fetch.
        progress: called as progress(done, total, "refine").
        **overrides: fields of `RefineOptions`, by name.

    Raises:
        InputError: a result without its contrast map, no image, or an unknown option.
    """
    several = [segmentation] if isinstance(segmentation, Segmentation) else list(segmentation)
    if not several:
        return []
    pixels = several[0].image if image is None else load_image(image, allow_url=allow_url)
    if pixels is None:
        raise InputError("image must be given for results that do not hold it, got none")
    drafts = []
    for one in several:
        if one.contrast is None:
            raise InputError(f"segmentation must hold its contrast map, got none for {one.query!r}")
        if one.mask.shape != pixels.shape[:2]:
            raise InputError(
                f"image must have the mask's size {one.mask.shape}, got {pixels.shape[:2]}"
            )
        kept = tuple(
            note.partition(_COMPETING)[0] for note in one.notes if not note.startswith(_EMPTIED)
        )
        drafts.append(_Draft(one.query, one.contrast, one.presence, kept))
    unknown = sorted(set(overrides) - _REFINE_FIELDS)
    if unknown:
        raise InputError(_unknown_option(unknown[0], _REFINE_FIELDS))
    options = override(refine or several[0].refine_options, overrides)
    cuts = _cut_out(drafts, Refiner(pixels, options), exclusive, progress)
    results = [
        replace(one, mask=mask, score=score, notes=notes, refine_options=options, image=pixels)
        for one, (mask, score, notes) in zip(several, cuts, strict=True)
    ]
    return results[0] if isinstance(segmentation, Segmentation) else results


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


@dataclass(frozen=True)
class _Draft:
    """A result before it is cut: the map to cut, (h, w) float32, and what is known of it."""

    query: str
    contrast: np.ndarray
    presence: float
    notes: tuple[str, ...]


def _cut_out(
    drafts: Sequence[_Draft], refiner: Refiner, exclusive: bool, progress: Progress | None
) -> list[tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    """For each draft its mask (H, W) bool, score (H, W) float32 and notes."""
    least = refiner.options.min_presence
    rivals = [i for i, draft in enumerate(drafts) if draft.presence >= least]
    won: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    if exclusive and rivals:
        masks, scores = refiner.refine_exclusive(np.stack([drafts[i].contrast for i in rivals]))
        won = dict(zip(rivals, zip(masks, scores, strict=True), strict=True))
    cuts = []
    for i, draft in enumerate(drafts):
        notes = draft.notes
        mask, score = won[i] if i in won else refiner.refine(draft.contrast)
        if i in won:
            # Said in the first note, on the pairing: further ones are what the user should mind.
            others = ", ".join(repr(drafts[k].query) for k in rivals if k != i)
            first, *rest = notes or ("",)
            notes = (f"{first}{_COMPETING}{others or 'the background'}", *rest)
        if i not in rivals:
            mask = np.zeros_like(mask)
            notes = (*notes, f"{_EMPTIED}{draft.presence:.3g} is below {least:g}")
        cuts.append((mask, score, notes))
        report(progress, i + 1, len(drafts), "refine")
    return cuts


def _queries(query: object) -> list[str]:
    texts = [query] if isinstance(query, str) else query
    if not isinstance(texts, Sequence) or not texts:
        raise InputError(f"query must be a text or a list of texts, got {query!r}")
    return list(texts)


def _nothing(height: int, width: int) -> Measured:
    zeros = np.zeros((height, width), np.float32)
    return Measured(zeros, zeros, np.zeros(0), presence=0.0)


def _override(
    contrast: ContrastOptions, refine: RefineOptions, overrides: dict[str, Any]
) -> tuple[ContrastOptions, RefineOptions]:
    for name in overrides:
        if name not in _CONTRAST_FIELDS | _REFINE_FIELDS:
            raise InputError(_unknown_option(name, _CONTRAST_FIELDS | _REFINE_FIELDS))
    return (
        override(contrast, {k: v for k, v in overrides.items() if k in _CONTRAST_FIELDS}),
        override(refine, {k: v for k, v in overrides.items() if k in _REFINE_FIELDS}),
    )


def _unknown_option(name: str, allowed: frozenset[str]) -> str:
    close = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"option must be one of {', '.join(sorted(allowed))}, got {name!r}{hint}"
