"""What the trainer asks of the UNet beyond the diffusion loss: grounding and contrast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class CrossAttentionQueries:
    """Records the queries of every cross-attention layer during a forward pass."""

    def __init__(self, unet: Any) -> None:
        self.layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
        self.queries: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            layer.to_q.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def record(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            self.queries[name] = output

        return record


def grounding_loss(
    recorded: CrossAttentionQueries,
    start_key: torch.Tensor,
    noun_keys: torch.Tensor,
    masks: torch.Tensor,
    nouns: torch.Tensor,
    weight: torch.Tensor,
    min_cells: int = 20,
) -> torch.Tensor:
    """Binds nouns to places: each cross-attention layer must tell which noun each cell shows.

    At every cell the layer's query is compared with the keys of all nouns of the vocabulary and of
    the start token, which stands for "none of them"; the cross-entropy is taken against the share
    of the cell that each noun's mask covers.

    Args:
        recorded: queries of the last forward pass, (B, cells, D) per layer.
        start_key: text embedding of the start token, (E,).
        noun_keys: text embeddings of all nouns, (N, E).
        masks: (B, K, h, w) float, share of each latent cell that noun k covers.
        nouns: (B, K) indices into the vocabulary, -1 where unused.
        weight: (B,) weight of each image.
        min_cells: layers with fewer cells are left out.
    """
    keys = torch.cat([start_key[None], noun_keys])
    batch, _, h, w = masks.shape
    total, count = masks.new_zeros(()), 0
    for name, query in recorded.queries.items():
        cells = query.shape[1]
        if cells < min_cells:
            continue
        lh, lw = h, w
        while lh * lw > cells:
            lh, lw = (lh + 1) // 2, (lw + 1) // 2
        layer = recorded.layers[name]
        key = layer.to_k(keys)
        logits = query @ key.T * (layer.scale / layer.heads)
        share = F.adaptive_avg_pool2d(masks, (lh, lw)).flatten(2).transpose(1, 2)
        share = share * (nouns >= 0)[:, None]
        target = logits.new_zeros(batch, cells, 1 + noun_keys.shape[0])
        target.scatter_add_(2, (nouns.clamp(min=0) + 1)[:, None].expand(-1, cells, -1), share)
        target[..., 0] = (1 - share.sum(2)).clamp(min=0)
        target = target / target.sum(2, keepdim=True).clamp(min=1e-6)
        loss = -(target * logits.log_softmax(2)).sum(2)
        balance = 1 + 2 * (1 - target[..., 0])
        total = total + ((loss * balance).sum(1) / balance.sum(1) * weight).sum() / weight.sum()
        count += 1
    return total / max(count, 1)


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
