"""Models of real sizes with random weights, and diffusers' DiffEdit over a model's parts."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

from ..backbone.base import Backbone
from ..errors import InputError

_CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
_CLIP_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "projection_dim": 512, "hidden_act": "gelu",
}  # fmt: skip
_CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
_SD1 = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
}  # fmt: skip
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd15": {
        "unet": _SD1,
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text": (_CLIP_L,),
        "prediction_type": "epsilon",
    },
    "sd21": {
        "unet": {**_SD1, "sample_size": 96, "cross_attention_dim": 1024,
                 "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        "vae": {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
        "text": (_CLIP_H,),
        "prediction_type": "v_prediction",
    },
    "sdxl": {
        "unet": {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
            "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text": (_CLIP_L, _CLIP_G),
        "prediction_type": "epsilon",
    },
}  # fmt: skip
"""Configurations of the released models: Stable Diffusion 1.5, 2.1 and XL 1.0."""


def random_model(
    arch: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> Backbone:
    """A model with an architecture's sizes and random weights; downloads nothing.

    Its masks mean nothing; its evaluations cost what those of the released model cost.

    Args:
        arch: a name of `ARCHITECTURES`.
        device, dtype: as in `textseg.load`. All parts take the dtype.

    Raises:
        InputError: no such architecture, device or dtype.
    """
    if arch not in ARCHITECTURES:
        raise InputError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    import diffusers
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from ..backbone.latent import pick_device, pick_dtype
    from ..backbone.latent_unet import LatentUNet
    from ..backbone.sdxl import LatentUNetXL

    where = pick_device(device)
    what = pick_dtype(dtype, where)
    sizes = ARCHITECTURES[arch]
    generator = torch.Generator(where).manual_seed(seed)

    def filled(kind: Any, config: dict[str, Any]) -> Any:
        # Made without weights, then filled: the usual initialisation takes most of a minute.
        with torch.device("meta"):
            part = kind(**config)
        return _fill(part.to(what).to_empty(device=where), generator)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        unet = filled(UNet2DConditionModel, sizes["unet"])
        vae = filled(AutoencoderKL, sizes["vae"])
        tokenizer = _tokenizer()
        encoders = [
            _fill(_text_encoder(config, bool(i), tokenizer).to(where, what), generator)
            for i, config in enumerate(sizes["text"])
        ]
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1, prediction_type=sizes["prediction_type"],
        )  # fmt: skip
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": encoders[0],
                             "tokenizer": tokenizer, "scheduler": scheduler}  # fmt: skip
    name = f"{arch}, random weights"
    if len(encoders) == 1:
        return LatentUNet(SimpleNamespace(**parts), name)
    pipe = diffusers.StableDiffusionXLPipeline(
        **parts, text_encoder_2=encoders[1], tokenizer_2=tokenizer, add_watermarker=False
    )
    return LatentUNetXL(pipe, name)


def diffedit_pipeline(backbone: Any) -> Any:
    """diffusers' `StableDiffusionDiffEditPipeline` over a latent UNet's parts, as it is."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()
    config = backbone.scheduler.config
    parts: dict[str, Any] = {
        "vae": backbone.vae,
        "text_encoder": backbone.text_encoder,
        "tokenizer": backbone.tokenizer,
        "unet": backbone.unet,
        "scheduler": DDIMScheduler.from_config(config),
        "inverse_scheduler": DDIMInverseScheduler.from_config(config),
        "safety_checker": None,
        "feature_extractor": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionDiffEditPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _fill(part: Any, generator: Any) -> Any:
    for name, weight in part.named_parameters():
        if weight.ndim > 1:
            bound = (3.0 / weight[0].numel()) ** 0.5
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    return part.eval().requires_grad_(False)


def _text_encoder(config: dict[str, Any], projected: bool, tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(CLIPTextConfig(**config, vocab_size=49408, max_position_embeddings=77,
                               bos_token_id=tokenizer.bos_token_id,
                               eos_token_id=tokenizer.eos_token_id,
                               pad_token_id=tokenizer.pad_token_id))  # fmt: skip


def _tokenizer() -> Any:
    """The embedded model's tokenizer, with CLIP's length: which tokens there are costs nothing."""
    from transformers import CLIPTokenizer

    from ..backbone.registry import EMBEDDED

    return CLIPTokenizer.from_pretrained(EMBEDDED / "mini" / "tokenizer", model_max_length=77)
