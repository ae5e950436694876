"""A caption for an image: BLIP's, or the nouns a model sees.

The `erase` strategy of prompt contrast starts from a caption; this is where it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_text
from .errors import InputError, ModelError, ModelNotFoundError
from .image import image_identity, load_image, resize_image
from .progress import Progress, report

if TYPE_CHECKING:
    from .backbone.base import Backbone
    from .image import ImageLike
    from .predictions import Predictions
    from .segmenter import Segmenter

BLIP = "Salesforce/blip-image-captioning-base"
PREFIX = "a photograph of"
KEPT_BYTES = 2**30
RANKED = 10
"""Nouns that a caption's record has at least, where there are so many."""


@dataclass(frozen=True)
class Caption:
    """What an image shows, in words.

    Attributes:
        text: the caption, e.g. "a photograph of a dog and a ball".
        model: who wrote it.
        nouns: (noun, how sure) pairs, surest first, of more nouns than the text has; empty for a
            captioning model. How sure is from 0 to 1: see `rank_nouns`, and for models that do not
            tell what each cell shows `name_nouns`.
        evaluations: how often the diffusion model ran, or the part of it that names cells; 0 for a
            captioning model.
    """

    text: str
    model: str
    nouns: tuple[tuple[str, float], ...] = ()
    evaluations: int = 0

    def __str__(self) -> str:
        return self.text


class BlipCaptioner:
    """A BLIP captioning model.

    Source: Li et al. 2022, arXiv 2201.12086; prompted with "a photograph of", as the first
    segmentation by prompt contrast did.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        """Wrap a `BlipForConditionalGeneration` and its `BlipProcessor`."""
        self.model: Any = model.eval()
        self.processor: Any = processor
        self.name: str = name

    @classmethod
    def load(cls, name: str = BLIP, *, device: str | None = None) -> BlipCaptioner:
        """Load from a folder, or by name from what was downloaded before; never downloads."""
        from transformers import BlipForConditionalGeneration, BlipProcessor

        from .backbone.registry import find_model

        try:
            folder = str(find_model(name))
        except ModelNotFoundError:
            folder = name
        try:
            processor = BlipProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = BlipForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        except OSError as error:
            raise ModelNotFoundError(
                f"no captioning model {name!r} here; get it with `textseg models download {name}`, "
                "or give a folder"
            ) from error
        except (ValueError, KeyError) as error:
            raise ModelError(f"{name!r} is no BLIP captioning model: {error}") from error
        return cls(model.to(device) if device else model, processor, name)

    def caption(self, image: np.ndarray, prefix: str = PREFIX, max_new_tokens: int = 30) -> Caption:
        """(H, W, 3) uint8 to a caption that starts with `prefix`; greedy, so always the same."""
        import torch
        from PIL import Image

        inputs = self.processor(Image.fromarray(image), prefix or None, return_tensors="pt")
        with torch.no_grad():
            tokens = self.model.generate(
                **inputs.to(self.model.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
            )
        text = self.processor.decode(tokens[0], skip_special_tokens=True).strip()
        return Caption(text=" ".join(text.split()), model=self.name)


@lru_cache(maxsize=1)
def _blip(name: str) -> BlipCaptioner:
    return BlipCaptioner.load(name)


def name_nouns(
    backbone: Backbone,
    image: np.ndarray,
    nouns: Sequence[str],
    *,
    samples: int = 2,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[tuple[str, float]]:
    """Which nouns a diffusion model sees in an image: each noun's presence, highest first.

    Costs samples * (1 + Q) evaluations of the model for Q nouns at each of its calibrated noise
    levels, `batch_size` of them in one call. The pairing is the model's own if it is "absent",
    else "null".

    Args:
        image: (H, W, 3) uint8.
        nouns: bare nouns, as the model's own `Backbone.nouns`.
        samples: noise draws.

    Returns:
        (noun, presence) pairs; presence as in `Segmentation`.
    """
    from dataclasses import replace

    from .contrast import measure
    from .predictions import predict_ahead
    from .prompts import pair_for

    own = backbone.contrast_defaults
    reference = "absent" if own.reference == "absent" else "null"
    options = replace(
        own, reference=reference, samples=samples, batch_size=samples, seed=seed, stop_risk=0.0
    )
    predictions = _predictions_of(backbone, image)
    pairs = [pair_for(backbone, noun, reference) for noun in nouns]
    predict_ahead(
        [(predictions, pairs, options)],
        largest=batch_size,
        step_done=lambda done, total: report(progress, done, total, "naming"),
    )
    found = measure(predictions, pairs, options)
    scored = [(noun, one.presence) for noun, one in zip(nouns, found, strict=True)]
    return sorted(scored, key=lambda item: -item[1])


def rank_nouns(
    backbone: Backbone,
    image: np.ndarray,
    nouns: Sequence[str],
    *,
    most: int = RANKED,
    samples: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[tuple[str, float]] | None:
    """Nouns ranked against one another by what a model says that each cell of an image shows.

    Costs `samples` runs of the part of the model that names cells, whatever the number of nouns.

    Args:
        image: (H, W, 3) uint8.
        nouns: to choose from.
        most: nouns at most.
        samples: noise draws, whose chances are averaged.

    Returns:
        (noun, share) pairs, surest first, see `name_weights.rank_names`; None where the model does
        not name cells (`Backbone.name_cells`) or does not know each of the nouns.
    """
    from .name_weights import rank_names

    if not set(nouns) <= set(backbone.nouns):
        return None
    predictions = _predictions_of(backbone, image)
    t = backbone.timestep(backbone.contrast_defaults.strength[0])
    draws = []
    for draw in range(samples):
        cells = predictions.cell_names(t, seed + draw)
        if cells is None:
            return None
        draws.append(np.exp(cells[1:]))
        report(progress, draw + 1, samples, "naming")
    rows = [backbone.nouns.index(noun) for noun in nouns]
    ranked = rank_names(np.mean(draws, axis=0), most, rows)
    names = [(backbone.nouns[index], share) for index, share in ranked]
    return sorted(names, key=lambda item: -item[1])


def _predictions_of(backbone: Backbone, image: np.ndarray) -> Predictions:
    """What a model says of an image (H, W, 3) uint8, at the model's own size."""
    from .predictions import Predictions

    latents = backbone.encode(resize_image(image, backbone.fit_size(*image.shape[:2])))
    return Predictions(backbone, latents, image_identity(image), max_bytes=KEPT_BYTES)


