"""What every family shares: a network over an autoencoder's latents, told its text by encoders."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError, ModelError
from ..options import ContrastOptions, EditOptions, RefineOptions
from . import autoencoders
from .allocation import keep_freed_memory
from .base import Backbone
from .conditions import pack, replace_last, unpack
from .families import Family
from .noised import Noised
from .schedulers import nearest_timestep, reference_signal, signal_powers, strength_of_cells

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_ASPECT = 16.0
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
_KEPT_EMBEDDINGS, _KEPT_NUMBERS = 256, 2**30
"""Embeddings kept, and numbers in them: those of many layers are of 16 million each."""
_DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "float16": torch.float16,
    "fp16": torch.float16, "half": torch.float16, "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}  # fmt: skip


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


class LatentModel(Backbone):
    """A denoiser over an autoencoder's latents; families say how it is told the text.

    The denoiser and the text encoders run in `dtype`, the autoencoder as it was given (in float32
    when loaded by name: half precision overflows in some).

    Attributes:
        kind: what its pipeline folders hold.
        pipe: the pipeline, or a namespace of its parts; they are used as they are.
        unet: whatever predicts, a UNet or a transformer.
        channels: C of the latents.
        prediction_type: what it predicts: "epsilon", "v_prediction", "sample" or "flow".
        max_tokens: token limit of a prompt, start and end included.
        max_aspect: aspects beyond it are brought to it.
        expand_prompt: writes out learned words that stand for several tokens.
    """

    kind: Family
    _pooled = 0
    """Numbers of the pooled text vector in an embedding."""
    _end_tokens = 1
    """Tokens that the tokenizer adds after a prompt."""
    _norm_eps: float | None = None
    """Epsilon of the batch norm over latents, where it is not the autoencoder's own."""
    _native_cells = 64
    """Latent cells along a side of the native size, where no configuration says."""

    def __init__(
        self, pipe: Any, name: str = "pipeline", calibration: dict[str, Any] | None = None
    ) -> None:
        """Wrap a diffusers pipeline's parts, on its device and in its dtype; nothing is copied and
        nothing in the pipeline is changed.

        Args:
            calibration: the content of a `textseg.json`; see `Backbone.calibration`. "native_size"
                overrides the denoiser's own, "words" lists a closed vocabulary.

        Raises:
            ModelError: a part is missing, or the parts do not make a plain text-to-image model.
        """
        for part in (*self.kind.networks, *self.kind.tokenizers, "scheduler"):
            optional = part.replace("tokenizer", "text_encoder") in self.kind.optional
            if getattr(pipe, part, None) is None and not optional:
                raise ModelError(f"pipeline must have a {part}, got a {type(pipe).__name__}")
        self.pipe: Any = pipe
        self.name, self.family = name, self.kind.name
        unet, vae = (getattr(pipe, part) for part in (self.kind.denoiser, self.kind.autoencoder))
        scheduler = pipe.scheduler
        self.unet: Any = unet
        self.vae: Any = vae
        self.text_encoder: Any = pipe.text_encoder
        self.tokenizer: Any = getattr(pipe, next(iter(self.kind.tokenizers)))
        self.scheduler: Any = scheduler
        self.calibration = dict(calibration or {})
        self.channels = autoencoders.channels_of(vae)
        self._check_parts()
        self.device, self.dtype = unet.device, unet.dtype
        self.prediction_type: str = scheduler.config.get("prediction_type", "epsilon")
        self.sampler_schedule = scheduler if "betas" in vars(scheduler) else None
        self._alphas = self._signal_powers()
        self.num_train_timesteps = len(self._alphas)
        self.factor = autoencoders.factor_of(vae)
        side = self._cells() * self.factor
        self.native_size: int = self.calibration.get("native_size", round(side))
        if type(self.native_size) is not int or self.native_size < 1:
            raise ModelError(
                f"{self.name!r} has a bad 'native_size' in textseg.json: it must be a whole number "
                f"of pixels of at least 1, got {self.native_size!r}"
            )
        self.multiple = self._side_multiple()
        self.max_aspect: float = MAX_ASPECT
        self._most_patches = 0
        self.max_tokens: int = self._token_limit()
        words = self.calibration.get("words")
        self._words = None if words is None else frozenset(w.lower() for w in words)
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.expand_prompt: Callable[[str], str] = str
        strength = strength_of_cells(self.native_size / self.factor)
        self.contrast_defaults = self._defaults(ContrastOptions, "contrast", strength=strength)
        self.refine_defaults = self._defaults(RefineOptions, "refine")
        presence = self.calibration.get("presence")
        if presence is not None and not {"weights", "offset"} <= set(presence):
            raise ModelError(
                f"{self.name!r} has a bad 'presence' in textseg.json: weights and offset are "
                f"needed, got {presence!r}"
            )
        self._configure()
        usual = self._usual()
        if usual["guidance_scale"] != EditOptions.guidance_scale:
            edit = {"guidance_scale": usual["guidance_scale"]}
            self.calibration["edit"] = edit | self.calibration.get("edit", {})
            self.calibration["generate"] = usual | self.calibration.get("generate", {})

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
        pixels = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
        return autoencoders.encode(self.vae, pixels, self._norm_eps)[0].contiguous()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        batch = latents[None].to(self.device, torch.float32)
        pixels = autoencoders.decode(self.vae, batch, self._norm_eps)[0]
        pixels = ((pixels + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        if isinstance(prompts, str) or not prompts:
            raise InputError(f"prompts must be a list of one or more texts, got {prompts!r}")
        return torch.stack([self._embed_one(prompt) for prompt in prompts])

    def with_guidance(self, embedding: torch.Tensor, scale: float) -> torch.Tensor:
        if self.distilled_guidance is None:
            return super().with_guidance(embedding, scale)
        return replace_last(embedding, self._pooled + 1, scale)

    def unknown_words(self, prompt: str) -> list[str]:
        if self._words is None:
            return []
        words = re.findall(r"[^\W_]+", prompt.lower())
        return [w for w in dict.fromkeys(words) if w not in self._words]

    def truncated_words(self, prompt: str) -> str:
        ids = self.tokenizer(prompt, truncation=False, verbose=False).input_ids
        cut = ids[self.max_tokens - self._end_tokens : len(ids) - self._end_tokens]
        return str(self.tokenizer.decode(cut, skip_special_tokens=True)).strip()

    def timestep(self, strength: float) -> int:
        if not 0 < strength <= 1:
            raise InputError(f"strength must be in (0, 1], got {strength!r}")
        last = len(reference_signal()) - 1
        return self.same_noise(min(round(strength * (last + 1)), last))

    def same_noise(self, t: int) -> int:
        return nearest_timestep(self._alphas, reference_signal()[t])

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

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, t: Sequence[int]) -> Noised:
        """Latents and noise (B, C, h, w) for training, each pair at a timestep of its own."""
        abar = [max(self.alpha_bar(one), 1e-6) for one in t]
        return Noised(clean, noise, torch.tensor(abar, device=clean.device), self.prediction_type)

    @torch.inference_mode()
    def predict(
        self,
        noisy: torch.Tensor,
        t: int,
        embedding: torch.Tensor,
        *,
        noisy_at: int | None = None,
    ) -> torch.Tensor:
        noisy = noisy.to(self.device, torch.float32)
        level = t if noisy_at is None else noisy_at
        if embedding.ndim == 2:
            embedding = embedding.expand(len(noisy), -1, -1)
        output = self._output(self._scaled(noisy, level), t, embedding.to(self.device))
        return self.to_epsilon(output.float(), noisy, t, level)

    def to_epsilon(
        self, output: torch.Tensor, noisy: torch.Tensor, t: int, noisy_at: int | None = None
    ) -> torch.Tensor:
        """The network's output as predicted noise, float32; arguments as for `predict`.

        v-prediction: eps = sqrt(abar) v + sqrt(1 - abar) x (Salimans and Ho 2022,
        arXiv 2202.00512) with abar of the noise in x; sample: eps = (x - sqrt(abar) x_0) /
        sqrt(1 - abar) with abar at t, since x without noise has no eps of its own.
        """
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "v_prediction":
            a = self.alpha_bar(t if noisy_at is None else noisy_at)
            return math.sqrt(a) * output + math.sqrt(1 - a) * noisy
        a = self.alpha_bar(t)
        return (noisy - math.sqrt(a) * output) / math.sqrt(1 - a)

    def _scaled(self, noisy: torch.Tensor, noisy_at: int) -> torch.Tensor:
        """Latents with the noise of timestep `noisy_at` in the scale the network was trained on."""
        return noisy

    def _embed_one(self, prompt: str) -> torch.Tensor:
        if prompt in self._embeddings:
            self._embeddings.move_to_end(prompt)
            return self._embeddings[prompt]
        embedding = self._encode_text(prompt)
        self._embeddings[prompt] = embedding
        if len(self._embeddings) > min(_KEPT_EMBEDDINGS, _KEPT_NUMBERS // embedding.numel()):
            self._embeddings.popitem(last=False)
        return embedding

    def tune(
        self,
        *,
        channels_last: bool = False,
        compiled: bool = False,
        tiling: bool = False,
        attention: str | None = None,
        keep_memory: bool = False,
    ) -> Self:
        """Change how the networks run, in place; the last bits of predictions change with it.

        Args:
            channels_last: keep the convolutions' weights channels last, which some devices favour.
            compiled: compile the UNet or transformer with torch.compile, at its first evaluation of
                each shape; needs a compiler.
            tiling: run the autoencoder tile by tile: less memory for large images, and faint seams.
            attention: of UNets; "plain", two matrix products, fastest for few cells and short texts
                on the CPU; "fused", torch's kernel, whose memory does not grow with the square of
                cells.
            keep_memory: on the CPU, under Linux, this process keeps what a call frees for the next,
                up to 2 GiB: a large network is faster by a tenth and more.

        Returns:
            the model itself.

        Raises:
            InputError: no such attention, a network with its own, or an autoencoder without tiles.
        """
        if attention is not None:
            self._set_attention(attention)
        if channels_last:
            for weight in (*self.unet.parameters(), *self.vae.parameters()):
                if weight.ndim == 4:
                    weight.data = weight.data.to(memory_format=torch.channels_last)
        if tiling:
            if not hasattr(self.vae, "enable_tiling"):
                raise InputError(
                    f"tiling must be False where an autoencoder has no tiles, got True for a "
                    f"{type(self.vae).__name__}"
                )
            self.vae.enable_tiling()
        if compiled:
            self.unet.compile()
        if keep_memory and self.device.type == "cpu":
            keep_freed_memory()
        return self

    def _set_attention(self, attention: str) -> None:
        raise InputError(
            f"attention must be left out for a {self.kind.title} model, whose network has its own, "
            f"got {attention!r}"
        )

    def settle_on_cpu(self) -> None:
        """Choose what runs fastest on the CPU; called once, when the model is loaded there."""

    def _pack(self, sequence: torch.Tensor, pooled: torch.Tensor | None = None) -> torch.Tensor:
        """The embedding of a sequence (L, D), a pooled vector (P,) and the distilled scale."""
        vector = sequence.new_empty(0) if pooled is None else pooled
        if self.distilled_guidance is not None:
            vector = torch.cat([vector, vector.new_tensor([self.distilled_guidance])])
        return pack(sequence, vector)

    def _unpack(
        self, embedding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Undo `_pack` for a batch: sequences (N, L, D), pooled vectors (N, P), and scales (N,) or
        None where none are told."""
        distilled = self.distilled_guidance is not None
        sequence, vector = unpack(embedding, self._pooled + distilled)
        return sequence, vector[:, : self._pooled], vector[:, -1] if distilled else None

    def _usual(self) -> dict[str, Any]:
        """Guidance and, of a model made for few, steps, where its `textseg.json` says none."""
        steps = {"steps": self.kind.steps} if self.kind.steps else {}
        return {"guidance_scale": self.kind.guidance, **steps}

    def _configure(self) -> None:
        """Set what the family has beyond this class; called last when it is made."""

    @abstractmethod
    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        """What the network told t says, (N, C, h, w), of noisy latents of that shape in its own
        scale and embeddings (N, L, D), both float32."""

    @abstractmethod
    def _encode_text(self, prompt: str) -> torch.Tensor:
        """The embedding (L, D) float32 of one prompt."""

    @abstractmethod
    def _check_parts(self) -> None:
        """Raises `ModelError` if the parts do not make a plain text-to-image model."""

    def _halved_multiple(self) -> int:
        """Pixels that sides are multiples of where a UNet halves the latents between its levels."""
        return self.factor * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    @abstractmethod
    def _side_multiple(self) -> int:
        """Pixels that image sides are multiples of."""

    def _cells(self) -> float:
        """Latent cells along a side of the native size."""
        sample = self.unet.config.get("sample_size") or self._native_cells
        return math.sqrt(math.prod(sample)) if isinstance(sample, (list, tuple)) else sample

    def check_size(self, height: int, width: int) -> None:
        table = self.unet.config.get("axes_lens")
        patches = self._most_patches or (min(table[1:]) if table else math.inf)
        if max(height, width) > patches * self.multiple:
            raise InputError(
                f"height and width must be at most {patches * self.multiple} for {self.name!r}, "
                f"whose network knows no more places, got {height} and {width}"
            )

    def _limit_sides(self, patches: int) -> None:
        """Keep sides within a square table of positions, a side having at most so many patches."""
        self._most_patches = patches
        longest = (patches - 1) * self.multiple
        self.max_aspect = max(1.0, min(MAX_ASPECT, (longest / self.native_size) ** 2))

    def _token_limit(self) -> int:
        """Tokens of a prompt, start and end included: CLIP's, where no family says otherwise."""
        positions = self.text_encoder.config.max_position_embeddings
        return min(self.tokenizer.model_max_length, positions)

    def _signal_powers(self) -> torch.Tensor:
        """alpha_bar at every timestep, (T,) float64 on the CPU."""
        return signal_powers(self.scheduler)

    def _check_schedule(self) -> None:
        kind = self.scheduler.config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES or not hasattr(self.scheduler, "alphas_cumprod"):
            raise ModelError(
                f"{self.name!r} has a {type(self.scheduler).__name__} predicting {kind!r}; "
                f"supported are diffusion schedulers predicting {', '.join(PREDICTION_TYPES)}"
            )

    def _defaults(self, kind: Any, key: str, **unless_told: Any) -> Any:
        fields = unless_told | self.calibration.get(key, {})
        try:
            return kind(**fields)
        except (TypeError, InputError) as error:
            raise ModelError(f"{self.name!r} has a bad {key!r} in textseg.json: {error}") from error
