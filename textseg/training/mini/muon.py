"""The optimiser of the matrices: momentum whose every step is made orthogonal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

# Longer by the shorter side from which the Gram matrix alone is iterated.
_WIDE = 4


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values come to lie around 1.

    A quintic Newton-Schulz iteration whose coefficients favour speed over accuracy.

    Args:
        matrix: (M, N) float.
        steps: iterations.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    if x.shape[1] < _WIDE * x.shape[0]:
        for _ in range(steps):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
    else:
        # Every iterate is some matrix times x, so that two products with x do for all of them. In
        # float32, for errors in the Gram matrix grow.
        gram = x.float() @ x.float().T
        factor = identity = torch.eye(len(gram), device=x.device)
        for _ in range(steps):
            change = a * identity + b * gram + c * gram @ gram
            factor = change @ factor
            gram = change @ gram @ change
            gram = (gram + gram.T) / 2
        x = factor.to(x.dtype) @ x
    return x.T if tall else x


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
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p.grad)
                mean = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(mean, group["momentum"]).reshape(len(p), -1)
                stretch = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["decay"])
                step = orthogonalize(ahead.to(group["dtype"])).to(p.dtype)
                p.add_(step.view_as(p), alpha=-group["lr"] * stretch)
