"""The model families: how each is recognised, and what its pipeline folder must hold.

Nothing here imports torch: listing and checking models takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

NETWORK, TEXT = "diffusion_pytorch_model", "model"
AUTOENCODER_PARTS = ("vae", "movq")
"""Names that pipelines give the part between pixels and latents."""


@dataclass(frozen=True)
class Family:
    """One kind of pipeline.

    Attributes:
        name: as in `Backbone.family`.
        title: what people call it.
        pipeline: the diffusers class that text-to-image folders of it name.
        denoiser: the part that predicts: "unet" or "transformer".
        networks: part -> class, of the parts that have weights.
        tokenizers: part -> class.
        backbone: module of `textseg.backbone` and class.
        also: other diffusers classes whose folders hold the same.
        optional: text encoders that a folder may do without.
        apart: parts that its published folders lack -> what to put there.
        arguments: what diffusers' pipeline is made with beside its parts.
        settings: keys of `model_index.json` that the pipeline is made with, where they are there.
        bare: whether the parts are used without a pipeline, and are put into a
            `StableDiffusionPipeline` only to load LoRAs or words into them.
        mark: a key of the denoiser's config that, among the families of the same networks, only
            this one sets; folders of either are in use under either's pipeline.
        guidance: the guidance scale of its pipeline in diffusers, where 1 is none.
        steps: the steps of its pipeline in diffusers, where it is made for a few; else 0.
    """

    name: str
    title: str
    pipeline: str
    denoiser: str
    networks: Mapping[str, str]
    tokenizers: Mapping[str, str]
    backbone: tuple[str, str]
    also: tuple[str, ...] = ()
    optional: frozenset[str] = field(default_factory=frozenset)
    apart: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    bare: bool = False
    mark: str = ""
    guidance: float = 7.5
    steps: int = 0

    @property
    def autoencoder(self) -> str:
        """The part between pixels and latents."""
        return next(part for part in AUTOENCODER_PARTS if part in self.networks)

    @property
    def weights(self) -> dict[str, str]:
        """Part -> name of its weights file without the ending."""
        return {
            part: TEXT if part.startswith("text_encoder") else NETWORK for part in self.networks
        }

    def without(self, parts: set[str]) -> Family:
        """The family with some optional text encoders left out."""
        gone = parts | {part.replace("text_encoder", "tokenizer") for part in parts}
        return replace(
            self,
            networks={k: v for k, v in self.networks.items() if k not in gone},
            tokenizers={k: v for k, v in self.tokenizers.items() if k not in gone},
            optional=self.optional - parts,
        )


_CLIP, _CLIP_PROJECTED, _T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
ANY, ANY_WORDS = "AutoModel", "AutoTokenizer"
"""A text encoder or tokenizer of the class that the folder names."""
_CLIP_WORDS, _T5_WORDS = "CLIPTokenizer", "T5TokenizerFast"

LATENT_UNET = Family(
    "latent-unet", "Stable Diffusion 1 and 2", "StableDiffusionPipeline", "unet",
    {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": _CLIP},
    {"tokenizer": _CLIP_WORDS},
    ("latent_unet", "LatentUNet"),
    ("StableDiffusionImg2ImgPipeline", "StableDiffusionDiffEditPipeline",
     "StableDiffusionInpaintPipeline", "StableDiffusionPAGPipeline", "StableDiffusionSAGPipeline",
     "StableDiffusionAttendAndExcitePipeline", "StableDiffusionPanoramaPipeline",
     "StableDiffusionParadigmsPipeline", "StableDiffusionModelEditingPipeline",
     "SemanticStableDiffusionPipeline", "StableDiffusionPipelineSafe", "CycleDiffusionPipeline"),
    bare=True,
    arguments={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)  # fmt: skip
CONSISTENCY = replace(
    LATENT_UNET, name="lcm", title="latent consistency models",
    pipeline="LatentConsistencyModelPipeline", backbone=("lcm", "ConsistencyUNet"),
    also=("LatentConsistencyModelImg2ImgPipeline",), mark="time_cond_proj_dim",
    guidance=8.5, steps=4,
)  # fmt: skip
SDXL = Family(
    "sdxl", "SDXL", "StableDiffusionXLPipeline", "unet",
    {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": _CLIP,
     "text_encoder_2": _CLIP_PROJECTED},
    {"tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS},
    ("sdxl", "LatentUNetXL"), ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLPAGPipeline"),
    arguments={"add_watermarker": False}, settings=("force_zeros_for_empty_prompt",),
    guidance=5.0,
)  # fmt: skip
KOLORS = Family(
    "kolors", "Kolors", "KolorsPipeline", "unet",
    {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "ChatGLMModel"},
    {"tokenizer": "ChatGLMTokenizer"},
    ("kolors", "Kolors"), ("KolorsImg2ImgPipeline", "KolorsPAGPipeline"),
    guidance=5.0,
)  # fmt: skip
SD3 = Family(
    "sd3", "Stable Diffusion 3 and 3.5", "StableDiffusion3Pipeline", "transformer",
    {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL",
     "text_encoder": _CLIP_PROJECTED, "text_encoder_2": _CLIP_PROJECTED, "text_encoder_3": _T5},
    {"tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS, "tokenizer_3": _T5_WORDS},
    ("sd3", "MMDiT"), ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGPipeline"),
    optional=frozenset({"text_encoder_3"}),
    guidance=7.0,
)  # fmt: skip
FLUX = Family(
    "flux", "Flux.1", "FluxPipeline", "transformer",
    {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": _CLIP,
     "text_encoder_2": _T5},
    {"tokenizer": _CLIP_WORDS, "tokenizer_2": _T5_WORDS},
    ("flux", "Flux"), ("FluxImg2ImgPipeline",),
    guidance=3.5,
)  # fmt: skip
PIXART = Family(
    "pixart-sigma", "PixArt-Sigma", "PixArtSigmaPipeline", "transformer",
    {"transformer": "PixArtTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": _T5},
    {"tokenizer": _T5_WORDS},
    ("pixart", "PixArtSigma"), ("PixArtSigmaPAGPipeline",),
    guidance=4.5,
)  # fmt: skip
PIXART_ALPHA = replace(
    PIXART, name="pixart-alpha", title="PixArt-alpha", pipeline="PixArtAlphaPipeline",
    backbone=("pixart", "PixArtAlpha"), also=(),
)  # fmt: skip
HUNYUAN_DIT = Family(
    "hunyuan-dit", "HunyuanDiT", "HunyuanDiTPipeline", "transformer",
    {"transformer": "HunyuanDiT2DModel", "vae": "AutoencoderKL", "text_encoder": "BertModel",
     "text_encoder_2": _T5},
    {"tokenizer": ANY_WORDS, "tokenizer_2": ANY_WORDS},
    ("hunyuan_dit", "HunyuanDiT"), ("HunyuanDiTPAGPipeline",),
    arguments={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    guidance=5.0,
)  # fmt: skip
COGVIEW3 = Family(
    "cogview3-plus", "CogView3-Plus", "CogView3PlusPipeline", "transformer",
    {"transformer": "CogView3PlusTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": _T5},
    {"tokenizer": _T5_WORDS},
    ("cogview", "CogView3Plus"),
    guidance=5.0,
)  # fmt: skip
COGVIEW4 = Family(
    "cogview4", "CogView4", "CogView4Pipeline", "transformer",
    {"transformer": "CogView4Transformer2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("cogview", "CogView4"),
    guidance=5.0,
)  # fmt: skip
AURA_FLOW = Family(
    "aura-flow", "AuraFlow", "AuraFlowPipeline", "transformer",
    {"transformer": "AuraFlowTransformer2DModel", "vae": "AutoencoderKL",
     "text_encoder": "UMT5EncoderModel"},
    {"tokenizer": ANY_WORDS},
    ("aura_flow", "AuraFlow"),
    guidance=3.5,
)  # fmt: skip
CHROMA = Family(
    "chroma", "Chroma", "ChromaPipeline", "transformer",
    {"transformer": "ChromaTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": _T5},
    {"tokenizer": _T5_WORDS},
    ("flux_kin", "Chroma"), ("ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    guidance=5.0,
)  # fmt: skip
OVIS = Family(
    "ovis-image", "Ovis-Image", "OvisImagePipeline", "transformer",
    {"transformer": "OvisImageTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("flux_kin", "OvisImage"),
    guidance=5.0,
)  # fmt: skip
LONGCAT = Family(
    "longcat-image", "LongCat-Image", "LongCatImagePipeline", "transformer",
    {"transformer": "LongCatImageTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("flux_kin", "LongCatImage"),
    arguments={"text_processor": None},
    guidance=4.5,
)  # fmt: skip
BRIA = Family(
    "bria", "Bria 3", "BriaPipeline", "transformer",
    {"transformer": "BriaTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": _T5},
    {"tokenizer": _T5_WORDS},
    ("flux_kin", "Bria"),
    guidance=5.0,
)  # fmt: skip
BRIA_FIBO = Family(
    "bria-fibo", "Bria FIBO", "BriaFiboPipeline", "transformer",
    {"transformer": "BriaFiboTransformer2DModel", "vae": "AutoencoderKLWan", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("bria_fibo", "BriaFibo"),
    guidance=5.0,
)  # fmt: skip
BRIA_FIBO_2 = Family(
    "bria-fibo-2", "Bria FIBO 2", "BriaFibo2Pipeline", "transformer",
    {"transformer": "BriaFibo2Transformer2DModel", "vae": "AutoencoderKLFlux2",
     "text_encoder": ANY},
    {"processor": "ProcessorWords"},
    ("bria_fibo", "BriaFibo2"),
    guidance=5.0,
)  # fmt: skip
DREAMLITE = Family(
    "dreamlite", "DreamLite", "DreamLitePipeline", "unet",
    {"unet": "DreamLiteUNetModel", "vae": "AutoencoderTiny", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("dreamlite", "DreamLite"),
    arguments={"processor": None},
    guidance=3.5,
)  # fmt: skip
DREAMLITE_MOBILE = replace(
    DREAMLITE, name="dreamlite-mobile", title="DreamLite Mobile",
    pipeline="DreamLiteMobilePipeline", backbone=("dreamlite", "DreamLiteMobile"),
    guidance=1.0, steps=4,
)  # fmt: skip
KANDINSKY3 = Family(
    "kandinsky3", "Kandinsky 3", "Kandinsky3Pipeline", "unet",
    {"unet": "Kandinsky3UNet", "movq": "VQModel", "text_encoder": _T5},
    {"tokenizer": _T5_WORDS},
    ("kandinsky3", "Kandinsky3"), ("Kandinsky3Img2ImgPipeline",),
    guidance=4.0,
)  # fmt: skip
KANDINSKY5 = Family(
    "kandinsky5", "Kandinsky 5 image", "Kandinsky5T2IPipeline", "transformer",
    {"transformer": "Kandinsky5Transformer3DModel", "vae": "AutoencoderKL", "text_encoder": ANY,
     "text_encoder_2": _CLIP},
    {"tokenizer": ANY_WORDS, "tokenizer_2": _CLIP_WORDS},
    ("kandinsky5", "Kandinsky5"), ("Kandinsky5I2IPipeline",),
    guidance=3.5,
)  # fmt: skip
QWEN_IMAGE = Family(
    "qwen-image", "Qwen-Image", "QwenImagePipeline", "transformer",
    {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage",
     "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("qwen_image", "QwenImage"), ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    guidance=4.0,
)  # fmt: skip
QWEN_IMAGE_21 = Family(
    "qwen-image-2.1", "Qwen-Image 2.1", "QwenImage21Pipeline", "transformer",
    {"transformer": "QwenImage21Transformer2DModel", "vae": "AutoencoderKLQwenImage21",
     "text_encoder": ANY},
    {"processor": "ProcessorWords"},
    ("qwen_image", "QwenImage21"),
    settings=("sample_sigmas",),
    guidance=1.0,
)  # fmt: skip
Z_IMAGE = Family(
    "z-image", "Z-Image", "ZImagePipeline", "transformer",
    {"transformer": "ZImageTransformer2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("z_image", "ZImage"), ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    guidance=6.0,
)  # fmt: skip
Z_IMAGE_OMNI = replace(
    Z_IMAGE, name="z-image-omni", title="Z-Image Omni", pipeline="ZImageOmniPipeline",
    backbone=("z_image", "ZImageOmni"), also=(),
    arguments={"siglip": None, "siglip_processor": None},
)  # fmt: skip
FLUX2_KLEIN = Family(
    "flux2-klein", "Flux.2 klein", "Flux2KleinPipeline", "transformer",
    {"transformer": "Flux2Transformer2DModel", "vae": "AutoencoderKLFlux2", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("flux2", "Flux2Klein"), ("Flux2KleinInpaintPipeline",),
    settings=("is_distilled",),
    guidance=4.0,
)  # fmt: skip
ERNIE_IMAGE = Family(
    "ernie-image", "ERNIE-Image", "ErnieImagePipeline", "transformer",
    {"transformer": "ErnieImageTransformer2DModel", "vae": "AutoencoderKLFlux2",
     "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("ernie_image", "ErnieImage"),
    arguments={"pe": None, "pe_tokenizer": None},
    guidance=4.0,
)  # fmt: skip
FLUX2 = replace(
    FLUX2_KLEIN, name="flux2", title="Flux.2 dev", pipeline="Flux2Pipeline",
    backbone=("flux2", "Flux2"), also=(), settings=(),
)  # fmt: skip
FLUX2_KLEIN_KV = replace(
    FLUX2_KLEIN, name="flux2-klein-kv", title="Flux.2 klein KV", pipeline="Flux2KleinKVPipeline",
    backbone=("flux2", "Flux2KleinKV"), also=(), settings=(), guidance=1.0, steps=4,
)  # fmt: skip
LUMINA = Family(
    "lumina", "Lumina-Next", "LuminaPipeline", "transformer",
    {"transformer": "LuminaNextDiT2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("lumina", "Lumina"),
    guidance=4.0,
)  # fmt: skip
LUMINA2 = Family(
    "lumina2", "Lumina-Image 2", "Lumina2Pipeline", "transformer",
    {"transformer": "Lumina2Transformer2DModel", "vae": "AutoencoderKL", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("lumina2", "Lumina2"),
    guidance=4.0,
)  # fmt: skip
SANA = Family(
    "sana", "Sana", "SanaPipeline", "transformer",
    {"transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC", "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("sana", "Sana"), ("SanaPAGPipeline",),
    guidance=4.5,
)  # fmt: skip
SANA_SPRINT = replace(
    SANA, name="sana-sprint", title="Sana Sprint", pipeline="SanaSprintPipeline",
    backbone=("sana", "SanaSprint"), also=("SanaSprintImg2ImgPipeline",),
    steps=2,
)  # fmt: skip
KREA2 = Family(
    "krea2", "Krea 2", "Krea2Pipeline", "transformer",
    {"transformer": "Krea2Transformer2DModel", "vae": "AutoencoderKLQwenImage",
     "text_encoder": ANY},
    {"tokenizer": ANY_WORDS},
    ("krea2", "Krea2"),
    settings=("text_encoder_select_layers", "is_distilled"),
    guidance=5.5,
)  # fmt: skip
HUNYUAN_IMAGE = Family(
    "hunyuan-image", "HunyuanImage", "HunyuanImagePipeline", "transformer",
    {"transformer": "HunyuanImageTransformer2DModel", "vae": "AutoencoderKLHunyuanImage",
     "text_encoder": ANY, "text_encoder_2": _T5},
    {"tokenizer": ANY_WORDS, "tokenizer_2": "ByT5Tokenizer"},
    ("hunyuan_image", "HunyuanImage"),
    guidance=3.5,
)  # fmt: skip
PRX = Family(
    "prx", "PRX", "PRXPipeline", "transformer",
    {"transformer": "PRXTransformer2DModel", "vae": "AutoencoderKL",
     "text_encoder": "T5GemmaEncoder"},
    {"tokenizer": ANY_WORDS},
    ("prx", "Prx"),
    settings=("default_sample_size",),
    guidance=4.0,
)  # fmt: skip
HIDREAM = Family(
    "hidream", "HiDream-I1", "HiDreamImagePipeline", "transformer",
    {"transformer": "HiDreamImageTransformer2DModel", "vae": "AutoencoderKL",
     "text_encoder": _CLIP_PROJECTED, "text_encoder_2": _CLIP_PROJECTED, "text_encoder_3": _T5,
     "text_encoder_4": "LlamaForCausalLM"},
    {"tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS, "tokenizer_3": ANY_WORDS,
     "tokenizer_4": ANY_WORDS},
    ("hidream", "HiDream"),
    apart={"text_encoder_4": "Llama 3.1 8B Instruct",
           "tokenizer_4": "the tokenizer of Llama 3.1 8B Instruct"},
    guidance=5.0,
)  # fmt: skip
NUCLEUS_MOE = Family(
    "nucleus-moe", "Nucleus-Image", "NucleusMoEImagePipeline", "transformer",
    {"transformer": "NucleusMoEImageTransformer2DModel", "vae": "AutoencoderKLQwenImage",
     "text_encoder": ANY},
    {"processor": "ProcessorWords"},
    ("nucleus_moe", "NucleusMoE"),
    guidance=4.0,
)  # fmt: skip

ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("ChatGLMModel", "ChatGLMTokenizer"), "diffusers.pipelines.kolors"),
    "T5GemmaEncoder": "diffusers.pipelines.prx",
    "ProcessorWords": f"{__package__}.processor_words",
}
"""Text encoders and tokenizers that are not of transformers -> module."""
SAMPLED = {"AutoencoderKL": "diffusers",
           "SemanticAutoencoder": f"{__package__}.semantic_autoencoder"}  # fmt: skip
"""Autoencoders that encode to a distribution, as most diffusers pipelines expect -> module."""
AUTOENCODERS = SAMPLED | dict.fromkeys(
    ("AutoencoderTiny", "AutoencoderKLWan",
     "AutoencoderDC", "AutoencoderKLFlux2", "AutoencoderKLQwenImage",
     "AutoencoderKLQwenImage21", "AutoencoderKLHunyuanImage", "VQModel"), "diffusers",
)  # fmt: skip
ALL = (LATENT_UNET, CONSISTENCY, SDXL, KOLORS, SD3, FLUX, FLUX2, FLUX2_KLEIN, FLUX2_KLEIN_KV,
       QWEN_IMAGE, QWEN_IMAGE_21, Z_IMAGE, Z_IMAGE_OMNI, SANA, SANA_SPRINT, LUMINA, LUMINA2,
       HIDREAM, PIXART_ALPHA, PIXART, HUNYUAN_DIT, HUNYUAN_IMAGE, AURA_FLOW, CHROMA,
       COGVIEW3, COGVIEW4, KANDINSKY3, KANDINSKY5, BRIA, BRIA_FIBO, BRIA_FIBO_2, OVIS, LONGCAT,
       DREAMLITE, DREAMLITE_MOBILE, ERNIE_IMAGE, KREA2, NUCLEUS_MOE, PRX)  # fmt: skip
BY_PIPELINE = {name: family for family in ALL for name in (family.pipeline, *family.also)}
"""`_class_name` of a `model_index.json` -> its family."""
SUPPORTED = ", ".join(family.title for family in ALL)


def refusal(index: Mapping[str, Any]) -> str | None:
    """Why a pipeline of a known class is still not a model to load; None if it is.

    >>> refusal({"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]})
    'the SDXL refiner, ...'
    """
    if index.get("_class_name") == "StableDiffusionXLImg2ImgPipeline" and (
        index.get("requires_aesthetics_score") or index.get("text_encoder") == [None, None]
    ):
        return (
            "the SDXL refiner, which only finishes images that the base model began and lacks one "
            "of its text encoders; use the base model"
        )
    return None
