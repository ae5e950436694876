"""Tiny random-weight pipelines of every family, built from configurations; nothing is downloaded.

Each has 64 pixels of native size (4 x 8 latent cells of 8 pixels a side, or the family's own
channels) and text encoders of one or two narrow layers.
"""

from __future__ import annotations

import io
import json
import string
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from textseg.backbone.latent import LatentModel

FAMILIES = ("latent-unet", "sd2", "lcm", "sdxl", "sdxl-lcm",
            "kolors", "kandinsky3", "bria-fibo", "bria-fibo-2", "dreamlite", "dreamlite-mobile",
            "flux2-klein-kv", "z-image-omni",
            "sd3", "sd3-without-t5",
            "sd3.5", "flux", "flux-schnell", "pixart-sigma", "qwen-image", "z-image", "flux2-klein",
            "lumina2", "sana", "sana-sprint", "pixart-alpha", "hunyuan-dit", "cogview3-plus",
            "cogview4", "aura-flow", "chroma", "flux2", "lumina", "ovis-image",
            "longcat-image", "bria", "kandinsky5", "ernie-image", "krea2",
            "qwen-image-2.1", "hunyuan-image", "hunyuan-image-distilled",
            "prx", "hidream", "nucleus-moe")  # fmt: skip
NATIVE = {"native_size": 64}
"""What a family without a size of its own in its configuration is told in `textseg.json`."""
FLOWS = ("bria-fibo", "bria-fibo-2", "dreamlite", "dreamlite-mobile",
         "flux2-klein-kv", "z-image-omni",
         "sd3", "sd3-without-t5", "sd3.5", "flux", "flux-schnell", "qwen-image", "z-image",
         "flux2-klein", "lumina2", "sana", "sana-sprint", "cogview4", "aura-flow", "chroma",
         "flux2", "lumina", "ovis-image", "longcat-image", "bria", "kandinsky5",
         "ernie-image", "krea2", "qwen-image-2.1", "hunyuan-image",
         "hunyuan-image-distilled", "prx", "hidream", "nucleus-moe")  # fmt: skip
Tiny = tuple[Any, LatentModel]
"""A pipeline and the backbone over it."""
T5_WORDS = ("a", "an", "and", "apple", "ball", "cat", "dog", "of", "photo", "red", "the", "without")


