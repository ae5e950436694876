"""Flux.1: a flow-matching transformer over packed latents, told its guidance scale.

Source: Black Forest Labs 2024, https://github.com/black-forest-labs/flux; Meng et al. 2022,
arXiv 2210.03142, for guidance distillation.
"""

from __future__ import annotations

from typing import Any

import torch

from .families import FLUX
from .flow import FlowTransformer, for_each
from .quiet import quietly


class Flux(FlowTransformer):
    """Flux.1 dev (guidance-distilled) and schnell (also distilled in steps, no guidance).

    An embedding holds T5's tokens, (512, 4096) for dev and (256, 4096) for schnell, then CLIP's
    pooled vector and, for dev, the guidance scale. The contrast is taken at scale 1, the text's own
    effect; decoding takes its `guidance_scale` as the scale and evaluates the network once per
    step, without a negative prompt.
    """

    kind = FLUX
    _packed = True
    _native_cells = 128

    def _configure(self) -> None:
        super()._configure()
        self._pooled = int(self.unet.config["pooled_projection_dim"])
        guided = bool(self.unet.config.get("guidance_embeds"))
        if guided:
            self.distilled_guidance = 1.0
        self.tokenizer, self.max_tokens = self.pipe.tokenizer_2, 512 if guided else 256

    def _usual(self) -> dict[str, Any]:
        """Flux.1 schnell, which has no guidance, is made for four steps."""
        distilled = self.distilled_guidance is None
        return {"guidance_scale": 1.0, "steps": 4} if distilled else super()._usual()

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        sequence, pooled, scale = self._unpack(embedding)
        h, w = z.shape[-2:]
        out = self.unet(
            hidden_states=pack_cells(z),
            timestep=for_each(z, sigma),
            guidance=None if scale is None else scale.contiguous(),
            pooled_projections=pooled.to(z.dtype),
            encoder_hidden_states=sequence.to(z.dtype),
            txt_ids=torch.zeros(sequence.shape[1], 3, device=z.device),
            img_ids=position_ids(h // 2, w // 2).to(z.device),
        ).sample
        return unpack_cells(out, h, w)

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, pooled, _ = self.pipe.encode_prompt(
                prompt, prompt, device=self.device, max_sequence_length=self.max_tokens
            )
        return self._pack(sequence[0].float(), pooled[0].float())


def pack_cells(latents: torch.Tensor) -> torch.Tensor:
    """Each 2 x 2 block of cells to one token: (N, C, h, w) to (N, h/2 w/2, 4C), channel first."""
    blocks = torch.nn.functional.pixel_unshuffle(latents, 2)
    return blocks.flatten(2).transpose(1, 2)


def unpack_cells(tokens: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """Undo `pack_cells`: (N, h/2 w/2, 4C) to (N, C, h, w).

    >>> cells = torch.arange(48.0).view(1, 2, 4, 6)
    >>> torch.equal(unpack_cells(pack_cells(cells), 4, 6), cells)
    True
    """
    blocks = tokens.transpose(1, 2).unflatten(2, (h // 2, w // 2))
    return torch.nn.functional.pixel_shuffle(blocks, 2)


def position_ids(rows: int, columns: int) -> torch.Tensor:
    """(0, row, column) of each token, (rows * columns, 3) float32."""
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return torch.nn.functional.pad(cells, (1, 0))
