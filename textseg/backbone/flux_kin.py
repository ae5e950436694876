"""Flux.1's transformer told its text by one encoder: Chroma, Ovis-Image, LongCat-Image and Bria.

Source: their pipelines in diffusers, https://github.com/huggingface/diffusers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .families import BRIA, CHROMA, LONGCAT, OVIS
from .flow import FlowTransformer, for_each
from .flux import pack_cells, position_ids, unpack_cells
from .quiet import quietly


class FluxKin(FlowTransformer):
    """An embedding holds the encoder's tokens, padding included; the network sees all of them."""

    _packed = True
    _native_cells = 128
    _longest: int
    """Tokens of an embedding."""
    _times = 1
    """What the network is told at sigma 1."""

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        text = embedding.to(z.dtype)
        h, w = z.shape[-2:]
        cells = pack_cells(z)
        out = self.unet(
            hidden_states=cells,
            timestep=for_each(z, sigma * self._times),
            img_ids=self._cell_ids(h // 2, w // 2).to(z.device),
            **self._text(text, cells),
        ).sample
        return unpack_cells(out, h, w)

    def _text(self, text: torch.Tensor, cells: torch.Tensor) -> dict[str, Any]:
        """What the network is told of tokens (N, L, D) beside packed cells (N, M, E)."""
        ids = self._token_ids(text.shape[1]).to(text.device)
        return {"encoder_hidden_states": text, "txt_ids": ids}

    def _cell_ids(self, rows: int, columns: int) -> torch.Tensor:
        return position_ids(rows, columns)

    def _token_ids(self, length: int) -> torch.Tensor:
        return torch.zeros(length, 3)

    def _encode_text(self, prompt: str) -> torch.Tensor:
        return self._encoded(prompt)[0][0].float()

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        with quietly():
            return self.pipe.encode_prompt(
                prompt, device=self.device, max_sequence_length=self._longest,
                do_classifier_free_guidance=False,
            )  # fmt: skip

    def _token_limit(self) -> int:
        return self._longest


class Chroma(FluxKin):
    """Told its text by T5. A further column is 1 for real tokens and the first of the padding, as
    in its training, and 0 for what is masked out."""

    kind = CHROMA
    _longest = 512

    def _text(self, text: torch.Tensor, cells: torch.Tensor) -> dict[str, Any]:
        mask = torch.cat([text[..., -1], torch.ones_like(cells[..., 0])], 1)
        return super()._text(text[..., :-1], cells) | {"attention_mask": mask}

    def _encode_text(self, prompt: str) -> torch.Tensor:
        tokens, _, mask, *_ = self._encoded(prompt)
        return torch.cat([tokens[0].float(), mask[0, :, None].float()], 1)


class OvisImage(FluxKin):
    """Told its text by Qwen3. What the template says before the prompt is left out, as in its
    pipeline."""

    kind = OVIS
    _longest = 256

    def _token_ids(self, length: int) -> torch.Tensor:
        place = torch.arange(length).float()
        return torch.stack([torch.zeros(length), place, place], 1)


class LongCatImage(OvisImage):
    """Told its text by Qwen2.5-VL; quoted words are spelled letter by letter. The pipeline's own
    rewriting of prompts is left out."""

    kind = LONGCAT
    _longest = 512

    def _cell_ids(self, rows: int, columns: int) -> torch.Tensor:
        return position_ids(rows, columns) + torch.tensor([1, self._longest, self._longest])

    def _encoded(self, prompt: str) -> tuple[torch.Tensor, ...]:
        # The pipeline asks its weights for its device, and they may lie elsewhere.
        needed = ("tokenizer", "text_encoder", "tokenizer_max_length",
                  "prompt_template_encode_prefix", "prompt_template_encode_suffix")  # fmt: skip
        parts: Any = SimpleNamespace(
            device=self.device, **{name: getattr(self.pipe, name) for name in needed}
        )
        with quietly():
            return (type(self.pipe)._encode_prompt(parts, [prompt]),)


class Bria(FluxKin):
    """Told its text by T5; the empty prompt is embedded as zeros, as in its pipeline's guidance."""

    kind = BRIA
    _longest = 128
    _times = 1000

    def _encode_text(self, prompt: str) -> torch.Tensor:
        tokens = super()._encode_text(prompt)
        return tokens if prompt else torch.zeros_like(tokens)
