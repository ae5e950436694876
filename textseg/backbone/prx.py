"""PRX: a flow-matching transformer over latents, told its text by T5Gemma's encoder.

Source: Photoroom 2025, https://huggingface.co/Photoroom.
"""

from __future__ import annotations

import torch

from .families import PRX
from .flow import ToldByTokens, for_each


class Prx(ToldByTokens):
    """Of its pipeline's cleaning of captions only lower case is kept: the rest takes out what the
    web puts between words, and needs ftfy."""

    kind = PRX

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        return self.unet(
            hidden_states=z,
            timestep=for_each(z, sigma),
            encoder_hidden_states=text,
        ).sample

    def _tokens(self, prompt: str) -> torch.Tensor:
        words = self.tokenizer(
            prompt.strip().lower(), max_length=self._longest, truncation=True, return_tensors="pt"
        ).to(self.device)
        return self.text_encoder(
            input_ids=words.input_ids, attention_mask=words.attention_mask.bool()
        ).last_hidden_state[0]

    def _cells(self) -> float:
        return self.pipe.config["default_sample_size"] / self.factor

    def _token_limit(self) -> int:
        self._longest = int(self.tokenizer.model_max_length)
        return self._longest
