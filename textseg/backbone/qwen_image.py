"""Qwen-Image: a flow-matching transformer over packed latents, told its text by Qwen2.5-VL.

Source: Wu et al. 2025, arXiv 2508.02324.
"""

from __future__ import annotations

import torch

from .families import QWEN_IMAGE
from .flow import ToldByTokens
from .flux import pack_cells, unpack_cells


class QwenImage(ToldByTokens):
    """Qwen-Image. What the template says before the prompt is left out, as in its pipeline."""

    kind = QWEN_IMAGE
    _packed = True
    _longest = 1024

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=torch.full((len(z),), sigma, device=z.device, dtype=z.dtype),
            encoder_hidden_states=text,
            img_shapes=[[(1, h // 2, w // 2)]] * len(z),
        ).sample
        return unpack_cells(out, h, w)

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, device=self.device)[0][0]