def t5_tokenizer(folder: Path) -> Any:
    """A T5 tokenizer over whole words, then letters."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(c) for c in range(97, 123)]
    pieces = ["<pad>", "</s>", "<unk>", *("▁" + w for w in T5_WORDS), "▁", *letters]
    vocab = [(piece, 0.0 if i < 3 else -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=["$A", "</s>"], special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5TokenizerFast", "model_max_length": 512,
                    "extra_ids": 0, "additional_special_tokens": []})
    )  # fmt: skip
    kind: Any = transformers.T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]
    return kind.from_pretrained(folder)


def clip(tokenizer: Any, width: int, projected: bool = False, longest: int = 0) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, projection_dim=width,
        num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=longest or tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(tokenizer: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=1,
                 num_heads=2)
    )  # fmt: skip


def autoencoder(channels: int, **options: Any) -> Any:
    import diffusers

    kind: Any = diffusers.AutoencoderKL
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=channels, sample_size=64,
        **options,
    )  # fmt: skip


def unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**{
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16, "attention_head_dim": 4, "norm_num_groups": 4,
        **options,
    })  # fmt: skip


def diffusion_schedule(kind: str = "DDIMScheduler", **options: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", **options}
    )


def build(family: str, clip_tokenizer: Any, folder: Path, seed: int = 0) -> Any:
    """The pipeline of a family (one of `FAMILIES`).

    Args:
        clip_tokenizer: a small CLIPTokenizer.
        folder: an empty folder for a T5 tokenizer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = _BUILDERS[family](clip_tokenizer, t5_tokenizer(folder))
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
                if name == "transformer":
                    _wake(part)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _wake(network: torch.nn.Module) -> None:
    """Give weights a size at which text and time matter: several start at zero."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter) * 0.05)


def _plain(words: Any, network: Any, scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(4), text_encoder=clip(words, 16), tokenizer=words, unet=network,
        scheduler=scheduler,
        safety_checker=None, feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )  # fmt: skip


def _stable_diffusion(words: Any, t5_words: Any) -> Any:
    return _plain(words, unet(), diffusion_schedule(clip_sample=False, steps_offset=1))


def _stable_diffusion_2(words: Any, t5_words: Any) -> Any:
    """2.1-v: heads of one width, linear projections, velocity."""
    network = unet(use_linear_projection=True, attention_head_dim=(2, 4))
    return _plain(words, network, diffusion_schedule(
        clip_sample=False, steps_offset=1, set_alpha_to_one=False, prediction_type="v_prediction"
    ))  # fmt: skip


def _consistency(words: Any, t5_words: Any) -> Any:
    scheduler = diffusion_schedule("LCMScheduler", steps_offset=1)
    return _plain(words, unet(time_cond_proj_dim=12), scheduler)


def _xl(words: Any, t5_words: Any, **options: Any) -> Any:
    from diffusers import StableDiffusionXLPipeline

    network = unet(
        cross_attention_dim=16 + 24, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8, **options,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=autoencoder(4), text_encoder=clip(words, 16), text_encoder_2=clip(words, 24, True),
        tokenizer=words, tokenizer_2=words, unet=network,
        scheduler=diffusion_schedule("EulerDiscreteScheduler", steps_offset=1),
        add_watermarker=False,
    )  # fmt: skip


def _kolors(words: Any, t5_words: Any) -> Any:
    from diffusers import KolorsPipeline
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    glm_words = chatglm_tokenizer(Path(t5_words.name_or_path))
    encoder: Any = ChatGLMModel(ChatGLMConfig(
        num_layers=2, padded_vocab_size=len(glm_words), hidden_size=32, ffn_hidden_size=32,
        kv_channels=8, num_attention_heads=4, seq_length=256, multi_query_attention=True,
        multi_query_group_num=2, add_qkv_bias=True, original_rope=True,
    ))  # fmt: skip
    for parameter in encoder.parameters():
        parameter.data.normal_(std=0.2)
    network = unet(
        encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=32 + 6 * 8,
    )  # fmt: skip
    return KolorsPipeline(
        vae=autoencoder(4), text_encoder=encoder, tokenizer=glm_words, unet=network,
        scheduler=diffusion_schedule(beta_end=0.014, clip_sample=False, steps_offset=1),
    )  # fmt: skip


def chatglm_tokenizer(folder: Path) -> Any:
    """ChatGLM3's, over pieces of `T5_WORDS`; it goes on reading its file."""
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
    from sentencepiece import SentencePieceTrainer

    pieces = io.BytesIO()
    SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
        sentence_iterator=iter([" ".join(T5_WORDS), string.ascii_lowercase]), model_writer=pieces,
        vocab_size=60, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    file = folder / "tokenizer.model"
    file.write_bytes(pieces.getvalue())
    return ChatGLMTokenizer(str(file))


def _mmdit(words: Any, t5_words: Any, with_t5: bool = True, **options: Any) -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=64,
        caption_projection_dim=16, pooled_projection_dim=16 + 24, pos_embed_max_size=16, **options,
    )  # fmt: skip
    first = clip(words, 16, True)
    # As published: OpenAI's encoder is used without its projection.
    torch.nn.init.eye_(first.text_projection.weight)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False,
                        use_post_quant_conv=False),
        text_encoder=first, tokenizer=words,
        text_encoder_2=clip(words, 24, True), tokenizer_2=words,
        text_encoder_3=t5(t5_words, 64) if with_t5 else None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=t5_words if with_t5 else None,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def _flux(words: Any, t5_words: Any, guided: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
        guidance_embeds=guided, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guided else 1.0, use_dynamic_shifting=guided
        ),
        vae=autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip(words, 16), tokenizer=words,
        text_encoder_2=t5(t5_words, 32), tokenizer_2=t5_words,
    )  # fmt: skip


