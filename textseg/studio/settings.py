"""What can be set about the studio."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
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

    sample: str = "table"
    caption_model: str | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        names = [sample.name for sample in SAMPLES]
        if self.sample not in names:
            raise InputError(f"sample must be one of {', '.join(names)}, got {self.sample!r}")
        count = self.max_pixels
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"max_pixels must be a whole number of at least 1, got {count!r}")
