"""Z-Image, Turbo and Omni: a single-stream flow transformer, told its text by Qwen3.

Source: Cai et al. 2025, arXiv 2511.22699.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .families import Z_IMAGE, Z_IMAGE_OMNI
from .flow import ToldByTokens, for_each


class ZImage(ToldByTokens):
    """Its network is told the clean end's distance, 1 - sigma, and points from noise to image."""

    kind = Z_IMAGE
    _longest = 512

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        seen = for_each(z, 1 - sigma)
        pictures, texts = list(z[:, :, None].unbind()), list(text.unbind())
        return -torch.stack(list(self._pointed(pictures, seen, texts)))[:, :, 0]

    def _pointed(
        self, pictures: list[torch.Tensor], seen: torch.Tensor, texts: list[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """What the network says of N pictures (C, 1, h, w) told texts (L, D): as many pictures."""
        return self.unet(pictures, seen, texts, return_dict=False)[0]

    def _tokens(self, prompt: str) -> torch.Tensor:
        # A list, since the pipeline writes its template into what it is given.
        return self.pipe.encode_prompt([prompt], self.device, False)[0][0]

    def _side_multiple(self) -> int:
        return self.factor * max(self.unet.config["all_patch_size"])


class ZImageOmni(ZImage):
    """The network trained to look at pictures as well, given none: every token is told the noise,
    and follows the text."""

    kind = Z_IMAGE_OMNI

    def _pointed(
        self, pictures: list[torch.Tensor], seen: torch.Tensor, texts: list[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        return self.unet(
            [[picture] for picture in pictures], seen, [[text] for text in texts],
            siglip_feats=[None] * len(texts), image_noise_mask=[[1]] * len(texts),
            return_dict=False,
        )[0]  # fmt: skip

    def _tokens(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt([prompt], self.device, False)[0][0][0]
