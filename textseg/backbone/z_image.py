"""Z-Image and Z-Image Turbo: a single-stream flow transformer, told its text by Qwen3.

Source: Cai et al. 2025, arXiv 2511.22699.
"""

from __future__ import annotations

import torch

from .families import Z_IMAGE
from .flow import ToldByTokens


class ZImage(ToldByTokens):
    """Its network is told the clean end's distance, 1 - sigma, and points from noise to image."""

    kind = Z_IMAGE
    _longest = 512

    def _told(
        self, z: torch.Tensor, sigma: float, text: torch.Tensor, vector: torch.Tensor
    ) -> torch.Tensor:
        seen = torch.full((len(z),), 1 - sigma, device=z.device, dtype=z.dtype)
        out = self.unet(list(z[:, :, None].unbind()), seen, list(text.unbind()), return_dict=False)
        return -torch.stack(list(out[0]))[:, :, 0]

    def _tokens(self, prompt: str) -> torch.Tensor:
        # A list, since the pipeline writes its template into what it is given.
        return self.pipe.encode_prompt([prompt], self.device, False)[0][0]

    def _side_multiple(self) -> int:
        return self.factor * max(self.unet.config["all_patch_size"])
