"""Kandinsky 5 image: a flow-matching transformer over latents, told its text by Qwen2.5-VL.

Source: https://huggingface.co/kandinskylab.
"""

from __future__ import annotations

import torch

from .families import KANDINSKY5
from .flow import ToldByTokens, for_each


class Kandinsky5(ToldByTokens):
    """Its transformer is that of a video of one frame, channels last. CLIP's pooled vector goes
    beside the tokens. What the template says before the prompt is left out, as in its pipeline."""

    kind = KANDINSKY5
    _longest = 512

    def _configure(self) -> None:
        super()._configure()
        self._pooled = int(self.unet.config["in_text_dim2"])

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        rows, columns = (side // 2 for side in z.shape[-2:])
        out = self.unet(
            hidden_states=z.permute(0, 2, 3, 1)[:, None],
            encoder_hidden_states=text,
            pooled_projections=vector,
            timestep=for_each(z, sigma * self.num_train_timesteps),
            visual_rope_pos=[torch.arange(n, device=z.device) for n in (1, rows, columns)],
            text_rope_pos=torch.arange(text.shape[1], device=z.device),
        ).sample
        return out[:, 0].permute(0, 3, 1, 2)

    def _said(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, pooled, *_ = self.pipe.encode_prompt(
            prompt, device=self.device, max_sequence_length=self._longest
        )
        return tokens[0], pooled[0].float()

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self._said(prompt)[0]

    def _side_multiple(self) -> int:
        return self.factor * self.unet.config["patch_size"][-1]
