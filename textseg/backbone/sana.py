"""Sana and Sana Sprint: a linear-attention transformer over deeply compressed latents.

Source: Xie et al. 2024, arXiv 2410.10629; Chen et al. 2025, arXiv 2503.09641, for Sprint.
"""

from __future__ import annotations

import torch

from .families import SANA, SANA_SPRINT
from .flow import ToldByTokens


class Sana(ToldByTokens):
    """Trained by flow matching. The instruction for complex scenes is left out: it stands before
    every prompt, and asks the language model to write more than the user said."""

    kind = SANA
    _longest = 300

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        out = self.unet(
            z,
            encoder_hidden_states=text,
            timestep=torch.full((len(z),), self._time(sigma), device=z.device),
            **self._scale(vector),
        ).sample
        return out[:, : z.shape[1]]

    def _time(self, sigma: float) -> float:
        config = self.scheduler.config
        return sigma * config["num_train_timesteps"] * self.unet.config["timestep_scale"]

    def _scale(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens, mask, _, _ = self.pipe.encode_prompt(prompt, False, device=self.device)
        return tokens[0][mask[0].bool()]


class SanaSprint(Sana):
    """Distilled to few steps on the sphere cos(t) x_0 + sin(t) eps, of which a flow's sigma is
    sin(t) / (cos(t) + sin(t)); the network itself predicts the flow's velocity. It is told a
    guidance scale, that of its training where nothing else is asked for."""

    kind = SANA_SPRINT
    distilled_guidance = 4.5

    def _time(self, sigma: float) -> float:
        return sigma

    def _scale(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"guidance": vector * self.unet.config["guidance_embeds_scale"]}

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens, mask = self.pipe.encode_prompt(prompt, device=self.device)
        return tokens[0][mask[0].bool()]
