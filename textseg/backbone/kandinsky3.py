"""Kandinsky 3: a UNet of its own over the latents of MoVQ, told its text by FLAN-UL2.

Source: Arkhipkin et al. 2023, arXiv 2312.03511.
"""

from __future__ import annotations

import torch

from ..errors import ModelError
from .conditions import pad
from .families import KANDINSKY3
from .latent import LatentModel
from .quiet import quietly

TOKENS = 128


class Kandinsky3(LatentModel):
    """An embedding holds the tokens of a prompt, filled up with zeros to 128, and a further column
    that is 1 for real tokens. The network also takes the mean of all tokens it is given, of which
    its pipeline gives one more than there are; so prompts go through it one length at a time. The
    empty prompt has no token, as in its pipeline's guidance."""

    kind = KANDINSKY3
    _native_cells = 128

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        noisy, real = noisy.to(self.dtype), embedding[..., -1]
        lengths = (real.sum(1).round().long() + 1).clamp(max=TOKENS)
        out = torch.empty_like(noisy)
        for length in lengths.unique().tolist():
            chosen = lengths == length
            out[chosen] = self.unet(
                noisy[chosen], t,
                encoder_hidden_states=embedding[chosen, :length, :-1].to(self.dtype),
                encoder_attention_mask=real[chosen, :length],
            ).sample  # fmt: skip
        return out

    def _encode_text(self, prompt: str) -> torch.Tensor:
        if not prompt:
            return torch.zeros(TOKENS, self._text_width() + 1, device=self.device)
        with quietly():
            tokens, _, mask, _ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=self.device
            )
        return pad(tokens[0, mask[0].bool()].float(), TOKENS)

    def _text_width(self) -> int:
        return self.text_encoder.config.d_model

    def _side_multiple(self) -> int:
        return self._halved_multiple()

    def _token_limit(self) -> int:
        return TOKENS

    def _check_parts(self) -> None:
        widths = (("an autoencoder", self.channels, "in_channels"),
                  ("a text encoder", self._text_width(), "encoder_hid_dim"))  # fmt: skip
        for what, given, taken in widths:
            if self.unet.config[taken] != given:
                raise ModelError(
                    f"{self.name!r} has {what} of width {given} where its UNet takes "
                    f"{self.unet.config[taken]}"
                )
        self._check_schedule()
