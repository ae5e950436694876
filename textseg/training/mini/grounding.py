"""Grounding: the cross-attention layers are asked which noun each cell shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


class CrossAttentionQueries:
    """Records the inputs and queries of every cross-attention layer during a forward pass."""

    def __init__(self, unet: Any) -> None:
        self.layers = {n: m for n, m in unet.named_modules() if n.endswith("attn2")}
        self.inputs: dict[str, torch.Tensor] = {}
        self.queries: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            layer.to_q.register_forward_hook(self._hook(name))

    def clear(self) -> None:
        """Forgets the last pass; call it before the next, which may not reach every layer."""
        self.inputs.clear()
        self.queries.clear()

    def _hook(self, name: str) -> Any:
        def record(_module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            self.inputs[name], self.queries[name] = inputs[0], output

        return record


class NounHeads(torch.nn.Module):
    """Linear classifiers of cells by noun, one for each cross-attention layer, used in training
    only: they teach the UNet's features what is where before the text is tied to it."""

    def __init__(self, recorded: CrossAttentionQueries, nouns: int) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleDict(
            {
                name.replace(".", "/"): torch.nn.Linear(layer.to_q.in_features, 1 + nouns)
                for name, layer in recorded.layers.items()
            }
        )

    def forward(self, name: str, features: torch.Tensor) -> torch.Tensor:
        """Features (B, cells, D) of a layer to logits (B, cells, 1 + N); 0 is "none of them"."""
        return self.heads[name.replace(".", "/")](features)

    @torch.no_grad()
    def likeness(self) -> torch.Tensor:
        """How alike the classifiers hold two nouns to look: the cosine between their weights,
        averaged over layers, (N, N)."""
        each = [F.normalize(head.weight[1:].float()) for head in self.heads.values()]  # pyright: ignore
        return torch.stack([w @ w.T for w in each]).mean(0)


def cell_labels(
    masks: torch.Tensor, nouns: torch.Tensor, size: tuple[int, int], vocabulary: int
) -> torch.Tensor:
    """Share of each cell that each noun covers, (B, cells, 1 + vocabulary); 0 is the rest."""
    share = F.adaptive_avg_pool2d(masks, size).flatten(2).transpose(1, 2)
    share = share * (nouns >= 0)[:, None]
    target = share.new_zeros(len(masks), share.shape[1], 1 + vocabulary)
    target.scatter_add_(2, (nouns.clamp(min=0) + 1)[:, None].expand(-1, share.shape[1], -1), share)
    target[..., 0] = (1 - share.sum(2)).clamp(min=0)
    return target / target.sum(2, keepdim=True).clamp(min=1e-6)


def grounding_loss(
    recorded: CrossAttentionQueries,
    heads: NounHeads,
    start_key: torch.Tensor,
    noun_keys: torch.Tensor,
    picked: Sequence[int],
    masks: torch.Tensor,
    nouns: torch.Tensor,
    weight: torch.Tensor,
    min_cells: int = 9,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binds nouns to places: each cross-attention layer must tell which noun each cell shows.

    At every cell the layer's query is compared with the keys of nouns, there or not, and of
    the start token, which stands for "none of them"; the cross-entropy is taken against the share
    of the cell that each noun's mask covers. The same is asked of `heads`.

    Args:
        recorded: inputs and queries of the last forward pass, (B, cells, D) per layer.
        heads: classifiers on the inputs.
        start_key: text embedding of the start token, (E,).
        noun_keys: text embeddings of N nouns, (N, E).
        picked: which nouns of the vocabulary these are.
        masks: (B, K, h, w) float, share of each latent cell that noun k covers.
        nouns: (B, K) indices into `picked`, -1 where unused.
        weight: (B,) weight of each image.
        min_cells: layers with fewer cells are left out.

    Returns:
        The cross-entropies of the layers' queries and of the heads, averaged over layers.
    """
    keys = torch.cat([start_key[None], noun_keys])
    columns = [0, *(1 + i for i in picked)]
    h, w = masks.shape[-2:]
    labels: dict[int, tuple[torch.Tensor, ...]] = {}
    losses = masks.new_zeros(2)
    layers = [n for n, q in recorded.queries.items() if q.shape[1] >= min_cells]
    for name in layers:
        query, layer = recorded.queries[name], recorded.layers[name]
        cells = query.shape[1]
        if cells not in labels:
            lh, lw = h, w
            while lh * lw > cells:
                lh, lw = (lh + 1) // 2, (lw + 1) // 2
            target = cell_labels(masks, nouns, (lh, lw), len(noun_keys))
            balance = (1 + 2 * (1 - target[..., 0])) * weight[:, None]
            labels[cells] = target, balance / balance.sum()
        target, balance = labels[cells]
        named = heads(name, recorded.inputs[name])[..., columns]
        asked = (query @ layer.to_k(keys).T * layer.scale, named)
        entropies = [-(target * logits.float().log_softmax(2)).sum(2) for logits in asked]
        losses = losses + torch.stack([(e * balance).sum() for e in entropies])
    losses = losses / max(len(layers), 1)
    return losses[0], losses[1]