def _pixart(words: Any, t5_words: Any, alpha: bool = False) -> Any:
    from diffusers import (
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=128 if alpha else 8, patch_size=2, caption_channels=32,
        use_additional_conditions=alpha,
    )  # fmt: skip
    kind: Any = PixArtAlphaPipeline if alpha else PixArtSigmaPipeline
    return kind(
        tokenizer=t5_words, text_encoder=t5(t5_words, 32), vae=autoencoder(4),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear"
        ),
    )  # fmt: skip


def _hunyuan_dit(words: Any, t5_words: Any) -> Any:
    import diffusers as d
    from transformers import BertConfig, BertModel

    with tempfile.TemporaryDirectory() as folder:
        bert_words = language_tokenizer(Path(folder), "gemma")
    bert = BertModel(BertConfig(
        vocab_size=len(bert_words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=128,
    ))  # fmt: skip
    transformer = d.HunyuanDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, hidden_size=16, cross_attention_dim=16, cross_attention_dim_t5=32,
        pooled_projection_dim=16, activation_fn="gelu-approximate", norm_type="ada_norm_continuous"
    )  # fmt: skip
    nothing: Any = None
    return d.HunyuanDiTPipeline(
        vae=autoencoder(4), text_encoder=bert, tokenizer=bert_words, transformer=transformer,
        text_encoder_2=t5(t5_words, 32), tokenizer_2=t5_words,
        scheduler=d.DDPMScheduler(beta_end=0.02, beta_schedule="scaled_linear",
                                  beta_start=0.00085, prediction_type="v_prediction",
                                  steps_offset=1, clip_sample=False),
        safety_checker=nothing, feature_extractor=nothing, requires_safety_checker=False,
    )  # fmt: skip


def _cogview3(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        out_channels=4, text_embed_dim=32, time_embed_dim=16, condition_dim=8,
        pos_embed_max_size=32, sample_size=8,
    )  # fmt: skip
    return d.CogView3PlusPipeline(
        tokenizer=t5_words, text_encoder=t5(t5_words, 32), vae=autoencoder(4),
        transformer=transformer,
        scheduler=d.CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=4.0,
            set_alpha_to_one=True, timestep_spacing="trailing",
        ),
    )  # fmt: skip


def _cogview4(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        out_channels=4, text_embed_dim=32, time_embed_dim=16, condition_dim=8, sample_size=8,
    )  # fmt: skip
    return d.CogView4Pipeline(
        transformer=transformer, vae=autoencoder(4),
        scheduler=flow_schedule(use_dynamic_shifting=True, time_shift_type="linear",
                                base_shift=0.25, max_shift=0.75),
        **_language("GlmModel", "gemma"),
    )  # fmt: skip


def _aura_flow(words: Any, t5_words: Any) -> Any:
    import diffusers as d
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = UMT5EncoderModel(UMT5Config(
        vocab_size=len(t5_words), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    ))  # fmt: skip
    transformer = d.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip
    return d.AuraFlowPipeline(
        tokenizer=t5_words, text_encoder=encoder, vae=autoencoder(4), transformer=transformer,
        scheduler=flow_schedule(shift=1.73),
    )  # fmt: skip


def _flux_kin(name: str, **options: Any) -> dict[str, Any]:
    """Transformer, scheduler and autoencoder of a pipeline with Flux.1's transformer."""
    import diffusers

    with warnings.catch_warnings():  # diffusers imports a name of its own that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        transformer = getattr(diffusers, name + "Transformer2DModel")(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 4, 8), **options,
        )  # fmt: skip
    return {"transformer": transformer, "scheduler": flow_schedule(use_dynamic_shifting=True),
            "vae": autoencoder(4, shift_factor=0.1, scaling_factor=0.4)}  # fmt: skip


def _chroma(words: Any, t5_words: Any) -> Any:
    from diffusers import ChromaPipeline

    parts = _flux_kin("Chroma", approximator_num_channels=8, approximator_hidden_dim=16,
                      approximator_layers=1)  # fmt: skip
    return ChromaPipeline(**parts, text_encoder=t5(t5_words, 32), tokenizer=t5_words)


