"""HunyuanImage 2.1: a flow-matching transformer over deeply compressed latents, told its text by
Qwen2.5-VL, and quoted words by ByT5.

Source: https://github.com/Tencent-Hunyuan/HunyuanImage-2.1; Geng et al. 2025, arXiv 2505.13447, for
mean flows.
"""

from __future__ import annotations

from typing import Any

import torch

from .conditions import pad
from .families import HUNYUAN_IMAGE
from .flow import FlowTransformer
from .quiet import quietly

TOKENS, GLYPHS = 1000, 128


class HunyuanImage(FlowTransformer):
    """HunyuanImage 2.1 and its form distilled in guidance and steps.

    An embedding holds Qwen's tokens, (1000, 3584), and ByT5's of what stands in quotes, (128,
    1472), each filled up with zeros to the wider of both and marked by a further column that is 0
    for padding. The distilled network predicts a mean velocity from one time to another; it is told
    the same time twice, where that is the velocity.
    """

    kind = HUNYUAN_IMAGE
    _end_tokens = 0

    def _configure(self) -> None:
        super()._configure()
        if self.unet.config["guidance_embeds"]:
            self.distilled_guidance = 1.0

    def _usual(self) -> dict[str, Any]:
        distilled = self.distilled_guidance is not None
        return {"guidance_scale": 3.25} if distilled else super()._usual()

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        sequence, _, scale = self._unpack(embedding)
        text = sequence.to(z.dtype)
        time = z.new_full((len(z),), sigma * self.num_train_timesteps)
        tokens, seen = _real(text[:, :TOKENS], self.unet.config["text_embed_dim"])
        spelled: dict[str, Any] = {}
        if text[:, TOKENS:, -1].any():
            glyphs, read = _real(text[:, TOKENS:], self.unet.config["text_embed_2_dim"])
            spelled = {"encoder_hidden_states_2": glyphs, "encoder_attention_mask_2": read}
        return self.unet(
            z, time, tokens, seen,
            timestep_r=time if self.unet.config["use_meanflow"] else None,
            guidance=None if scale is None else scale.to(z.dtype) * 1000,
            **spelled,
        ).sample  # fmt: skip

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            tokens, seen, glyphs, read = self.pipe.encode_prompt(prompt, device=self.device)
        width = max(tokens.shape[-1], glyphs.shape[-1])
        parts = []
        for states, mask, length in ((tokens, seen, TOKENS), (glyphs, read, GLYPHS)):
            real = states[0][mask[0].bool()].float()
            parts.append(pad(torch.nn.functional.pad(real, (0, width - real.shape[1])), length))
        return self._pack(torch.cat(parts))

    def _token_limit(self) -> int:
        return TOKENS - 1  # of which the template ends in one

    def _side_multiple(self) -> int:
        return self.factor * max(self.unet.config["patch_size"])


def _real(states: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (N, L, width) as long as the longest of the batch, and which are real, (N, L)."""
    mask = states[..., -1].bool()
    longest = int(mask.sum(1).max())
    return states[:, :longest, :width], mask[:, :longest]
