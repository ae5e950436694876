"""What can be set about the studio."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import MAYBE_TEXT, one_of, option, validate, whole
from ..image import MAX_PIXELS
from .pictures import SAMPLES


@dataclass(frozen=True)
class StudioSettings:
    """How the studio starts.

    Attributes:
        sample: the picture of the first view, one of `SAMPLES`.
        caption_model: who writes captions; None for BLIP if it lies here, else the nouns that the
            model sees.
        max_pixels: larger uploads are refused.
    """

    sample: str = option("table", one_of(*(sample.name for sample in SAMPLES)))
    caption_model: str | None = option(None, MAYBE_TEXT)
    max_pixels: int = option(MAX_PIXELS, whole(1, 2**40))

    __post_init__ = validate
