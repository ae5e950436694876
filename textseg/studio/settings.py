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
        session_seconds: how long an idle visitor's work is kept.
    """

    sample: str = "farm"
    caption_model: str | None = None
    max_pixels: int = MAX_PIXELS
    session_seconds: float = 3600.0

    def __post_init__(self) -> None:
        names = [sample.name for sample in SAMPLES]
        if self.sample not in names:
            raise InputError(f"sample must be one of {', '.join(names)}, got {self.sample!r}")
        for name in ("max_pixels", "session_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise InputError(f"{name} must be a number above 0, got {value!r}")
