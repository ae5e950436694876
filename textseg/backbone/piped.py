"""Models whose text goes through several encoders: what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .families import Family
from .latent import LatentModel

if TYPE_CHECKING:
    from typing_extensions import Self


class PipedModel(LatentModel):
    """A `LatentModel` whose diffusers pipeline encodes the text.

    Each prompt is encoded alone by the pipeline's own `encode_prompt`, so that LoRAs and learned
    embeddings loaded into the pipeline take part.

    Attributes:
        pipe: the pipeline; its parts are used as they are.
    """

    kind: Family

    def __init__(
        self, pipe: Any, name: str = "pipeline", calibration: dict[str, Any] | None = None
    ) -> None:
        """
        Raises:
            ModelError: a part is missing, or the parts do not make a plain text-to-image model.
        """
        for part in (*self.kind.networks, *self.kind.tokenizers, "scheduler"):
            optional = part.replace("tokenizer", "text_encoder") in self.kind.optional
            if getattr(pipe, part, None) is None and not optional:
                raise ModelError(f"pipeline must have a {part}, got a {type(pipe).__name__}")
        self.pipe = pipe
        super().__init__(
            unet=getattr(pipe, self.kind.denoiser), vae=pipe.vae, text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer, scheduler=pipe.scheduler, name=name, calibration=calibration,
        )  # fmt: skip

    @classmethod
    def from_pipeline(
        cls, pipe: Any, name: str = "pipeline", calibration: dict[str, Any] | None = None
    ) -> Self:
        return cls(pipe, name, calibration)
