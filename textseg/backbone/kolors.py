"""Kolors: SDXL's UNet, told its text by ChatGLM3.

Source: Kolors team 2024, https://github.com/Kwai-Kolors/Kolors.
"""

from __future__ import annotations

import torch

from .families import KOLORS
from .quiet import quietly
from .sdxl import LatentUNetXL

TOKENS = 256


class Kolors(LatentUNetXL):
    """An embedding holds ChatGLM3's tokens but its last layer, (256, 4096), padding included, then
    the last token of the last layer. Also the empty prompt is encoded, as in its pipeline."""

    kind = KOLORS
    _told = LatentUNetXL._told | {"encoder_hid_dim_type"}
    _end_tokens = 0

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, _, pooled, _ = self.pipe.encode_prompt(
                prompt, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=TOKENS,
            )  # fmt: skip
        return self._pack(sequence[0].float(), pooled[0].float())

    def _text_width(self) -> int:
        return self.text_encoder.config.hidden_size

    def _pooled_width(self) -> int:
        return self._text_width()

    def _token_limit(self) -> int:
        return TOKENS
