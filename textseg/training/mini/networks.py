"""The networks of the embedded model, and its folder."""

from __future__ import annotations

from typing import Any

from .vocabulary import MAX_TOKENS

TEXT_WIDTH = 192
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build_text_encoder(tokenizer: Any) -> Any:
    """A two-layer `CLIPTextModel`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=512,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
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
        sample_size=24,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=tuple(max(1, width // 32) for width in widths),  # pyright: ignore[reportArgumentType]
        norm_num_groups=16,
        time_embedding_dim=192,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet
