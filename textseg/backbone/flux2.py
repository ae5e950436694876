"""Flux.2: a flow-matching transformer over packed latents, told its text by a language model.

Source: Black Forest Labs 2025, https://github.com/black-forest-labs/flux2.
"""

from __future__ import annotations

from typing import Any

import torch

from .families import FLUX2, FLUX2_KLEIN, FLUX2_KLEIN_KV
from .flow import FlowTransformer, for_each
from .flux import pack_cells, unpack_cells
from .quiet import quietly

TOKENS = 512


class Flux2Klein(FlowTransformer):
    """Flux.2 klein, told its text by Qwen3 and no guidance scale.

    An embedding holds three layers of the language model side by side, (512, 3 D), padding
    included, as its network was trained.
    """

    kind = FLUX2_KLEIN
    _packed = True
    _native_cells = 128
    _end_tokens = 0

    def _usual(self) -> dict[str, Any]:
        """The klein whose folder says `is_distilled` is made for four steps without guidance."""
        distilled = self.pipe.config.get("is_distilled")
        return {"guidance_scale": 1.0, "steps": 4} if distilled else super()._usual()

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        sequence, _, scale = self._unpack(embedding)
        text = sequence.to(z.dtype)
        h, w = z.shape[-2:]
        rows, columns, tokens = (torch.arange(n) for n in (h // 2, w // 2, text.shape[1]))
        zero = torch.zeros(1, dtype=torch.long)
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=for_each(z, sigma),
            guidance=None if scale is None else scale.contiguous(),
            encoder_hidden_states=text,
            txt_ids=torch.cartesian_prod(zero, zero, zero, tokens).to(z.device),
            img_ids=torch.cartesian_prod(zero, rows, columns, zero).to(z.device),
        ).sample
        return unpack_cells(out, h, w)

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, _ = self.pipe.encode_prompt(
                prompt, device=self.device, max_sequence_length=TOKENS
            )
        return self._pack(sequence[0].float())

    def _shift_of_size(self) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(self._native_tokens(), num_steps=50)

    def _token_limit(self) -> int:
        return TOKENS


class Flux2KleinKV(Flux2Klein):
    """The distilled klein that remembers what it saw of reference pictures, given none: klein's
    network and no other input."""

    kind = FLUX2_KLEIN_KV


class Flux2(Flux2Klein):
    """Flux.2 dev, told its text by Mistral 3 and, being distilled, a guidance scale: 1 for the
    contrast, the text's own effect, as for Flux.1."""

    kind = FLUX2

    def _configure(self) -> None:
        super()._configure()
        if self.unet.config.get("guidance_embeds"):
            self.distilled_guidance = 1.0
