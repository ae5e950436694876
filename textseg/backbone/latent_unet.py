"""Stable Diffusion 1 and 2 and their kin: a UNet told its text by CLIP."""

from __future__ import annotations

import torch

from .cell_names import CellNames
from .families import LATENT_UNET, SAMPLED
from .unet import UNetModel


class LatentUNet(UNetModel):
    """Told of the text what CLIP makes of it, and no more; `mini` is one.

    One that has `nouns` names the cells of an image by its first cross-attention.
    """

    kind = LATENT_UNET
    lora_trainable = True
    cross_attends = True
    _names: CellNames | None = None

    @property
    def diffedit_parts(self) -> bool:
        return type(self.vae).__name__ in SAMPLED

    def name_cells(self, noisy: torch.Tensor, t: int) -> torch.Tensor | None:
        if not self.nouns:
            return None
        if self._names is None:
            self._names = CellNames(self, self.nouns)
        return self._names(noisy, t)
