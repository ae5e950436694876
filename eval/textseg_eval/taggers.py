"""What names the classes of an image, for the protocol `predicted`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textseg.english import plural
from textseg.errors import InputError

from .datasets import Example

Tagger = Callable[[Example, np.ndarray], Iterable[int]]


@dataclass(frozen=True)
class TaggerSpec:
    """How to build a tagger; travels to worker processes.

    Attributes:
        kind: "caption" (the nouns of textseg's caption of the image) or "clip" (image and text
            similarity, a share of the softmax above `level`).
        model: name or folder of the captioner or of CLIP.
        words: names and synonyms by category id.
        level: least softmax share, for "clip".
        device: as in `textseg.load`.
    """

    kind: str
    model: str | None
    words: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    level: float = 0.05
    device: str | None = None

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {"kind": self.kind, "model": self.model, "level": self.level}


def build_tagger(spec: TaggerSpec) -> Tagger:
    """Make a tagger ready to look at images."""
    if spec.kind == "caption":
        return _captions(spec)
    if spec.kind == "clip":
        return _clip(spec)
    raise InputError(f"tagger must be caption or clip, got {spec.kind!r}")


def named_in(text: str, words: Mapping[int, tuple[str, ...]]) -> list[int]:
    """Categories whose name or synonym, singular or plural, is in a text as whole words.

    >>> named_in("Two dogs on a hot dog stand", {1: ("dog",), 2: ("hot dog",), 3: ("cat",)})
    [1, 2]
    """
    forms = {form: key for key, names in words.items() for name in names
             for form in (name.lower(), plural(name.lower()))}  # fmt: skip
    # Longer names first, so that a hot dog is no dog.
    names = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    matches = re.finditer(rf"(?<![\w-])(?:{names})(?![\w-])", text.lower())
    found = {forms[match.group()] for match in matches}
    return [key for key in words if key in found]


def _captions(spec: TaggerSpec) -> Tagger:
    from textseg.captioning import BLIP, BlipCaptioner

    captioner = BlipCaptioner.load(spec.model or BLIP, device=spec.device)
    return lambda _, image: named_in(captioner.caption(image).text, spec.words)


def _clip(spec: TaggerSpec) -> Tagger:
    import torch
    from transformers import AutoProcessor, CLIPModel

    if spec.model is None:
        raise InputError("tagger clip needs the folder of its weights, got none")
    model: Any = CLIPModel.from_pretrained(spec.model, local_files_only=True).eval()
    model = model.to(spec.device or "cpu")
    processor: Any = AutoProcessor.from_pretrained(spec.model, local_files_only=True)
    keys = list(spec.words)
    texts = [f"a photo of a {spec.words[key][0]}" for key in keys]

    def tag(_: Example, image: np.ndarray) -> list[int]:
        inputs = processor(text=texts, images=image, return_tensors="pt", padding=True)
        with torch.inference_mode():
            shares = model(**inputs.to(model.device)).logits_per_image[0].softmax(dim=0)
        return [key for key, share in zip(keys, shares.tolist(), strict=True)
                if share >= spec.level]  # fmt: skip

    return tag
