"""Flow matching: models that predict a velocity on straight paths from image to noise.

    z = (1 - sigma) x_0 + sigma eps,     u = eps - x_0               what the network is trained on

The rest of textseg speaks of variance-preserving noise, x = sqrt(abar) x_0 + sqrt(1 - abar) eps. It
is the same path in another scale: with n = sqrt((1 - sigma)^2 + sigma^2) and abar = ((1 - sigma) /
n)^2, x = z / n. From a predicted velocity u at z follow

    x_0 = z - sigma u,     eps = z + (1 - sigma) u.

Contrast: two prompts seen through the same z differ by x_0' - x_0 = -sigma (u' - u) in the clean
image they imply. A noise model that implies clean images so far apart differs in its noise by
eps' - eps = -sqrt(abar / (1 - abar)) (x_0' - x_0), which is (1 - sigma) (u' - u): the difference of
the two eps above. Contrast, evidence and thresholds are therefore in units of the noise, as for
noise models, and 1 means what it means there.

Sampling: a DDIM step between abar and abar' with these x_0 and eps gives z' = (1 - sigma') x_0 +
sigma' eps = z + (sigma' - sigma) u, Euler's step on the flow's ODE. So DDIM encoding and decoding
are the Euler solver up and down, and fixed-point iterations make the way up its exact inverse.

Source: Lipman et al. 2022, arXiv 2210.02747; Esser et al. 2024, arXiv 2403.03206.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch

from ..errors import ModelError
from .conditions import pad
from .latent import LatentModel
from .quiet import quietly
from .schedulers import flow_signal


def flow_sigma(alpha: float) -> float:
    """sigma of the flow where the cumulative signal power is alpha, both in (0, 1].

    >>> flow_sigma(0.5)
    0.5
    """
    noise, signal = math.sqrt(1 - alpha), math.sqrt(alpha)
    return noise / (noise + signal)


def for_each(z: torch.Tensor, time: float) -> torch.Tensor:
    """The time that a network is told, once for each of the latents z (N, C, h, w), (N,)."""
    return torch.full((len(z),), time, device=z.device, dtype=z.dtype)


class FlowTransformer(LatentModel):
    """A transformer trained by flow matching, seen as a model that predicts noise.

    Its integer timesteps are those of its scheduler: sigma = (t + 1) / T, moved by the scheduler's
    shift (at the native size, where the shift depends on the size). The last has sigma 0.999 in
    place of 1, see `schedulers.LEAST_SIGNAL`.
    """

    _packed = False
    """Whether the network takes blocks of 2 x 2 cells, see `flux.pack_cells`."""

    def _configure(self) -> None:
        self.prediction_type, self.sampler_schedule = "flow", None

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        return self._velocity(noisy.to(self.dtype), flow_sigma(self.alpha_bar(t)), embedding)

    def to_epsilon(
        self, output: torch.Tensor, noisy: torch.Tensor, t: int, noisy_at: int | None = None
    ) -> torch.Tensor:
        """The velocity as predicted noise: eps = z + (1 - sigma) u, with z the noisy latents in the
        flow's scale and sigma that of their noise."""
        level = t if noisy_at is None else noisy_at
        return self._scaled(noisy, level) + (1 - flow_sigma(self.alpha_bar(level))) * output

    def _scaled(self, noisy: torch.Tensor, noisy_at: int) -> torch.Tensor:
        sigma = flow_sigma(self.alpha_bar(noisy_at))
        return noisy * math.hypot(1 - sigma, sigma)

    @abstractmethod
    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        """The network's output.

        Args:
            z: (N, C, h, w) in the flow's scale, of the model's dtype.
            sigma: in (0, 1).
            embedding: (N, L, D) float32, from `embed`.

        Returns:
            (N, C, h, w).
        """

    def _signal_powers(self) -> torch.Tensor:
        return flow_signal(self._sigmas())

    def _sigmas(self) -> torch.Tensor:
        """sigma at every timestep, (T,) float64, rising."""
        config = self.scheduler.config
        steps = config["num_train_timesteps"]
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        shift = self._shift()
        return shift * even / (1 + (shift - 1) * even)

    def _unshifted(self, sigma: float) -> float:
        """The even level that the shift brings to sigma, both in (0, 1]."""
        shift = self._shift()
        return sigma / (shift - (shift - 1) * sigma)

    def _shift(self) -> float:
        config = self.scheduler.config
        if config.get("use_dynamic_shifting"):
            mu = self._shift_of_size()
            return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        return config.get("shift") or config.get("flow_shift") or 1.0

    def _shift_of_size(self) -> float:
        """mu of the scheduler's shift at the native size: linear in the number of tokens."""
        config = self.scheduler.config
        least, most = config["base_image_seq_len"], config["max_image_seq_len"]
        low, high = config["base_shift"], config["max_shift"]
        return low + (high - low) * (self._native_tokens() - least) / (most - least)

    def _native_tokens(self) -> int:
        """Image tokens at the native size."""
        return 4096

    def _side_multiple(self) -> int:
        return self.factor * (2 if self._packed else self.unet.config.get("patch_size") or 1)

    def _check_parts(self) -> None:
        kind = type(self.scheduler).__name__
        told = self.scheduler.config.get("prediction_type")
        if not kind.startswith("FlowMatch") and told not in ("flow_prediction", "trigflow"):
            raise ModelError(
                f"{self.name!r} has a {kind}; a {self.kind.title} model needs a FlowMatch scheduler"
            )
        config = self.unet.config
        taken = config["in_channels"] if "in_channels" in config else config["in_visual_dim"]
        given = self.channels * (4 if self._packed else 1)
        if taken != given:
            raise ModelError(
                f"{self.name!r} has a transformer of {taken} input channels where its latents have "
                f"{given}: it also wants an image; use a plain text-to-image model"
            )


class ToldByTokens(FlowTransformer):
    """A flow whose network looks at as many text tokens as a prompt has, and at no padding.

    An embedding holds the tokens, filled up with zeros to `_longest`, and a further column that is
    1 for real tokens. Prompts of different length go through the network one length at a time, so
    that none sees another's padding.
    """

    _longest: int
    """Tokens of the longest prompt that the network is told of."""
    _end_tokens = 0
    _native_cells = 128

    def _velocity(self, z: torch.Tensor, sigma: float, embedding: torch.Tensor) -> torch.Tensor:
        tokens, pooled, scale = self._unpack(embedding)
        vector = pooled if scale is None else scale
        lengths = tokens[..., -1].sum(1).round().long()
        out = torch.empty_like(z)
        for length in lengths.unique().tolist():
            chosen = lengths == length
            text = self._seen(tokens[chosen, :length, :-1]).to(z.dtype)
            out[chosen] = self._told(z[chosen], sigma, text, vector[chosen].to(z.dtype)).to(z.dtype)
        return out

    @abstractmethod
    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        """The velocity at z (N, C, h, w), told tokens (N, L, D), none of them padding, and what
        comes beside them: a distilled model's scale (N,), others' pooled vector (N, P)."""

    def _seen(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the network is told of the tokens (N, L, D) in embeddings: themselves."""
        return tokens

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            tokens, pooled = self._said(prompt)
        return self._pack(pad(tokens.float(), self._longest), pooled)

    @abstractmethod
    def _tokens(self, prompt: str) -> torch.Tensor:
        """What the encoder says of a prompt, (L, D), without padding."""

    def _said(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`_tokens`, and the pooled vector (P,) float32 of families that have one."""
        return self._tokens(prompt), None

    def _token_limit(self) -> int:
        return self._longest
