"""Latent consistency models: a UNet distilled to be told its guidance scale.

Source: Luo et al. 2023, arXiv 2310.04378.
"""

from __future__ import annotations

from typing import Any

import torch

from .conditions import pack, replace_last, unpack
from .latent_unet import LatentUNet


class ConsistencyUNet(LatentUNet):
    """A `LatentUNet` with guidance distilled into it; the scale is the embedding's last row.

    It still predicts noise at every timestep, so the contrast is that of `LatentUNet`, taken at the
    smallest scale it was trained on: the text's own effect, least exaggerated. Prompts that ask for
    no guidance (the empty one of an encoding) get the same scale.
    """

    family = "lcm"
    distilled_guidance = 3.0
    _unsupported = tuple(k for k in LatentUNet._unsupported if k != "time_cond_proj_dim")

    def with_guidance(self, embedding: torch.Tensor, scale: float) -> torch.Tensor:
        return replace_last(embedding, 1, scale)

    def _encode_text(self, prompt: str) -> torch.Tensor:
        sequence = super()._encode_text(prompt)
        return pack(sequence, torch.tensor([self.distilled_guidance]))

    def _conditions(self, embedding: torch.Tensor, shape: torch.Size) -> dict[str, Any]:
        sequence, guidance = unpack(embedding, 1)
        width = self.unet.config["time_cond_proj_dim"]
        return {
            "encoder_hidden_states": sequence,
            "timestep_cond": guidance_embedding(guidance[:, 0], width).to(sequence),
        }


def guidance_embedding(scale: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of 1000 (scale - 1), (N,) to (N, width) float32, width even.

    Source: `get_guidance_scale_embedding` of diffusers' pipelines.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=scale.device)
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) / (half - 1) * steps)
    angles = (scale.float() - 1)[:, None] * 1000 * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
