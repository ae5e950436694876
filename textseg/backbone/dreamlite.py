"""DreamLite: a small UNet trained by flow matching, told its text by Qwen3-VL.

Source: https://github.com/huggingface/diffusers, `pipeline_dreamlite.py`.
"""

from __future__ import annotations

import torch

from .families import DREAMLITE, DREAMLITE_MOBILE
from .flow import ToldByTokens, for_each

TASK = "[Generate]: {}"


class DreamLite(ToldByTokens):
    """Its UNet sees two pictures side by side, and what it makes of the left is taken. On the right
    is the picture to change, or zeros where a text alone is given, as here. It is told the image's
    size. The empty prompt names no task, as in its pipeline's guidance."""

    kind = DREAMLITE
    _longest = 200
    _nothing = ""

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        height, width = (side * self.factor for side in z.shape[-2:])
        out = self.unet(
            torch.cat([z, torch.zeros_like(z)], 3),
            for_each(z, sigma * self.num_train_timesteps),
            encoder_hidden_states=text,
            added_cond_kwargs={"time_ids": z.new_tensor([[width, height]]).expand(len(z), -1)},
        ).sample
        return out[..., : z.shape[-1]]

    def _tokens(self, prompt: str) -> torch.Tensor:
        told = TASK.format(prompt) if prompt else self._nothing
        return self.pipe.encode_prompt(
            mode="generate", prompts=[told], device=self.device, dtype=self.dtype,
            max_sequence_length=self._longest,
        )[0][0]  # fmt: skip

    def _side_multiple(self) -> int:
        return self._halved_multiple()

    def _token_limit(self) -> int:
        return self._longest - len(self.tokenizer(TASK.format("")).input_ids)


class DreamLiteMobile(DreamLite):
    """Distilled to few steps without guidance; its pipeline names the task of any prompt."""

    kind = DREAMLITE_MOBILE
    _nothing = TASK.format("")
