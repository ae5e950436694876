"""What a diffusion model is to the rest of textseg: a handful of calls over tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..options import ContrastOptions, RefineOptions


class Backbone(ABC):
    """One text-to-image diffusion model.

    Latents are unbatched (C, h, w) float32 unless said otherwise, already multiplied by the
    autoencoder's scaling factor. Everything returned by these calls is float32 on `device`.

    Attributes:
        name: what the model was loaded as ("mini", a folder, a hub id).
        family: "latent-unet" or another family's name.
        device, dtype: where and in what precision the networks run.
        native_size: the training image side in pixels.
        multiple: image sides must be multiples of this many pixels.
        factor: pixels per latent cell along a side.
        num_train_timesteps: T.
        calibration: what the model folder's `textseg.json` says (possibly empty): keys
            "contrast" and "refine" (option fields), "presence" ({"weights", "offset"}),
            "prompts" ({"template", "absent"}), "nouns" (list of str), "synonyms" (word to noun),
            "paints" (bool), "painter" (the name of a model).
        contrast_defaults, refine_defaults: calibrated options, else the paper's.
        distilled_guidance: for models that are told a guidance scale instead of being evaluated
            twice, the scale `embed` gives; else None.
        sampler_schedule: a diffusers scheduler with the model's noise levels, from which other
            samplers are made; None for models that only DDIM samples.
        lora_trainable: whether `textseg train --rank` can tune it.
        cross_attends: whether `unet` is a UNet whose cross-attention maps words to cells.
        diffedit_parts: whether its parts make up diffusers' own DiffEdit pipeline.
    """

    name: str
    family: str
    device: torch.device
    dtype: torch.dtype
    native_size: int
    multiple: int
    factor: int
    num_train_timesteps: int
    calibration: dict[str, Any]
    contrast_defaults: ContrastOptions
    refine_defaults: RefineOptions
    distilled_guidance: float | None = None
    sampler_schedule: Any = None
    lora_trainable: bool = False
    cross_attends: bool = False
    diffedit_parts: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.device})"

    @property
    def nouns(self) -> tuple[str, ...]:
        """What a model with a closed vocabulary can be asked for, singular and in lower case; empty
        for models that take any words.

        >>> "dog" in load("mini").nouns  # doctest: +SKIP
        True
        """
        return tuple(self.calibration.get("nouns", ()))

    @property
    def synonyms(self) -> Mapping[str, str]:
        """Words outside `nouns`, and the noun each is asked as; empty for models without."""
        return self.calibration.get("synonyms", {})

    @property
    def paints(self) -> bool:
        """Whether the model makes pictures worth looking at; one that says in its folder that it
        does not removes by filling."""
        return bool(self.calibration.get("paints", True))

    @property
    def painter(self) -> str | None:
        """The model that paints in its place, by name; None for a model that paints itself, and for
        one that names no other. `shared.painter_of` loads it."""
        return None if self.paints else self.calibration.get("painter")

    @property
    def caveats(self) -> Mapping[str, str]:
        """What a user should mind, a sentence each: of "find", finding things, of "paint"."""
        return self.calibration.get("caveats", {})

    @abstractmethod
    def fit_size(self, height: int, width: int) -> tuple[int, int]:
        """The size (H, W) an image is brought to: about native area, aspect kept, multiples."""

    def check_size(self, height: int, width: int) -> None:
        """Raises `InputError` if the network cannot make a picture of this size, both multiples of
        `multiple`; most make any."""
        return

    @abstractmethod
    def encode(self, image: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8 at a size from `fit_size` to latents (C, h, w): the posterior's mean."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents (C, h, w) to an image (H, W, 3) uint8."""

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to text embeddings (N, L, D). Cached by text; a prompt's embedding never depends
        on its neighbours in the list. Families that need more than a sequence keep it in further
        rows or columns; only `predict` looks inside."""

    def with_guidance(self, embedding: torch.Tensor, scale: float) -> torch.Tensor:
        """An embedding (..., L, D) that tells a guidance-distilled model another scale."""
        raise NotImplementedError(f"{self.family} models are not told a guidance scale")

    @abstractmethod
    def unknown_words(self, prompt: str) -> list[str]:
        """Words the text encoder does not know, in order; empty for models with open vocabulary."""

    @abstractmethod
    def truncated_words(self, prompt: str) -> str:
        """The end of the prompt that exceeds the token limit, or "" when it fits."""

    @abstractmethod
    def timestep(self, strength: float) -> int:
        """Training timestep t, 0 <= t < T, of a noise level in (0, 1]."""

    def same_noise(self, t: int) -> int:
        """The timestep of this model that is as noisy as Stable Diffusion's t, 0 <= t < 1000."""
        return t

    @abstractmethod
    def alpha_bar(self, t: int) -> float:
        """Cumulative signal power at t, in (0, 1]; t = -1 is the clean end and gives the
        schedule's final alpha_bar."""

    @abstractmethod
    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: int) -> torch.Tensor:
        """(C, h, w) and (N, C, h, w) to noisy latents (N, C, h, w)."""

    def name_cells(self, noisy: torch.Tensor, t: int) -> torch.Tensor | None:
        """What each cell of noisy latents (N, C, h, w) shows: log-probabilities of "none of them"
        and of every one of `nouns`, (N, 1 + K, h', w') float32 at the resolution of
        some layer. None for models that cannot tell."""
        return None

    @abstractmethod
    def predict(
        self,
        noisy: torch.Tensor,
        t: int,
        embedding: torch.Tensor,
        *,
        noisy_at: int | None = None,
    ) -> torch.Tensor:
        """Predicted noise epsilon.

        Args:
            noisy: (N, C, h, w).
            t: the timestep the network is told, the same for all.
            embedding: (L, D), the same for all, or (N, L, D).
            noisy_at: the timestep whose noise `noisy` carries, -1 for none; t if None. DDIM
                encoding tells the network the next level: eps(x_s, t) with s below t.

        Returns:
            (N, C, h, w) float32; v-predictions are turned into epsilon.
        """
