"""CogView3-Plus and CogView4: transformers told the image's size beside the text.

Source: Zheng et al. 2024, arXiv 2403.05121, for CogView3;
https://huggingface.co/THUDM/CogView4-6B, for CogView4.
"""

from __future__ import annotations

import math

import torch

from .families import COGVIEW3, COGVIEW4
from .flow import ToldByTokens
from .latent import LatentModel
from .quiet import quietly

T5_TOKENS = 224


def _sizes(latents: torch.Tensor, factor: int) -> dict[str, torch.Tensor]:
    """What both are told of the size: never smaller than it is, not cropped."""
    height, width = (side * factor for side in latents.shape[-2:])
    size = latents.new_tensor([[height, width]]).expand(len(latents), -1)
    return {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}


class CogView3Plus(LatentModel):
    """Predicts velocity on a schedule of diffusion. An embedding holds T5's tokens, (224, 4096),
    padding included; the empty prompt is embedded as zeros, as in its pipeline's guidance."""

    kind = COGVIEW3

    def _configure(self) -> None:
        self._limit_sides(self.unet.config["pos_embed_max_size"])

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        noisy = noisy.to(self.dtype)
        return self.unet(
            hidden_states=noisy,
            encoder_hidden_states=embedding.to(self.dtype),
            timestep=torch.full((len(noisy),), t, device=self.device),
            **_sizes(noisy, self.factor),
        ).sample

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            tokens, _ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=self.device,
                max_sequence_length=T5_TOKENS,
            )  # fmt: skip
        return tokens[0].float() if prompt else torch.zeros_like(tokens[0], dtype=torch.float32)

    def _side_multiple(self) -> int:
        return self.factor * self.unet.config["patch_size"]

    def _token_limit(self) -> int:
        return T5_TOKENS

    def _check_parts(self) -> None:
        self._check_schedule()


class CogView4(ToldByTokens):
    """Its network is told the time before the scheduler's shift, not sigma."""

    kind = COGVIEW4
    _longest = 1024

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        time = self._unshifted(sigma) * self.num_train_timesteps
        return self.unet(
            hidden_states=z,
            encoder_hidden_states=text,
            timestep=torch.full((len(z),), time, device=z.device),
            **_sizes(z, self.factor),
        ).sample

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, False, device=self.device)[0][0]

    def _shift_of_size(self) -> float:
        config = self.scheduler.config
        ratio = math.sqrt(self._native_tokens() / config["base_image_seq_len"])
        return ratio * config["max_shift"] + config["base_shift"]
