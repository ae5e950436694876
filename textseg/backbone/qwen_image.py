"""Qwen-Image and Qwen-Image 2.1: flow-matching transformers, told their text by a language model.

Source: Wu et al. 2025, arXiv 2508.02324; for 2.1 https://github.com/huggingface/diffusers,
`pipeline_qwenimage21.py`.
"""

from __future__ import annotations

from typing import Any

import torch

from .families import QWEN_IMAGE, QWEN_IMAGE_21
from .flow import ToldByTokens, for_each
from .flux import pack_cells, unpack_cells


class QwenImage(ToldByTokens):
    """Told its text by Qwen2.5-VL. What the template says before the prompt is left out, as in its
    pipeline."""

    kind = QWEN_IMAGE
    _packed = True
    _longest = 1024

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=for_each(z, sigma),
            encoder_hidden_states=text,
            img_shapes=[[(1, h // 2, w // 2)]] * len(z),
        ).sample
        return unpack_cells(out, h, w)

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, device=self.device)[0][0]


class QwenImage21(ToldByTokens):
    """Told its text by Qwen3-VL; text and image are one sequence, in which the text sees itself
    alone. Its pipeline uses no guidance."""

    kind = QWEN_IMAGE_21
    _longest = 1024
    _native_cells = 64

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        h, w = z.shape[-2:]
        # A slot of the sequence stands for 2 x 2 cells.
        pictured = torch.arange(text.shape[1] + h * w // 4, device=z.device) >= text.shape[1]
        out = self.unet(
            hidden_states=z.flatten(2).transpose(1, 2),
            timestep=for_each(z, sigma),
            encoder_hidden_states=text,
            img_shapes=[[(1, h, w)]] * len(z),
            img_mask=pictured.expand(len(z), -1),
        ).sample
        return out[:, -h * w :].transpose(1, 2).unflatten(2, (h, w))

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, device=self.device)[0][0]

    def _usual(self) -> dict[str, Any]:
        levels = self.pipe.config["sample_sigmas"]
        return super()._usual() | ({"steps": len(levels)} if levels else {})

    def _side_multiple(self) -> int:
        return 2 * self.factor
