"""ERNIE-Image: a flow-matching transformer over packed latents, told its text by Mistral 3.

Source: https://github.com/huggingface/diffusers, `pipeline_ernie_image.py`.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .families import ERNIE_IMAGE
from .flow import ToldByTokens, for_each


class ErnieImage(ToldByTokens):
    """The pipeline's own rewriting of prompts, by a second language model, is left out. Its batch
    norm over latents has the epsilon of training, as in the pipeline; what the published
    autoencoder's configuration says is another's."""

    kind = ERNIE_IMAGE
    _packed = True
    _longest = 512
    _norm_eps = 1e-5

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        time = sigma * self.num_train_timesteps
        out = self.unet(
            hidden_states=pixel_unshuffle(z, 2),
            timestep=for_each(z, time),
            text_bth=text,
            text_lens=torch.full((len(z),), text.shape[1], device=z.device),
            return_dict=False,
        )[0]
        return pixel_shuffle(out, 2)

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, self.device)[0]
