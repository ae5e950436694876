"""PixArt-Sigma: a diffusion transformer told its text by T5.

Source: Chen et al. 2024, arXiv 2403.04692.
"""

from __future__ import annotations

import torch

from ..errors import ModelError
from .families import PIXART
from .latent import LatentModel
from .quiet import quietly

TOKENS = 300


class PixArtSigma(LatentModel):
    """Predicts noise (and a variance, which is left out) on a linear schedule of betas.

    An embedding holds T5's tokens, (300, 4096), and a further column that is 1 for real tokens and
    0 for padding, which is masked out.
    """

    kind = PIXART

    def _output(self, noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        embedding = embedding.to(self.dtype)
        out = self.unet(
            noisy.to(self.dtype),
            encoder_hidden_states=embedding[..., :-1],
            encoder_attention_mask=embedding[..., -1],
            timestep=torch.full((len(noisy),), t, device=self.device),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return out[:, : noisy.shape[1]]

    def _encode_text(self, prompt: str) -> torch.Tensor:
        with quietly():
            sequence, mask, _, _ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, device=self.device,
                max_sequence_length=TOKENS,
            )  # fmt: skip
        return torch.cat([sequence[0].float(), mask[0, :, None].float()], dim=1)

    def _side_multiple(self) -> int:
        return self.factor * self.unet.config["patch_size"]

    def _token_limit(self) -> int:
        return TOKENS

    def _check_parts(self) -> None:
        config, latent = self.unet.config, self.vae.config["latent_channels"]
        if config["in_channels"] != latent or config["out_channels"] not in (latent, 2 * latent):
            raise ModelError(
                f"{self.name!r} has a transformer of {config['in_channels']} input and "
                f"{config['out_channels']} output channels where its autoencoder has {latent}"
            )
        if self.unet.use_additional_conditions:
            raise ModelError(
                f"{self.name!r} has a transformer told its resolution (PixArt-Alpha at 1024), "
                "which is not supported"
            )
        self._check_schedule()
