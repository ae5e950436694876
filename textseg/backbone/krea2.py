"""Krea 2: a single-stream flow transformer over packed latents, told its text by Qwen3-VL.

Source: https://github.com/huggingface/diffusers, `pipeline_krea2.py`.
"""

from __future__ import annotations

from typing import Any

import torch

from .families import KREA2
from .flow import ToldByTokens, for_each
from .flux import pack_cells, position_ids, unpack_cells

TEMPLATE_END = 5
"""Tokens of the template after the prompt, which the network is told of."""


class Krea2(ToldByTokens):
    """Krea 2, and the checkpoint distilled to few steps, which its folder tells apart.

    A token of an embedding holds the states of several layers of the language model side by side.
    """

    kind = KREA2
    _packed = True
    _longest = 512

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        ids = torch.cat([torch.zeros(text.shape[1], 3), position_ids(h // 2, w // 2)])
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=for_each(z, sigma),
            encoder_hidden_states=text.unflatten(2, (self.unet.config["num_text_layers"], -1)),
            position_ids=ids.to(z.device),
        ).sample
        return unpack_cells(out, h, w)

    def _tokens(self, prompt: str) -> torch.Tensor:
        layers, mask = self.pipe.encode_prompt(prompt, device=self.device)
        return layers[0][mask[0]].flatten(1)

    def _usual(self) -> dict[str, Any]:
        """Its pipeline counts guidance from 0, one less than the others."""
        distilled = self.pipe.config["is_distilled"]
        return {"guidance_scale": 1.0, "steps": 8} if distilled else super()._usual()

    def _shift_of_size(self) -> float:
        return 1.15 if self.pipe.config["is_distilled"] else super()._shift_of_size()

    def _token_limit(self) -> int:
        return self._longest - TEMPLATE_END
