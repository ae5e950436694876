"""Lumina-Image 2: a flow-matching transformer over latents, told its text by Gemma 2.

Source: Qin et al. 2025, arXiv 2503.21758.
"""

from __future__ import annotations

import torch

from .families import LUMINA2
from .flow import ToldByTokens, for_each


class Lumina2(ToldByTokens):
    """Its network is told 1 - sigma, and points from noise to image.

    The system prompt is put before every prompt, also the empty one, so that two prompts differ in
    their own words only.
    """

    kind = LUMINA2
    _longest = 256

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        return -self.unet(
            hidden_states=z,
            timestep=for_each(z, 1 - sigma),
            encoder_hidden_states=text,
            encoder_attention_mask=torch.ones(text.shape[:2], device=z.device, dtype=torch.bool),
        ).sample

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens, mask, _, _ = self.pipe.encode_prompt(prompt, False, device=self.device)
        return tokens[0][mask[0].bool()]
