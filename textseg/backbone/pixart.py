"""PixArt-alpha and PixArt-Sigma: diffusion transformers told their text by T5.

Source: Chen et al. 2023, arXiv 2310.00426; Chen et al. 2024, arXiv 2403.04692, for Sigma.
"""

from __future__ import annotations

import torch

from ..errors import ModelError
from .families import PIXART, PIXART_ALPHA
from .latent import LatentModel
from .quiet import quietly


class PixArtSigma(LatentModel):
    """Predicts noise (and a variance, which is left out) on a linear schedule of betas.

    An embedding holds T5's tokens, (300, 4096), of alpha (120, 4096), and a further column that is
    1 for real tokens and 0 for padding, which is masked out.
    """

    kind = PIXART
    _tokens = 300

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        embedding = embedding.to(self.dtype)
        out = self.unet(
            noisy.to(self.dtype),
            encoder_hidden_states=embedding[..., :-1],
            encoder_attention_mask=embedding[..., -1],
            timestep=torch.full((len(noisy),), t, device=self.device),
            added_cond_kwargs=self._size_told(noisy),
        ).sample
        return out[:, : noisy.shape[1]]

    def _size_told(self, noisy: torch.Tensor) -> dict[str, torch.Tensor | None]:
        return {"resolution": None, "aspect_ratio": None}

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, mask, _, _ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=self.device,
                max_sequence_length=self._tokens,
            )  # fmt: skip
        return torch.cat([sequence[0].float(), mask[0, :, None].float()], dim=1)

    def _side_multiple(self) -> int:
        return self.factor * self.unet.config["patch_size"]

    def _token_limit(self) -> int:
        return self._tokens

    def _check_parts(self) -> None:
        config, latent = self.unet.config, self.vae.config["latent_channels"]
        if config["in_channels"] != latent or config["out_channels"] not in (latent, 2 * latent):
            raise ModelError(
                f"{self.name!r} has a transformer of {config['in_channels']} input and "
                f"{config['out_channels']} output channels where its autoencoder has {latent}"
            )
        self._check_schedule()


class PixArtAlpha(PixArtSigma):
    """The model of 1024 pixels is also told the image's size and aspect."""

    kind = PIXART_ALPHA
    _tokens = 120

    def _size_told(self, noisy: torch.Tensor) -> dict[str, torch.Tensor | None]:
        if not self.unet.use_additional_conditions:
            return super()._size_told(noisy)
        height, width = (side * self.factor for side in noisy.shape[-2:])
        size = torch.tensor([[height, width]], device=self.device, dtype=self.dtype)
        size = size.expand(len(noisy), -1)
        return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
