"""The networks of the embedded model, in diffusers' and transformers' words: `networks.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .vocabulary import MAX_TOKENS

_CONFIGS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
SCHEDULE = _CONFIGS["scheduler"]


def build_text_encoder(tokenizer: Any) -> Any:
    """A two-layer `CLIPTextModel`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
               for name in ("bos", "eos", "pad")}  # fmt: skip
    config = _CONFIGS["text_encoder"] | special
    return CLIPTextModel(
        CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, **config)
    )


def build_unet(channels: int, widths: tuple[int, int, int] = (64, 96, 160)) -> Any:
    """A `UNet2DConditionModel`, by default of 7.5 M parameters for 80 channels; text enters at a
    half and a quarter of the latents' resolution.

    Args:
        channels: of the latents.
        widths: channels at each resolution, multiples of 16.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor

    unet = UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        attention_head_dim=tuple(max(1, width // 32) for width in widths),  # pyright: ignore[reportArgumentType]
        **_CONFIGS["unet"],
    )
    unet.set_attn_processor(AttnProcessor())
    return unet
