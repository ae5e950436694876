"""What Stable Diffusion and its kin share: a UNet over autoencoder latents."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InputError, ModelError
from .conditions import guidance_embedding
from .latent import LatentModel

_EXTRA_CHANNELS = {
    5: "a depth map (depth-to-image)",
    7: "a low-resolution image (upscaling)",
    8: "a second image (instruction editing)",
    9: "a mask and a masked image (inpainting)",
}


_FURTHER_INPUTS = ("class_embed_type", "addition_embed_type", "time_cond_proj_dim",
                   "encoder_hid_dim_type", "num_class_embeds")  # fmt: skip
"""Settings of a UNet that is told more than text and timestep."""


class UNetModel(LatentModel):
    """A UNet2DConditionModel over an autoencoder's latents: the base of Stable Diffusion's kin.

    Text goes through one CLIP encoder, and a UNet distilled for it is told the guidance scale.
    """

    _told: frozenset[str] = frozenset()
    """Which of `_FURTHER_INPUTS` the family knows to give."""

    def _set_attention(self, attention: str) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        kinds = {"plain": AttnProcessor, "fused": AttnProcessor2_0}
        if attention not in kinds:
            raise InputError(f"attention must be 'plain' or 'fused', got {attention!r}")
        self.unet.set_attn_processor(kinds[attention]())

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        told = self._conditions(embedding.to(self.dtype), noisy.shape)
        return self.unet(noisy.to(self.dtype), t, **told).sample

    def _encode_text(self, prompt: str) -> torch.Tensor:
        tokens = self.tokenizer(
            self.expand_prompt(prompt),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        masked = self.text_encoder.config.to_dict().get("use_attention_mask")
        mask = tokens.attention_mask if masked else None
        return self._pack(self.text_encoder(tokens.input_ids, attention_mask=mask)[0][0].float())

    def _conditions(self, embedding: torch.Tensor, shape: torch.Size) -> dict[str, Any]:
        """What the UNet is told of the text, (N, L, D), for noisy latents of `shape`."""
        sequence, _, scale = self._unpack(embedding)
        if scale is None:
            return {"encoder_hidden_states": sequence}
        width = self.unet.config["time_cond_proj_dim"]
        return {
            "encoder_hidden_states": sequence,
            "timestep_cond": guidance_embedding(scale, width).to(sequence),
        }

    def _text_width(self) -> int:
        return self.text_encoder.config.hidden_size

    def _side_multiple(self) -> int:
        """Pixels that image sides are multiples of.

        The coarsest level of the UNet has cells of factor * 2^(levels - 1) pixels, but a UNet takes
        any number of latent cells (odd levels are padded going down and cropped going up). So the
        multiple is halved until it is at most an eighth of the native size: aspects stay true.
        """
        multiple = self._halved_multiple()
        while multiple > self.factor and multiple > self.native_size / 8:
            multiple //= 2
        return multiple

    def settle_on_cpu(self) -> None:
        """On the CPU, attention written as two matrix products is 1.3 times as fast as the fused
        kernel for short texts and few cells; for many cells its memory grows too large."""
        from diffusers.models.attention_processor import AttnProcessor

        if self.max_tokens <= 32 and (self.native_size // self.factor) ** 2 <= 1024:
            self.unet.set_attn_processor(AttnProcessor())

    def _check_parts(self) -> None:
        unet, vae = self.unet.config, self.vae.config
        latent, channels = vae.get("latent_channels", 4), unet.get("in_channels")
        if channels != latent:
            why = _EXTRA_CHANNELS.get(channels if latent == 4 else 0, "something besides latents")
            raise ModelError(
                f"{self.name!r} has a UNet of {channels} input channels where its autoencoder has "
                f"{latent}: it also wants {why}; use a plain text-to-image model"
            )
        if unet.get("out_channels") != latent:
            raise ModelError(
                f"{self.name!r} has a UNet of {unet.get('out_channels')} output channels where its "
                f"autoencoder has {latent}"
            )
        for key in _FURTHER_INPUTS:
            if unet.get(key) is not None and key not in self._told:
                raise ModelError(f"{self.name!r} has a UNet with {key}, which is not supported")
        wanted = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim")
        if wanted != self._text_width():
            raise ModelError(
                f"{self.name!r} has a text encoder of width {self._text_width()} "
                f"where its UNet takes {wanted}"
            )
        self._check_schedule()
