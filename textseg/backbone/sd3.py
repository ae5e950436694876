"""Stable Diffusion 3 and 3.5: a transformer over image and text tokens alike (MM-DiT).

Source: Esser et al. 2024, arXiv 2403.03206.
"""

from __future__ import annotations

import torch

from .families import SD3
from .flow import FlowTransformer
from .quiet import quietly

T5_TOKENS = 256


class MMDiT(FlowTransformer):
    """SD 3 and 3.5, Turbo included. T5 (`text_encoder_3`) may be left out: zeros take its place,
    as in a share of the training.

    An embedding holds the CLIP and T5 tokens, (77 + 256, 4096), then both CLIP encoders' pooled
    vectors.
    """

    kind = SD3

    def _configure(self) -> None:
        super()._configure()
        self._pooled = int(self.unet.config["pooled_projection_dim"])
        self._limit_sides(self.unet.config["pos_embed_max_size"])
        if self.pipe.text_encoder_3 is not None:
            self.tokenizer, self.max_tokens = self.pipe.tokenizer_3, T5_TOKENS

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        sequence, pooled, _ = self._unpack(embedding.to(z.dtype))
        steps = self.scheduler.config["num_train_timesteps"]
        return self.unet(
            hidden_states=z,
            timestep=torch.full((len(z),), sigma * steps, device=z.device),
            encoder_hidden_states=sequence,
            pooled_projections=pooled,
        ).sample

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, _, pooled, _ = self.pipe.encode_prompt(
                prompt, prompt, prompt, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=T5_TOKENS,
            )  # fmt: skip
        return self._pack(sequence[0].float(), pooled[0].float())

    def _native_tokens(self) -> int:
        return (int(self.unet.config["sample_size"]) // self.unet.config["patch_size"]) ** 2
