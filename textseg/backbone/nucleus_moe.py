"""Nucleus-Image: a flow transformer of experts over packed latents, told its text by Qwen3-VL.

Source: https://github.com/huggingface/diffusers, `pipeline_nucleusmoe_image.py`.
"""

from __future__ import annotations

import torch

from .families import NUCLEUS_MOE
from .flow import ToldByTokens, for_each
from .flux import pack_cells, unpack_cells


class NucleusMoE(ToldByTokens):
    """Its network points from noise to image. A further column of a token is 0 for the padding up
    to a multiple of 8, which keeps its place. The system prompt stands before every prompt, also
    the empty one."""

    kind = NUCLEUS_MOE
    _packed = True
    _longest = 1024

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=for_each(z, sigma),
            encoder_hidden_states=text[..., :-1],
            encoder_hidden_states_mask=text[..., -1].bool(),
            img_shapes=[(1, h // 2, w // 2)] * len(z),
        ).sample
        return -unpack_cells(out, h, w)

    def _tokens(self, prompt: str) -> torch.Tensor:
        tokens, mask = self.pipe.encode_prompt(
            prompt, device=self.device, max_sequence_length=self._longest
        )
        seen = tokens.new_ones(tokens.shape[1]) if mask is None else mask[0].to(tokens)
        return torch.cat([tokens[0], seen[:, None]], 1)