def _ovis_image(words: Any, t5_words: Any) -> Any:
    from diffusers import OvisImagePipeline

    return OvisImagePipeline(**_flux_kin("OvisImage", out_channels=16), **_language("Qwen3Model"))


def _longcat_image(words: Any, t5_words: Any) -> Any:
    from diffusers import LongCatImagePipeline

    nothing: Any = None
    return LongCatImagePipeline(
        **_flux_kin("LongCatImage", pooled_projection_dim=32), text_processor=nothing,
        **_language("Qwen2_5_VLForConditionalGeneration"),
    )  # fmt: skip


def _bria(words: Any, t5_words: Any) -> Any:
    from diffusers import BriaPipeline

    parts = _flux_kin("Bria") | {"scheduler": flow_schedule(shift=3.0)}
    return BriaPipeline(**parts, text_encoder=t5(t5_words, 32), tokenizer=t5_words)


def _bria_fibo(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.BriaFiboTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=3, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=[4, 4, 8],
        text_encoder_dim=16,
    )  # fmt: skip
    vae = d.AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, in_channels=12, out_channels=12,
        temperal_downsample=[False, True], patch_size=2, is_residual=True,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.8, 1.0],
    )  # fmt: skip
    language = _language("SmolLM3ForCausalLM")
    # The empty prompt is told by number 128000.
    language["text_encoder"] = language_model("SmolLM3ForCausalLM", range(128001), width=16)
    return d.BriaFiboPipeline(
        transformer=transformer,
        vae=vae,
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **language,
    )


def _bria_fibo_2(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.BriaFibo2Transformer2DModel(
        in_channels=4, dim=32, n_layers=5, n_refiner_layers=1, n_heads=2, cap_feat_dim=96,
        injection_layer_ids=(0, 1, 2, 3, 4), perceiver_num_layers=1, min_num_gist_tokens=4,
        max_num_gist_tokens=8, gist_step=2, gist_min_text_len=8, gist_max_text_len=64,
        axes_dims=(4, 6, 6), axes_lens=(16, 32, 32),
    )  # fmt: skip
    return d.BriaFibo2Pipeline(
        transformer=transformer, vae=_flux2_autoencoder(),
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **_with_processor(**_language("Qwen3VLForConditionalGeneration", layers=36)),
    )  # fmt: skip


def _dreamlite(words: Any, t5_words: Any, mobile: bool = False) -> Any:
    import diffusers as d

    network = d.DreamLiteUNetModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D",
                          "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4, encoder_hid_dim=32,
        encoder_hid_dim_type="text_proj_rms", addition_embed_type="time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=16,
    )  # fmt: skip
    vae = d.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
    )  # fmt: skip
    pipeline: Any = d.DreamLiteMobilePipeline if mobile else d.DreamLitePipeline
    parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer", "processor"))
    template = pipeline(unet=network, vae=vae, scheduler=flow_schedule(), **parts)
    return pipeline(
        unet=network, vae=vae, processor=None,
        scheduler=flow_schedule(use_dynamic_shifting=True, max_shift=1.16),
        **_language("Qwen3VLForConditionalGeneration",
                    more=template.prompt_template_encode_generate.split()),
    )  # fmt: skip


def _kandinsky3(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    network = d.Kandinsky3UNet(
        time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2,
        block_out_channels=(8, 16), cross_attention_dim=16, encoder_hid_dim=32,
    )  # fmt: skip
    _wake(network.requires_grad_(False))
    movq = d.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4, norm_num_groups=4, latent_channels=4, norm_type="spatial",
        num_vq_embeddings=16,
    )  # fmt: skip
    return d.Kandinsky3Pipeline(
        tokenizer=t5_words,
        text_encoder=t5(t5_words, 32),
        unet=network,
        movq=movq,
        scheduler=d.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    )


def _kandinsky5(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16,
        model_dim=32, ff_dim=32, num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 6, 6),
    )  # fmt: skip
    return d.Kandinsky5T2IPipeline(
        transformer=transformer, vae=autoencoder(4, scaling_factor=0.48),
        scheduler=flow_schedule(shift=5.0), text_encoder_2=clip(words, 16, longest=77),
        tokenizer_2=words,
        **_language("Qwen2_5_VLForConditionalGeneration"),
    )  # fmt: skip


