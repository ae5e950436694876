"""Where the UNet's time goes: by kind of operation, and by operation and shape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .meter import Speed

_KINDS = {
    "convolution": ("conv",),
    "matrix product": ("addmm", "mm", "bmm", "baddbmm", "linear"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "normalisation": ("norm",),
    "activation": ("silu", "gelu", "sigmoid"),
    "copy": ("copy", "cat", "clone", "contiguous", "to_copy", "upsample"),
}
_COUNTED = ("conv2d", "addmm", "mm", "bmm", "baddbmm", "scaled_dot_product_attention")


@dataclass(frozen=True)
class Spent:
    """Time in one operation on one shape, or in all that is not counted in operations.

    Attributes:
        kind: "convolution", "matrix product", "attention", ... or "other".
        operation: as torch names it; the kind where it does no arithmetic worth counting.
        shape: of its first two inputs, as "2x320x64x64 * 320x320x3x3"; "" where not counted.
        calls: in one call of the UNet.
        seconds: on the clock.
        operations: floating-point operations.
    """

    kind: str
    operation: str
    shape: str
    calls: int
    seconds: float
    operations: float

    def ideal(self, speed: Speed, threads: int = 1) -> float:
        """Seconds at the machine's speed (`machine_speed`, which on a CPU is that of a core)."""
        best = speed.convolution if self.kind == "convolution" else speed.matmul
        return self.operations / best / threads


def profile_unet(backbone: Any, latents: torch.Tensor, t: int) -> list[Spent]:
    """One call of the UNet on two noisy images, by operation and shape; most time first.

    Args:
        backbone: a latent UNet or a kin of it.
        latents: (C, h, w).
        t: timestep.
    """
    from torch.profiler import ProfilerActivity, profile

    embedding = backbone.embed(["a thing"])[0]
    noisy = torch.randn((2, *latents.shape), device=latents.device)
    backbone.predict(noisy, t, embedding)
    cuda = backbone.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(
        activities=activities, record_shapes=True, with_flops=True, acc_events=True
    ) as run:
        backbone.predict(noisy, t, embedding)
    calls: Counter[tuple[str, str, str]] = Counter()
    seconds: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    operations: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for root in run.events() or ():
        if root.cpu_parent is None:
            for key, spent, counted in _parts(root, cuda):
                calls[key] += 1
                seconds[key] += spent / 1e6
                operations[key] += counted
    found = [Spent(*key, calls[key], seconds[key], operations[key]) for key in seconds]
    return sorted(found, key=lambda part: -part.seconds)


def by_kind(parts: list[Spent]) -> dict[str, float]:
    """Shares of the time by kind, 0 to 1, largest first."""
    total = sum(part.seconds for part in parts) or 1.0
    shares: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        shares[part.kind] += part.seconds / total
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _parts(event: Any, cuda: bool) -> Iterator[tuple[tuple[str, str, str], float, float]]:
    """(kind, operation, shape), microseconds and operations of an event and those within it."""
    name = event.name.removeprefix("aten::").lstrip("_")
    kind = next((k for k, words in _KINDS.items() if any(w in name for w in words)), "other")
    if name in _COUNTED:
        sizes = [list(s) for s in event.input_shapes if s]
        # addmm(bias, a, b): the bias is no factor.
        factors = sizes[-2:] if name in ("addmm", "baddbmm") else sizes[:2]
        shape = " * ".join("x".join(map(str, s)) for s in factors)
        spent = event.device_time_total if cuda else event.cpu_time_total
        yield (kind, name, shape), spent, _operations(name, event, factors)
        return
    own = event.self_device_time_total if cuda else event.self_cpu_time_total
    yield (kind, kind, ""), own, 0.0
    for child in event.cpu_children:
        yield from _parts(child, cuda)


def _operations(name: str, event: Any, factors: list[list[int]]) -> float:
    if name != "scaled_dot_product_attention":
        return float(event.flops or 0)
    (*batch, queries, width), (*_, keys, _) = factors
    products = 1
    for size in batch:
        products *= size
    return 4.0 * products * queries * keys * width
