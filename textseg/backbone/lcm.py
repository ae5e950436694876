"""Latent consistency models: a UNet distilled to be told its guidance scale.

Source: Luo et al. 2023, arXiv 2310.04378.
"""

from __future__ import annotations

from .families import CONSISTENCY
from .unet import UNetModel


class ConsistencyUNet(UNetModel):
    """A UNet with guidance distilled into it; the scale is the embedding's last row.

    It still predicts noise at every timestep, so the contrast is that of Stable Diffusion, taken at
    the smallest scale it was trained on: the text's own effect, least exaggerated. Prompts that ask
    for no guidance (the empty one of an encoding) get the same scale.
    """

    kind = CONSISTENCY
    distilled_guidance = 3.0
    _told = frozenset({"time_cond_proj_dim"})
