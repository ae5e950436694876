"""Stable Diffusion 1 and 2 and their kin: a UNet over autoencoder latents, CLIP text."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, ModelError
from ..options import ContrastOptions, RefineOptions
from .base import Backbone
from .registry import check_model, read_calibration, read_json
from .schedulers import nearest_timestep, reference_signal, signal_powers

MAX_ASPECT = 16.0
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
_KEPT_EMBEDDINGS = 256
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16,
    "fp16": torch.float16, "half": torch.float16, "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}  # fmt: skip
_EXTRA_CHANNELS = {
    5: "a depth map (depth-to-image)",
    7: "a low-resolution image (upscaling)",
    8: "a second image (instruction editing)",
    9: "a mask and a masked image (inpainting)",
}


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the first of cuda, mps, cpu that is there."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device must be one that this machine has, got {device!r}") from error
    return chosen


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype asked for, or float16 on cuda and float32 elsewhere."""
    if dtype is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    chosen = _DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise InputError(f"dtype must be float32, float16 or bfloat16, got {dtype!r}")
    return chosen


class LatentUNet(Backbone):
    """A UNet2DConditionModel over an autoencoder's latents, told its text by CLIP.

    The UNet and the text encoder run in `dtype`, the autoencoder as it was given (in float32 when
    loaded by `from_folder`: half precision overflows in some).

    Attributes:
        prediction_type: what the UNet predicts: "epsilon", "v_prediction" or "sample".
        max_tokens: token limit of a prompt, start and end included.
        expand_prompt: writes out learned words that stand for several tokens.
    """

    family = "latent-unet"
    _unsupported: tuple[str, ...] = (
        "class_embed_type", "addition_embed_type", "time_cond_proj_dim", "encoder_hid_dim_type",
        "num_class_embeds",
    )  # fmt: skip

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        name: str,
        calibration: dict[str, Any] | None = None,
    ) -> None:
        """Wrap loaded diffusers components; they are used as they are, on the UNet's device.

        Args:
            calibration: the content of a `textseg.json`; see `Backbone.calibration`. "native_size"
                overrides the UNet's own, "words" lists a closed vocabulary.

        Raises:
            ModelError: the parts do not make a plain text-to-image model.
        """
        self.name = name
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.calibration = dict(calibration or {})
        self._check_parts()
        self.device, self.dtype = unet.device, unet.dtype
        self.prediction_type: str = scheduler.config.get("prediction_type", "epsilon")
        self._alphas = self._signal_powers()
        self.num_train_timesteps = len(self._alphas)
        blocks = vae.config.get("encoder_block_out_channels") or vae.config["block_out_channels"]
        self.factor = 2 ** (len(blocks) - 1)
        sample = unet.config.get("sample_size") or 64
        cells = math.sqrt(math.prod(sample)) if isinstance(sample, (list, tuple)) else sample
        self.native_size = int(self.calibration.get("native_size", round(cells * self.factor)))
        self.multiple = self._side_multiple()
        self.max_aspect = MAX_ASPECT
        self.max_tokens = self._token_limit()
        words = self.calibration.get("words")
        self._words = None if words is None else frozenset(w.lower() for w in words)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.expand_prompt: Callable[[str], str] = str
        self._contrast = self._defaults(ContrastOptions, "contrast")
        self._refine = self._defaults(RefineOptions, "refine")
        presence = self.calibration.get("presence")
        if presence is not None and not {"weights", "offset"} <= set(presence):
            raise ModelError(
                f"{self.name!r} has a bad 'presence' in textseg.json: weights and offset are "
                f"needed, got {presence!r}"
            )

    @classmethod
    def from_pipeline(
        cls, pipe: Any, name: str = "pipeline", calibration: dict[str, Any] | None = None
    ) -> LatentUNet:
        """Wrap a diffusers pipeline's parts, on its device and in its dtype; nothing is copied
        and nothing in the pipeline is changed."""
        missing = [part for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
                   if getattr(pipe, part, None) is None]  # fmt: skip
        if missing:
            raise ModelError(f"pipeline must have a {missing[0]}, got a {type(pipe).__name__}")
        return cls(unet=pipe.unet, vae=pipe.vae, text_encoder=pipe.text_encoder,
                   tokenizer=pipe.tokenizer, scheduler=pipe.scheduler, name=name,
                   calibration=calibration)  # fmt: skip

    @classmethod
    def from_folder(
        cls,
        path: Path,
        *,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> LatentUNet:
        """Load a diffusers pipeline folder from safetensors files; never touches the network.

        Raises:
            ModelError: names the file that is missing, damaged or of another family.
        """
        path = Path(path)
        where = pick_device(device)
        what = pick_dtype(dtype, where)
        variants = check_model(path)
        calibration = read_calibration(path)
        parts = _load_parts(path, variants)
        for part, precision in (("unet", what), ("text_encoder", what), ("vae", torch.float32)):
            # diffusers' own `to` logs a warning that does not apply to these models.
            torch.nn.Module.to(parts[part], where, precision)
            parts[part].eval().requires_grad_(False)
        model = cls(**parts, name=name or str(path), calibration=calibration)
        if where.type == "cpu":
            model._use_plain_attention()
        return model

    def tune(
        self,
        *,
        channels_last: bool = False,
        compiled: bool = False,
        tiling: bool = False,
        attention: str | None = None,
    ) -> LatentUNet:
        """Change how the networks run, in place; the last bits of predictions change with it.

        Args:
            channels_last: keep the convolutions' weights channels last, which some devices favour.
            compiled: compile the UNet with torch.compile, at its first evaluation of each shape;
                needs a compiler.
            tiling: run the autoencoder tile by tile: less memory for large images, and faint seams.
            attention: "plain", two matrix products, fastest for few cells and short texts on the
                CPU; "fused", torch's kernel, whose memory does not grow with the square of cells.

        Returns:
            the model itself.

        Raises:
            InputError: no such attention.
        """
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        kinds = {"plain": AttnProcessor, "fused": AttnProcessor2_0}
        if attention is not None and attention not in kinds:
            raise InputError(f"attention must be 'plain' or 'fused', got {attention!r}")
        if attention is not None:
            self.unet.set_attn_processor(kinds[attention]())
        if channels_last:
            for part in (self.unet, self.vae):
                torch.nn.Module.to(part, memory_format=torch.channels_last)
        if tiling:
            self.vae.enable_tiling()
        if compiled:
            self.unet.compile()
        return self

    @property
    def contrast_defaults(self) -> ContrastOptions:
        return self._contrast

    @property
    def refine_defaults(self) -> RefineOptions:
        return self._refine

    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """The size (H, W) an image is brought to.

        About native_size^2 in area; of the multiples around that, the pair whose aspect (weighted
        four to one against area) fits best, so sides are off by at most half a multiple. Aspects
        beyond `max_aspect` (16) are brought to it: only there an image is stretched.
        """
        if height < 1 or width < 1:
            raise InputError(f"image sides must be at least 1, got {height} x {width}")
        aspect = min(max(width / height, 1 / self.max_aspect), self.max_aspect)
        ideal = self.native_size / math.sqrt(aspect), self.native_size * math.sqrt(aspect)

        def around(side: float) -> list[int]:
            below = max(1, math.floor(side / self.multiple)) * self.multiple
            return [below, below + self.multiple]

        def misfit(size: tuple[int, int]) -> float:
            h, w = size
            area = h * w / self.native_size**2
            return 4 * abs(math.log(w / h / aspect)) + abs(math.log(area))

        return min(((h, w) for h in around(ideal[0]) for w in around(ideal[1])), key=misfit)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> torch.Tensor:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        if image.shape[0] % self.factor or image.shape[1] % self.factor:
            raise InputError(
                f"image sides must be multiples of {self.factor}, "
                f"got {image.shape[0]} x {image.shape[1]}"
            )
        pixels = torch.from_numpy(np.array(image)).to(self.device)
        pixels = (pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).to(self.vae.dtype)
        encoded = self.vae.encode(pixels)
        latents = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latents
        scale, shift = self._latent_scale()
        return ((latents[0].float() - shift) * scale).contiguous()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        scale, shift = self._latent_scale()
        latents = latents[None].to(self.device, torch.float32) / scale + shift
        pixels = self.vae.decode(latents.to(self.vae.dtype)).sample[0].float()
        pixels = ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        if isinstance(prompts, str) or not prompts:
            raise InputError(f"prompts must be a list of one or more texts, got {prompts!r}")
        return torch.stack([self._embed_one(prompt) for prompt in prompts])

    def unknown_words(self, prompt: str) -> list[str]:
        if self._words is None:
            return []
        words = re.findall(r"[^\W_]+", prompt.lower())
        return [w for w in dict.fromkeys(words) if w not in self._words]

    def truncated_words(self, prompt: str) -> str:
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        cut = ids[self.max_tokens - 1 : -1]
        return str(self.tokenizer.decode(cut, skip_special_tokens=True)).strip()

    def timestep(self, strength: float) -> int:
        if not 0 < strength <= 1:
            raise InputError(f"strength must be in (0, 1], got {strength!r}")
        last = len(reference_signal()) - 1
        return self.same_noise(min(round(strength * (last + 1)), last))

    def same_noise(self, t: int) -> int:
        return nearest_timestep(self._alphas, reference_signal()[t])

    def diffusers_timestep(self, strength: float, steps: int) -> int:
        """The timestep diffusers' image-to-image pipelines start from at this strength."""
        kept = min(int(steps * strength), steps)
        if kept < 1:
            raise InputError(f"strength must be at least 1 / {steps} steps, got {strength!r}")
        changes = {"steps_offset": 1} if "steps_offset" in self.scheduler.config else {}
        scheduler = copy.deepcopy(self.scheduler)
        scheduler.register_to_config(**changes)
        scheduler.set_timesteps(steps)
        return int(scheduler.timesteps[(steps - kept) * scheduler.order])

    def alpha_bar(self, t: int) -> float:
        if not -1 <= t < self.num_train_timesteps:
            raise InputError(f"t must be in [-1, {self.num_train_timesteps}), got {t!r}")
        if t == -1:
            return 1.0 if self.scheduler.config.get("set_alpha_to_one", True) else self.alpha_bar(0)
        return float(self._alphas[t])

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        a = self.alpha_bar(t)
        return math.sqrt(a) * latents.to(self.device)[None] + math.sqrt(1 - a) * noise.to(
            self.device
        )

    @torch.inference_mode()
    def predict(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        noisy = noisy.to(self.device, torch.float32)
        if embedding.ndim == 2:
            embedding = embedding.expand(len(noisy), -1, -1)
        embedding = embedding.to(self.device, self.dtype)
        out = self.unet(noisy.to(self.dtype), t, **self._conditions(embedding, noisy.shape))
        return self.to_epsilon(out.sample.float(), noisy, t)

    def to_epsilon(self, output: torch.Tensor, noisy: torch.Tensor, t: int) -> torch.Tensor:
        """The UNet's output at timestep t as predicted noise, float32.

        v-prediction: eps = sqrt(abar) v + sqrt(1 - abar) x_t (Salimans and Ho 2022,
        arXiv 2202.00512); sample: eps = (x_t - sqrt(abar) x_0) / sqrt(1 - abar).
        """
        if self.prediction_type == "epsilon":
            return output
        a = self.alpha_bar(t)
        if self.prediction_type == "v_prediction":
            return math.sqrt(a) * output + math.sqrt(1 - a) * noisy
        return (noisy - math.sqrt(a) * output) / math.sqrt(1 - a)

    def _embed_one(self, prompt: str) -> torch.Tensor:
        if prompt in self._embeddings:
            self._embeddings.move_to_end(prompt)
            return self._embeddings[prompt]
        embedding = self._encode_text(prompt)
        self._embeddings[prompt] = embedding
        if len(self._embeddings) > _KEPT_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        return embedding

    def _encode_text(self, prompt: str) -> torch.Tensor:
        """The embedding (L, D) float32 of one prompt."""
        tokens = self.tokenizer(
            self.expand_prompt(prompt),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        masked = self.text_encoder.config.to_dict().get("use_attention_mask")
        mask = tokens.attention_mask if masked else None
        return self.text_encoder(tokens.input_ids, attention_mask=mask)[0][0].float()

    def _conditions(self, embedding: torch.Tensor, shape: torch.Size) -> dict[str, Any]:
        """What the UNet is told of the text, (N, L, D), for noisy latents of `shape`."""
        return {"encoder_hidden_states": embedding}

    def _signal_powers(self) -> torch.Tensor:
        """alpha_bar at every timestep, (T,) float64 on the CPU."""
        return signal_powers(self.scheduler)

    def _token_limit(self) -> int:
        positions = self.text_encoder.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, positions)

    def _text_width(self) -> int:
        return self.text_encoder.config.hidden_size

    def _latent_scale(self) -> tuple[float, float]:
        config = self.vae.config
        return config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0

    def _side_multiple(self) -> int:
        """Pixels that image sides are multiples of.

        The coarsest level of the UNet has cells of factor * 2^(levels - 1) pixels, but a UNet takes
        any number of latent cells (odd levels are padded going down and cropped going up). So the
        multiple is halved until it is at most an eighth of the native size: aspects stay true.
        """
        multiple = self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)
        while multiple > self.factor and multiple > self.native_size / 8:
            multiple //= 2
        return multiple

    def _use_plain_attention(self) -> None:
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
        for key in self._unsupported:
            if unet.get(key) is not None:
                raise ModelError(f"{self.name!r} has a UNet with {key}, which is not supported")
        if unet.get("cross_attention_dim") != self._text_width():
            raise ModelError(
                f"{self.name!r} has a text encoder of width {self._text_width()} "
                f"where its UNet takes {unet.get('cross_attention_dim')}"
            )
        self._check_schedule()

    def _check_schedule(self) -> None:
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES or not hasattr(self.scheduler, "alphas_cumprod"):
            raise ModelError(
                f"{self.name!r} has a {type(self.scheduler).__name__} predicting {kind!r}; "
                f"supported are diffusion schedulers predicting {', '.join(PREDICTION_TYPES)}"
            )

    def _defaults(self, kind: Any, key: str) -> Any:
        fields = self.calibration.get(key, {})
        try:
            return kind(**fields)
        except (TypeError, InputError) as error:
            raise ModelError(f"{self.name!r} has a bad {key!r} in textseg.json: {error}") from error


def _load_parts(path: Path, variants: dict[str, str | None]) -> dict[str, Any]:
    import diffusers
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

    vae_class = read_json(path / "vae" / "config.json", path).get("_class_name")
    vaes = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    if vae_class not in vaes:
        raise ModelError(f"{path} has a {vae_class}; supported are {', '.join(vaes)}")
    config = read_json(path / "scheduler" / "scheduler_config.json", path)
    scheduler = getattr(diffusers, str(config.get("_class_name")), None)
    if scheduler is None:
        raise ModelError(f"{path} has an unknown scheduler {config.get('_class_name')!r}")
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    local: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    try:
        return {
            "unet": UNet2DConditionModel.from_pretrained(
                path / "unet", variant=variants["unet"], low_cpu_mem_usage=False, **local
            ),
            "vae": vaes[vae_class].from_pretrained(
                path / "vae", variant=variants["vae"], low_cpu_mem_usage=False, **local
            ),
            "text_encoder": CLIPTextModel.from_pretrained(
                path / "text_encoder", variant=variants["text_encoder"], **local
            ),
            "tokenizer": CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True),
            "scheduler": scheduler.from_config(config),
        }
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{path} cannot be loaded: {reason[0]}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