def _flux2(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    return d.Flux2Pipeline(
        transformer=_flux2_transformer(guidance_embeds=True), vae=_flux2_autoencoder(),
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **_language("Mistral3ForConditionalGeneration", layers=31),
    )  # fmt: skip


def _ernie_image(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=32, in_channels=16,
        out_channels=16, text_in_dim=32, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    return d.ErnieImagePipeline(
        transformer=transformer, vae=_flux2_autoencoder(), scheduler=flow_schedule(shift=4.0),
        **_language("Mistral3Model"),
    )  # fmt: skip


def _lumina(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=1,
        num_attention_heads=2, num_kv_heads=2, multiple_of=16, cross_attention_dim=32,
    )  # fmt: skip
    return d.LuminaPipeline(
        transformer=transformer, scheduler=flow_schedule(shift=4.0), vae=autoencoder(4),
        **_language("GemmaModel", "gemma"),
    )  # fmt: skip


def language_tokenizer(folder: Path, kind: str, more: Sequence[str] = ()) -> Any:
    """A tokenizer over whole words (`more` of them), then letters, that ends a text as `kind`
    does."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = [chr(c) for c in range(33, 127)]
    whole = ["▁" + word for word in (*T5_WORDS, *more)]
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *whole, "▁", *letters]
    vocab = [(piece, 0.0 if i < 4 else -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
    if kind == "gemma":
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=["<bos>", "$A"], special_tokens=[("<bos>", 2)]
        )
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        unk_token="<unk>", model_max_length=4096, padding_side="right",
    )  # fmt: skip
    words.chat_template = (
        "{% for m in messages %}user: {{ m['content'] if m['content'] is string"
        " else m['content'][0]['text'] }} {% endfor %}assistant:"
    )
    words.save_pretrained(folder)
    return words


def language_model(kind: str, words: Any, width: int = 32, layers: int = 2) -> Any:
    """A language model of a transformers class, by the name of its configuration's class."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": width, "intermediate_size": 32, "head_dim": 16,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 2,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    if kind.startswith("Qwen3VL"):
        rope = {"mrope_section": [3, 3, 2], "rope_type": "default"}
        config: Any = transformers.Qwen3VLConfig(
            text_config={**sizes, "rope_scaling": rope},
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                           "out_hidden_size": width, "deepstack_visual_indexes": [0]},
        )  # fmt: skip
    elif kind == "Qwen2_5_VLForConditionalGeneration":
        text = {k: v for k, v in sizes.items() if k != "head_dim"}
        rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
        config = transformers.Qwen2_5_VLConfig(
            text_config={**text, "rope_scaling": rope},
            vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                           "out_hidden_size": width, "fullatt_block_indexes": [0]},
        )  # fmt: skip
    elif kind.startswith("Mistral3"):
        config = transformers.Mistral3Config(
            text_config={**sizes, "model_type": "mistral"},
            vision_config={"model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16,
                           "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
                           "image_size": 32, "patch_size": 16},
        )  # fmt: skip
    else:
        name = kind.removesuffix("ForCausalLM").removesuffix("Model") + "Config"
        config = getattr(transformers, name)(**sizes)
    return getattr(transformers, kind)(config)


