"""The optimiser of the matrices: momentum whose every step is made orthogonal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

# Longer by the shorter side from which the Gram matrix alone is iterated.
_WIDE = 4


def orthogonalize(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values come to lie around 1.

    A quintic Newton-Schulz iteration whose coefficients favour speed over accuracy.

    Args:
        matrices: (..., M, N) float.
        steps: iterations.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    if x.shape[-1] < _WIDE * x.shape[-2]:
        for _ in range(steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    else:
        # Every iterate is some matrix times x, so that two products with x do for all of them. In
        # float32, for errors in the Gram matrix grow.
        gram = x.float() @ x.float().mT
        factor = identity = torch.eye(gram.shape[-1], device=x.device)
        for step in range(steps):
            change = a * identity + b * gram + c * gram @ gram
            factor = change @ factor
            if step < steps - 1:
                gram = change @ gram @ change
                gram = (gram + gram.mT) / 2
        x = factor.to(x.dtype) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for weights of two or more dimensions.

    Convolutions count as (out, in * height * width) matrices. Rare directions of the gradient, such
    as those of seldom seen nouns, move as far as common ones: in the recipe it needs a fraction of
    the examples that Adam does. `torch.optim.Muon` takes linear layers only.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay, "dtype": dtype})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Moves every weight that has a gradient."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[len(p), p[0].numel()].append(p)
            for (rows, columns), moved in alike.items():
                for p in moved:
                    self.state[p].setdefault("momentum", torch.zeros_like(p))
                grads: list[Any] = [p.grad for p in moved]
                means = [self.state[p]["momentum"] for p in moved]
                torch._foreach_lerp_(means, grads, 1 - group["momentum"])
                ahead = [g.lerp(m, group["momentum"]).reshape(rows, columns)
                         for g, m in zip(grads, means, strict=True)]  # fmt: skip
                stretch = max(1.0, rows / columns) ** 0.5
                steps = orthogonalize(torch.stack(ahead).to(group["dtype"]))
                for p, step in zip(moved, steps, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"])
                    p.add_(step.to(p.dtype).view_as(p), alpha=-group["lr"] * stretch)
