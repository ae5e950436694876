"""AuraFlow: a flow-matching transformer over latents, told its text by UMT5.

Source: https://github.com/huggingface/diffusers, `pipeline_aura_flow.py`.
"""

from __future__ import annotations

import torch

from .families import AURA_FLOW
from .flow import FlowTransformer, for_each
from .quiet import quietly

TOKENS = 256


class AuraFlow(FlowTransformer):
    """An embedding holds UMT5's tokens, (256, 2048), padding as zeros, which the network sees."""

    kind = AURA_FLOW
    _native_cells = 128

    def _configure(self) -> None:
        super()._configure()
        self._limit_sides(int(self.unet.config["pos_embed_max_size"] ** 0.5))

    def _cells(self) -> float:
        """As its pipeline's default of 1024 pixels: `sample_size` is half of it in diffusers."""
        return self._native_cells

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        return self.unet(
            z,
            encoder_hidden_states=embedding.to(z.dtype),
            timestep=for_each(z, sigma),
        ).sample

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            tokens = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=self.device,
                max_sequence_length=TOKENS,
            )[0]  # fmt: skip
        return tokens[0].float()

    def _token_limit(self) -> int:
        return TOKENS