def _language(
    kind: str, tokenizer: str = "", layers: int = 2, more: Sequence[str] = ()
) -> dict[str, Any]:
    """Text encoder and tokenizer of one pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        words = language_tokenizer(Path(folder), tokenizer, more)
    return {"text_encoder": language_model(kind, words, layers=layers), "tokenizer": words}


def flow_schedule(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def _qwen_image(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return d.QwenImagePipeline(
        transformer=transformer, vae=_qwen_autoencoder(),
        scheduler=flow_schedule(use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02,
                                max_image_seq_len=8192),
        **_language("Qwen2_5_VLForConditionalGeneration"),
    )  # fmt: skip


def _qwen_autoencoder() -> Any:
    import diffusers as d

    return d.AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.8, 1.0],
    )  # fmt: skip


def _qwen_image_21(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        context_in_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = d.AutoencoderKLQwenImage21(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True], latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.8, 1.0], scale_factor_spatial=8,
    )  # fmt: skip
    return d.QwenImage21Pipeline(
        transformer=transformer, vae=vae, sample_sigmas=[1.0, 0.8, 0.5],
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **_with_processor(**_language("Qwen3VLForConditionalGeneration")),
    )  # fmt: skip


def _with_processor(text_encoder: Any, tokenizer: Any) -> dict[str, Any]:
    """Text encoder and processor of one pipeline."""
    from textseg.backbone.processor_words import ProcessorWords

    words: Any = ProcessorWords(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template=tokenizer.chat_template,
        additional_special_tokens=["<|image_pad|>"], **tokenizer.special_tokens_map,
    )  # fmt: skip
    return {"text_encoder": text_encoder, "processor": words}


def _hunyuan_image(words: Any, t5_words: Any, distilled: bool = False) -> Any:
    import diffusers as d
    from transformers import ByT5Tokenizer

    transformer = d.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=32,
        text_embed_2_dim=24, rope_axes_dim=(8, 8), guidance_embeds=distilled,
        use_meanflow=distilled,
    )  # fmt: skip
    vae: Any = d.AutoencoderKLHunyuanImage
    letters = ByT5Tokenizer()
    return d.HunyuanImagePipeline(
        transformer=transformer,
        vae=vae(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32,) * 4,
                layers_per_block=1, spatial_compression_ratio=8, sample_size=64,
                scaling_factor=0.75),
        scheduler=flow_schedule(shift=4.0 if distilled else 5.0),
        text_encoder_2=t5(letters, 24), tokenizer_2=letters,
        **_language("Qwen2_5_VLForConditionalGeneration", layers=3),
    )  # fmt: skip


def _prx(words: Any, t5_words: Any) -> Any:
    import diffusers as d
    from diffusers.pipelines import prx
    from transformers import T5GemmaConfig

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = language_tokenizer(Path(folder), "gemma")
    tokenizer.model_max_length = 256
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "head_dim": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "query_pre_attn_scalar": 16, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    config: Any = T5GemmaConfig(encoder=dict(sizes), decoder=dict(sizes))
    encoder: Any = vars(prx)["T5GemmaEncoder"](config.encoder)
    for key, value in vars(config.encoder).items():
        vars(config).setdefault(key, value)
    config._attn_implementation = config.encoder._attn_implementation
    encoder.config = config  # which folders hold: encoder's and decoder's
    transformer = d.PRXTransformer2DModel(
        in_channels=4, context_in_dim=32, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8],
    )  # fmt: skip
    with warnings.catch_warnings():  # diffusers derives it from a class that it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        return d.PRXPipeline(
            transformer=transformer, scheduler=flow_schedule(shift=3.0), text_encoder=encoder,
            tokenizer=tokenizer, vae=autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
        )  # fmt: skip


def _hidream(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    kind: Any = d.HiDreamImageTransformer2DModel
    transformer = kind(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1,
        attention_head_dim=16, num_attention_heads=2, caption_channels=[24, 32],
        text_emb_dim=16 + 24, num_routed_experts=2, num_activated_experts=1,
        axes_dims_rope=(8, 4, 4), max_resolution=(8, 8), llama_layers=[1, 1],
    )  # fmt: skip
    llama = _language("LlamaForCausalLM", "gemma")
    return d.HiDreamImagePipeline(
        transformer=transformer, scheduler=flow_schedule(shift=3.0),
        vae=autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=clip(words, 16, True, longest=128), tokenizer=words,
        text_encoder_2=clip(words, 24, True, longest=128), tokenizer_2=words,
        text_encoder_3=t5(t5_words, 24), tokenizer_3=t5_words,
        text_encoder_4=llama["text_encoder"], tokenizer_4=llama["tokenizer"],
    )  # fmt: skip


def _nucleus_moe(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.NucleusMoEImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, joint_attention_dim=32, axes_dims_rope=(4, 6, 6), mlp_ratio=6.0,
        dense_moe_strategy="leave_first_block_dense", num_experts=2, moe_intermediate_dim=16,
        capacity_factors=1.0,
    )  # fmt: skip
    return d.NucleusMoEImagePipeline(
        transformer=transformer, vae=_qwen_autoencoder(),
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **_with_processor(**_language("Qwen3VLForConditionalGeneration", layers=8)),
    )  # fmt: skip


def _krea2(words: Any, t5_words: Any, distilled: bool = False) -> Any:
    import diffusers as d

    transformer = d.Krea2Transformer2DModel(
        in_channels=16, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=32,
        num_text_layers=2, text_num_attention_heads=2, text_num_key_value_heads=2,
        text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return d.Krea2Pipeline(
        transformer=transformer, vae=_qwen_autoencoder(), is_distilled=distilled,
        scheduler=flow_schedule(use_dynamic_shifting=True, max_image_seq_len=6400),
        text_encoder_select_layers=(1, 2), **_language("Qwen3VLModel"),
    )  # fmt: skip


def _z_image(words: Any, t5_words: Any, omni: bool = False) -> Any:
    import diffusers as d

    transformer = d.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=32, axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
        siglip_feat_dim=16 if omni else None,
    )  # fmt: skip
    # As if trained: what fills up a sequence starts as whatever lay in memory.
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(pad)
    pipeline: Any = d.ZImageOmniPipeline if omni else d.ZImagePipeline
    return pipeline(
        transformer=transformer, scheduler=flow_schedule(shift=3.0),
        vae=autoencoder(4, shift_factor=0.1, scaling_factor=0.4), **_language("Qwen3Model"),
        **(dict.fromkeys(("siglip", "siglip_processor")) if omni else {}),
    )  # fmt: skip


def _flux2_transformer(**options: Any) -> Any:
    import diffusers as d

    return d.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=96, timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4), **options,
    )  # fmt: skip


def _flux2_autoencoder() -> Any:
    import diffusers as d

    vae = d.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=4, layers_per_block=1,
        sample_size=64,
    )  # fmt: skip
    norm: Any = vae.bn
    norm.running_mean.normal_(std=0.3)
    norm.running_var.uniform_(0.5, 2.0)
    return vae


def _flux2_klein(words: Any, t5_words: Any, name: str = "Flux2Klein") -> Any:
    import diffusers

    return getattr(diffusers, name + "Pipeline")(
        transformer=_flux2_transformer(guidance_embeds=False), vae=_flux2_autoencoder(),
        scheduler=flow_schedule(use_dynamic_shifting=True),
        **_language("Qwen3ForCausalLM", layers=28),
    )  # fmt: skip


def _lumina2(words: Any, t5_words: Any) -> Any:
    import diffusers as d

    transformer = d.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 6, 6),
        axes_lens=(300, 64, 64), cap_feat_dim=32,
    )  # fmt: skip
    return d.Lumina2Pipeline(
        transformer=transformer, scheduler=flow_schedule(shift=6.0),
        vae=autoencoder(4, shift_factor=0.1, scaling_factor=0.4),
        **_language("Gemma2Model", "gemma"),
    )  # fmt: skip


def _sana(words: Any, t5_words: Any, sprint: bool = False) -> Any:
    import diffusers as d

    transformer = d.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=32, sample_size=8, guidance_embeds=sprint,
        qk_norm="rms_norm_across_heads" if sprint else None,
    )  # fmt: skip
    vae = d.AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4, encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4, scaling_factor=0.41, encoder_block_types="ResBlock",
    )  # fmt: skip
    scheduler: Any = d.SCMScheduler() if sprint else d.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )  # fmt: skip
    return (d.SanaSprintPipeline if sprint else d.SanaPipeline)(
        transformer=transformer, vae=vae, scheduler=scheduler,
        **_language("Gemma2Model", "gemma"),
    )  # fmt: skip


def flow_levels(family: str, config: Any) -> Any:
    """diffusers' flow scheduler at 1,000 even steps, shifted as a family of `FLOWS` shifts at its
    native size: 1024 pixels, of 64 x 64 packed cells."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.cogview4.pipeline_cogview4 import calculate_shift as cogview4_shift
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    dynamic = bool(config.get("use_dynamic_shifting"))
    scheduler: Any = FlowMatchEulerDiscreteScheduler(
        shift=config.get("shift") or config.get("flow_shift") or 1.0, use_dynamic_shifting=dynamic,
        time_shift_type=config.get("time_shift_type", "exponential"),
    )  # fmt: skip
    keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu: Any = None
    if dynamic and family == "cogview4":
        mu = cogview4_shift(4096, *(config[key] for key in (keys[0], *keys[2:])))
    elif dynamic and family == "krea2-turbo":
        mu = 1.15
    elif dynamic and family.startswith("flux2"):
        mu = compute_empirical_mu(4096, 50)
    elif dynamic:
        mu = calculate_shift(4096, *(config[key] for key in keys))
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.001, 1000), mu=mu)
    return scheduler


