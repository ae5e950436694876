"""Lumina-Next: a flow-matching transformer over latents, told its text by Gemma.

Source: Zhuo et al. 2024, arXiv 2406.18583.
"""

from __future__ import annotations

import math

import torch

from .families import LUMINA
from .flow import ToldByTokens, for_each


class Lumina(ToldByTokens):
    """Its network is told 1 - sigma, and points from noise to image (and a variance, left out)."""

    kind = LUMINA
    _longest = 256

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

        native = self.unet.config["sample_size"]
        stretch = math.sqrt(z.shape[-2] * z.shape[-1] / native**2)
        out = self.unet(
            hidden_states=z,
            timestep=for_each(z, 1 - sigma),
            encoder_hidden_states=text,
            encoder_mask=torch.ones(text.shape[:2], device=z.device, dtype=torch.long),
            image_rotary_emb=get_2d_rotary_pos_embed_lumina(
                self.unet.head_dim, 384, 384, linear_factor=stretch, ntk_factor=1.0
            ).to(z.device),
            cross_attention_kwargs={"base_sequence_length": (native * self.factor // 16) ** 2},
        ).sample
        return -out[:, : z.shape[1]]

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens, mask, _, _ = self.pipe.encode_prompt(prompt, False, device=self.device)
        return tokens[0][mask[0].bool()]
