"""One tensor for all that a network is told of a prompt.

`Backbone.embed` gives a single (L, D) tensor per prompt. Families whose network also takes a pooled
vector, a mask or a guidance scale keep those in further rows or columns.
"""

from __future__ import annotations

import torch


def pack(sequence: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Put a vector (P,) below a sequence (L, D), in rows of D, the last filled up with zeros.

    Returns:
        (L + ceil(P / D), D).
    """
    width = sequence.shape[-1]
    rows = torch.nn.functional.pad(vector, (0, -len(vector) % width)).view(-1, width)
    return torch.cat([sequence, rows.to(sequence)])


def unpack(packed: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `pack` for a batch: (N, L + ceil(P / D), D) to (N, L, D) and (N, P), P being `size`.

    >>> sequence, vector = torch.ones(3, 4), torch.arange(6.0)
    >>> back = unpack(pack(sequence, vector)[None], 6)
    >>> torch.equal(back[0][0], sequence), back[1].tolist()
    (True, [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    """
    end = packed.shape[1] + -size // packed.shape[-1]
    return packed[:, :end], packed[:, end:].flatten(1)[:, :size]


def replace_last(packed: torch.Tensor, size: int, value: float) -> torch.Tensor:
    """A copy of packed (..., L + rows, D) whose vector of `size` numbers ends in `value`."""
    changed = packed.clone()
    width = packed.shape[-1]
    row = -(-size // width)
    changed[..., -row + (size - 1) // width, (size - 1) % width] = value
    return changed


def pad(sequence: torch.Tensor, length: int) -> torch.Tensor:
    """A sequence (L, D) filled up with zeros to (length, D + 1), whose last column is 1 for what
    was there.

    >>> pad(torch.full((1, 2), 5.0), 2).tolist()
    [[5.0, 5.0, 1.0], [0.0, 0.0, 0.0]]
    """
    marked = torch.nn.functional.pad(sequence[:length], (0, 1), value=1.0)
    return torch.nn.functional.pad(marked, (0, 0, 0, length - len(marked)))


def guidance_embedding(scale: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of 1000 (scale - 1), (N,) to (N, width) float32, width even.

    Source: `get_guidance_scale_embedding` of diffusers' pipelines.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=scale.device)
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) / (half - 1) * steps)
    angles = (scale.float() - 1)[:, None] * 1000 * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
