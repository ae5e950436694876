"""SDXL: a UNet told its text by two encoders, a pooled vector and the image's size.

Source: Podell et al. 2023, arXiv 2307.01952.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ModelError
from .families import SDXL
from .quiet import quietly
from .unet import UNetModel


class LatentUNetXL(UNetModel):
    """SDXL, SDXL Turbo and LCM-SDXL; the refiner is refused.

    An embedding holds the sequence of both encoders, (77, 2048), then the second's pooled vector
    and, in models distilled to take one, the guidance scale. The size conditions say that the image
    was never smaller than it is and not cropped. Where the pipeline was trained with zeros for the
    empty prompt (`force_zeros_for_empty_prompt`), it is embedded as zeros.
    """

    kind = SDXL
    _told = frozenset({"addition_embed_type", "time_cond_proj_dim"})

    def _configure(self) -> None:
        self._pooled = self._pooled_width()
        if self.unet.config.get("time_cond_proj_dim") is not None:
            self.distilled_guidance = 3.0

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, _, pooled, _ = self.pipe.encode_prompt(
                prompt, device=self.device, do_classifier_free_guidance=False
            )
        vector = pooled[0].float()
        if not prompt and self.pipe.config.get("force_zeros_for_empty_prompt"):
            sequence, vector = torch.zeros_like(sequence), torch.zeros_like(vector)
        return self._pack(sequence[0].float(), vector)

    def _conditions(self, embedding: torch.Tensor, shape: torch.Size) -> dict[str, Any]:
        conditions = super()._conditions(embedding, shape)
        sequence, pooled, _ = self._unpack(embedding)
        height, width = shape[-2] * self.factor, shape[-1] * self.factor
        sizes = sequence.new_tensor([height, width, 0, 0, height, width])
        conditions["added_cond_kwargs"] = {
            "text_embeds": pooled,
            "time_ids": sizes.expand(len(sequence), -1),
        }
        return conditions

    def _text_width(self) -> int:
        return self.text_encoder.config.hidden_size + self.pipe.text_encoder_2.config.hidden_size

    def _pooled_width(self) -> int:
        return int(self.pipe.text_encoder_2.config.projection_dim)

    def _check_parts(self) -> None:
        kind = self.unet.config.get("addition_embed_type")
        if kind != "text_time":
            raise ModelError(
                f"{self.name!r} has a UNet with addition_embed_type {kind!r} where SDXL's is "
                "'text_time'"
            )
        wanted = self.unet.config["projection_class_embeddings_input_dim"]
        given = 6 * self.unet.config["addition_time_embed_dim"]
        given += self._pooled_width()
        if wanted != given:
            raise ModelError(
                f"{self.name!r} has a UNet for size and text conditions of {wanted} numbers where "
                f"its text encoder and six sizes make {given}; the SDXL refiner is not supported"
            )
        super()._check_parts()
