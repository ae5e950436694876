"""What training asks of a UNet beyond the diffusion loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def contrast_loss(
    difference: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, level: float = 0.25
) -> torch.Tensor:
    """Asks the contrast of two prompts to be large inside the mask and small outside.

    Args:
        difference: (B, C, h, w), difference of the two predictions of the clean latents.
        mask: (B, h, w) float, share of each cell the object covers.
        weight: (B,) weight of each image.
        level: contrast that counts as undecided, in units of the latents' standard deviation.
    """
    size = difference.abs().mean(1)
    logits = 3.0 * (torch.log(size + 0.02) - torch.log(torch.tensor(level + 0.02)))
    loss = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    balance = 1 + 2 * mask
    per_image = (loss * balance).sum((1, 2)) / balance.sum((1, 2))
    return (per_image * weight).sum() / weight.sum()
