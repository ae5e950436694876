"""Noise schedules: their signal power, equal noise between them, and diffusers' schedulers.

A level of noise is named by what the reference schedule has at a fraction of its steps: strength s
is timestep round(1000 s) of Stable Diffusion's own schedule ("scaled linear", Rombach et al. 2022,
arXiv 2112.10752). A model with another schedule is run at its timestep of nearest signal-to-noise
ratio abar / (1 - abar). Stable Diffusion's own timesteps map to themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from .base import Backbone

LEAST_SIGNAL = 1e-6
"""Smallest alpha_bar a schedule is said to have. Without any signal left (zero terminal SNR, the
end of a flow) a clean image could not be told from noise and prediction; at this level an image
weighs a thousandth of the noise, and float32 carries the division."""


@lru_cache(maxsize=1)
def reference_signal() -> tuple[float, ...]:
    """alpha_bar of Stable Diffusion at each of its 1000 timesteps.

    >>> [round(reference_signal()[t], 4) for t in (0, 500, 999)]
    [0.9991, 0.2763, 0.0047]
    """
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    alphas, product = [], 1.0
    for i in range(1000):
        product *= 1 - (first + (last - first) * i / 999) ** 2
        alphas.append(product)
    return tuple(alphas)


def signal_powers(scheduler: Any) -> torch.Tensor:
    """alpha_bar at every training timestep of a diffusion scheduler, (T,) float64 on the CPU."""
    import torch

    return scheduler.alphas_cumprod.to("cpu", torch.float64).clamp(min=LEAST_SIGNAL)


def flow_signal(sigma: torch.Tensor) -> torch.Tensor:
    """alpha_bar of the flow x = (1 - sigma) x_0 + sigma eps, brought to unit variance.

    Divided by n = sqrt((1 - sigma)^2 + sigma^2), x is sqrt(abar) x_0 + sqrt(1 - abar) eps with
    abar = ((1 - sigma) / n)^2.
    """
    signal = (1 - sigma).square()
    return (signal / (signal + sigma.square())).clamp(min=LEAST_SIGNAL)


def nearest_timestep(alphas: torch.Tensor, alpha: float) -> int:
    """The timestep whose signal-to-noise ratio is nearest to alpha's, on a logarithmic scale.

    Args:
        alphas: alpha_bar at every timestep, (T,).
        alpha: in (0, 1).
    """
    import torch

    distance = (torch.logit(alphas) - math.log(alpha / (1 - alpha))).abs()
    return int(distance.argmin())


def strength_of_cells(cells: float) -> float:
    """The strength at which a model of so many latent cells along its native side sees as much as
    Stable Diffusion 1 does at 0.5, of 64 cells.

    The mean over a patch of an image takes away the more noise the more cells the patch has, so
    that the same signal-to-noise ratio hides less of a larger picture. The ratio that hides as much
    falls as 1 / cells^2 (Hoogeboom et al. 2023, arXiv 2301.11093; Esser et al. 2024, arXiv
    2403.03206, find the shift of 3 that this gives to be best in training). Never below 0.5.

    >>> [strength_of_cells(cells) for cells in (32, 64, 96, 128)]
    [0.5, 0.5, 0.62, 0.69]
    """
    alphas = reference_signal()
    ratio = alphas[500] / (1 - alphas[500]) / max(1.0, cells / 64) ** 2
    return round(sum(a / (1 - a) > ratio for a in alphas) / len(alphas), 2)


def make_scheduler(backbone: Backbone, name: str, steps: int) -> Any:
    """A diffusers scheduler of the class `name` with the model's own noise schedule.

    It is told that noise is predicted, which is what `Backbone.predict` returns, and spaces its
    steps "trailing", so that timesteps are whole and the first is the noisiest.
    """
    from .lean import restore

    restore()
    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and hasattr(kind, "set_timesteps") and hasattr(kind, "step")):
        raise InputError(
            f"scheduler must be 'ddim' or the name of a diffusers scheduler, got {name!r}"
        )
    own = backbone.sampler_schedule
    if own is None:
        raise InputError(f"scheduler must be 'ddim' for a model of family {backbone.family!r}")
    changes = {"prediction_type": "epsilon", "timestep_spacing": "trailing", "clip_sample": False}
    config = {k: v for k, v in dict(own.config).items() if not k.startswith("_")}
    try:
        scheduler = kind.from_config(config | changes)
        scheduler.set_timesteps(steps, device=backbone.device)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"scheduler {name!r} cannot run this model: {error}") from error
    return scheduler


def sample(
    scheduler: Any,
    noise: torch.Tensor,
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    after_step: Callable[[int, int], None],
    generator: torch.Generator,
) -> torch.Tensor:
    """Run a scheduler from pure noise to clean latents.

    Args:
        scheduler: from `make_scheduler`.
        noise: standard normal, (C, h, w).
        predict: noisy latents (C, h, w) and timestep to noise (C, h, w).
        after_step: told the number of steps done and of all steps.
        generator: for schedulers that draw noise on the way.

    Returns:
        (C, h, w).
    """
    import inspect

    extra = (
        {"generator": generator}
        if "generator" in inspect.signature(scheduler.step).parameters
        else {}
    )
    latents = noise[None] * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        eps = predict(scheduler.scale_model_input(latents, t)[0], round(float(t)))
        latents = scheduler.step(eps[None], t, latents, **extra).prev_sample
        after_step(i + 1, len(scheduler.timesteps))
    return latents[0]