_BUILDERS: dict[str, Callable[[Any, Any], Any]] = {
    "latent-unet": _stable_diffusion,
    "sd2": _stable_diffusion_2,
    "lcm": _consistency,
    "sdxl": _xl,
    "sdxl-lcm": lambda words, t5_words: _xl(words, t5_words, time_cond_proj_dim=12),
    "kolors": _kolors,
    "sd3": _mmdit,
    "sd3-without-t5": lambda words, t5_words: _mmdit(words, t5_words, with_t5=False),
    "sd3.5": lambda words, t5_words: _mmdit(
        words, t5_words, qk_norm="rms_norm", dual_attention_layers=(0,)
    ),
    "flux": _flux,
    "flux-schnell": lambda words, t5_words: _flux(words, t5_words, guided=False),
    "pixart-sigma": _pixart,
    "qwen-image": _qwen_image,
    "z-image": _z_image,
    "flux2-klein": _flux2_klein,
    "lumina2": _lumina2,
    "sana": _sana,
    "pixart-alpha": lambda words, t5_words: _pixart(words, t5_words, alpha=True),
    "hunyuan-dit": _hunyuan_dit,
    "cogview3-plus": _cogview3,
    "cogview4": _cogview4,
    "aura-flow": _aura_flow,
    "chroma": _chroma,
    "flux2": _flux2,
    "lumina": _lumina,
    "ovis-image": _ovis_image,
    "longcat-image": _longcat_image,
    "bria": _bria,
    "flux2-klein-kv": lambda words, t5_words: _flux2_klein(words, t5_words, "Flux2KleinKV"),
    "z-image-omni": lambda words, t5_words: _z_image(words, t5_words, omni=True),
    "dreamlite": _dreamlite,
    "dreamlite-mobile": lambda words, t5_words: _dreamlite(words, t5_words, mobile=True),
    "bria-fibo": _bria_fibo,
    "bria-fibo-2": _bria_fibo_2,
    "kandinsky3": _kandinsky3,
    "kandinsky5": _kandinsky5,
    "ernie-image": _ernie_image,
    "krea2": _krea2,
    "qwen-image-2.1": _qwen_image_21,
    "prx": _prx,
    "hidream": _hidream,
    "nucleus-moe": _nucleus_moe,
    "hunyuan-image": _hunyuan_image,
    "hunyuan-image-distilled": lambda words, t5_words: _hunyuan_image(words, t5_words, True),
    "krea2-turbo": lambda words, t5_words: _krea2(words, t5_words, distilled=True),
    "sana-sprint": lambda words, t5_words: _sana(words, t5_words, sprint=True),
}


def predicted(model: Any, prompt: str = "the dog") -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(1, model.channels, 6, 8, generator=generator)
    return model.predict(noisy, model.timestep(0.5), model.embed([prompt])[0])


def write_gguf(weights: dict[str, torch.Tensor], path: Path, architecture: str) -> Path:
    """Weights in a GGUF file, layers of whole blocks in 8 bits (Q8_0); in files of experts the gate
    that chooses them is not quantised."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for name, value in weights.items():
        array = value.numpy()
        layer = name.endswith("weight") and array.ndim == 2 and array.shape[0] > 1
        if layer and not name.endswith("ff_i.gate.weight") and array.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
