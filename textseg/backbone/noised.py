"""Latents with noise for training: what a network is asked for there, and what its answer means."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Noised:
    """A batch of clean latents and noise, each at a level of its own.

    Attributes:
        clean, noise: (B, C, h, w).
        alpha_bar: (B,), above 0.
        prediction_type: what the network predicts: "epsilon", "v_prediction" or "sample".
    """

    clean: torch.Tensor
    noise: torch.Tensor
    alpha_bar: torch.Tensor
    prediction_type: str

    @property
    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of clean latents and noise, (B, 1, 1, 1) each: sqrt(abar) and sqrt(1 - abar)."""
        abar = self.alpha_bar.view(-1, 1, 1, 1)
        return abar.sqrt(), (1 - abar).sqrt()

    @property
    def noisy(self) -> torch.Tensor:
        """What the network is shown, (B, C, h, w)."""
        signal, sigma = self.scales
        return signal * self.clean + sigma * self.noise

    @property
    def target(self) -> torch.Tensor:
        """What it should answer, (B, C, h, w): the noise, x_0, or v (Salimans and Ho 2022,
        arXiv 2202.00512)."""
        signal, sigma = self.scales
        if self.prediction_type == "v_prediction":
            return signal * self.noise - sigma * self.clean
        return self.noise if self.prediction_type == "epsilon" else self.clean

    def clean_of(self, output: torch.Tensor) -> torch.Tensor:
        """The clean latents that an answer to `noisy` means, (B, C, h, w)."""
        signal, sigma = self.scales
        if self.prediction_type == "epsilon":
            return (self.noisy - sigma * output) / signal
        if self.prediction_type == "v_prediction":
            return signal * self.noisy - sigma * output
        return output

    @property
    def certainty(self) -> torch.Tensor:
        """(B,) weights of errors of `clean_of`: min(1, abar / (1 - abar)) where noise is predicted,
        as x_0 is uncertain at high noise (Hang et al. 2023, arXiv 2303.09556, with gamma = 1);
        else 1."""
        if self.prediction_type == "epsilon":
            return (self.alpha_bar / (1 - self.alpha_bar)).clamp(max=1)
        return torch.ones_like(self.alpha_bar)