def caption(
    image: ImageLike,
    *,
    model: Backbone | BlipCaptioner | str = "mini",
    prefix: str = PREFIX,
    nouns: Sequence[str] | None = None,
    most: int = 3,
    least_presence: float = 0.5,
    samples: int = 2,
    allow_url: bool = False,
    progress: Progress | None = None,
) -> Caption:
    """Say what an image shows.

    Args:
        image: anything `load_image` takes.
        model: a `BlipCaptioner`, or a name: "blip" for `BLIP`, any name with "blip" in it or a BLIP
            folder. Any other model names the nouns it sees.
        prefix: words the caption starts with.
        nouns: what a diffusion model chooses from; its own vocabulary if None.
        most: nouns in the caption at most.
        least_presence: nouns that the model is less sure of are left out; where all are, the image
            is said to show "something".
        samples: noise draws for the nouns.
        allow_url: whether `image` may be a URL to fetch.

    Raises:
        ModelNotFoundError: the captioning model is not on this machine.
        InputError: no nouns to choose from.
    """
    check_text("prefix", prefix)
    pixels = load_image(image, allow_url=allow_url)
    if isinstance(model, str) and is_blip(model):
        model = _blip(BLIP if model == "blip" else model)
    if isinstance(model, BlipCaptioner):
        return model.caption(pixels, prefix)
    from .backbone.shared import lock_of, shared

    model = shared(model)
    candidates = list(model.nouns if nouns is None else nouns)
    if not candidates:
        raise InputError(
            f"nouns must be given for model {model.name!r}, which brings none; "
            "or caption with the model 'blip'"
        )
    for name, value in (("samples", samples), ("most", most)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    with lock_of(model):
        scored = rank_nouns(
            model, pixels, candidates, most=max(most, RANKED), samples=samples, progress=progress
        )
        rows = samples
        if not scored:
            scored = name_nouns(model, pixels, candidates, samples=samples, progress=progress)
            rows = samples * len(model.contrast_defaults.strength) * (1 + len(candidates))
    chosen = [noun for noun, found in scored[:most] if found >= least_presence]
    return Caption(caption_of(chosen, prefix), model.name, tuple(scored), rows)


def caption_of(nouns: Sequence[str], prefix: str = PREFIX) -> str:
    """A caption from nouns; of "something" without any.

    >>> caption_of(["dog", "apple", "boat"])
    'a photograph of a dog, an apple and a boat'
    """
    from .english import with_article

    things = [with_article(noun) for noun in nouns] or ["something"]
    listed = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    return f"{prefix} {listed}".strip()


def erase_caption(
    segmenter: Segmenter,
    reference: str | None,
    given: str | None,
    *,
    captioner: Backbone | BlipCaptioner | str | None = None,
    progress: Progress | None = None,
) -> str | None:
    """The caption that a query of the image that is set needs: only "erase" needs one.

    Args:
        reference: the contrast option of that name; the segmenter's own if None.
        given: a caption, which is taken as it is.
        captioner: who writes one where none is given; the segmenter's model if None.
    """
    chosen = segmenter.contrast.reference if reference is None else reference
    if given or chosen != "erase":
        return given
    return caption(segmenter.image, model=captioner or segmenter.model, progress=progress).text


def find_captioner(model: Backbone) -> Backbone | str:
    """Who captions best of what is here: BLIP, or else a model that names nouns.

    Raises:
        InputError: neither is here.
    """
    from .backbone.registry import find_model

    try:
        find_model(BLIP)
    except ModelNotFoundError:
        if not model.nouns:
            raise InputError(
                f"captions must be typed in: {model.name} writes none and BLIP is not here "
                f"(get it with `textseg models download {BLIP}`)"
            ) from None
        return model
    return "blip"


def is_blip(name: str) -> bool:
    from pathlib import Path

    config = Path(name) / "config.json"
    if config.is_file():
        return '"blip"' in config.read_text(encoding="utf-8", errors="replace")
    return "blip" in name.lower()
