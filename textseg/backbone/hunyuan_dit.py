"""HunyuanDiT: a diffusion transformer told its text by a bilingual CLIP and by multilingual T5.

Source: Li et al. 2024, arXiv 2405.08748.
"""

from __future__ import annotations

from typing import Any

import torch

from .families import HUNYUAN_DIT
from .latent import LatentModel
from .quiet import quietly

BERT_TOKENS, T5_TOKENS = 77, 256


class HunyuanDiT(LatentModel):
    """Predicts velocity (and a variance, which is left out).

    An embedding holds BERT's tokens, (77, 1024), and T5's, (256, 2048), each filled up with zeros
    to the wider of both and marked by a further column that is 0 for padding. Models up to 1.1 are
    told the image's size and that it was 1024 pixels wide and high, as in their pipeline.
    """

    kind = HUNYUAN_DIT

    def _configure(self) -> None:
        self.tokenizer, self.max_tokens = self.pipe.tokenizer_2, T5_TOKENS

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        config, text = self.unet.config, embedding.to(self.dtype)
        h, w = noisy.shape[-2:]
        bert, t5 = text[:, :BERT_TOKENS], text[:, BERT_TOKENS:]
        size = [1024, 1024, h * self.factor, w * self.factor, 0, 0]
        out = self.unet(
            noisy.to(self.dtype),
            torch.full((len(noisy),), t, device=self.device, dtype=self.dtype),
            encoder_hidden_states=bert[..., : config["cross_attention_dim"]],
            text_embedding_mask=bert[..., -1],
            encoder_hidden_states_t5=t5[..., : config["cross_attention_dim_t5"]].contiguous(),
            text_embedding_mask_t5=t5[..., -1],
            image_meta_size=text.new_tensor([size] * len(noisy)),
            style=torch.zeros(len(noisy), dtype=torch.long, device=self.device),
            image_rotary_emb=self._positions(h, w),
            return_dict=False,
        )[0]
        return out[:, : noisy.shape[1]]

    def _positions(self, h: int, w: int) -> Any:
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
            get_resize_crop_region_for_grid,
        )

        patch = self.unet.config["patch_size"]
        grid = h // patch, w // patch
        return get_2d_rotary_pos_embed(
            self.unet.inner_dim // self.unet.num_heads,
            get_resize_crop_region_for_grid(grid, 512 // 8 // patch),
            grid, device=self.device, output_type="pt",
        )  # fmt: skip

    def _encode_text(self, prompt: str) -> torch.Tensor:
        told = []
        with quietly():
            for index, length in enumerate((BERT_TOKENS, T5_TOKENS)):
                tokens, _, mask, _ = self.pipe.encode_prompt(
                    prompt, device=self.device, do_classifier_free_guidance=False,
                    max_sequence_length=length, text_encoder_index=index,
                )  # fmt: skip
                told.append((tokens[0].float(), mask[0, :, None].float()))
        width = max(tokens.shape[1] for tokens, _ in told)
        return torch.cat([
            torch.cat([torch.nn.functional.pad(tokens, (0, width - tokens.shape[1])), mask], 1)
            for tokens, mask in told
        ])  # fmt: skip

    def _side_multiple(self) -> int:
        return self.factor * self.unet.config["patch_size"]

    def _check_parts(self) -> None:
        self._check_schedule()
