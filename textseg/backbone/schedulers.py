"""Any diffusers scheduler over a backbone that predicts noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import torch

    from .base import Backbone


def make_scheduler(backbone: Backbone, name: str, steps: int) -> Any:
    """A diffusers scheduler of the class `name` with the model's own noise schedule.

    It is told that noise is predicted, which is what `Backbone.predict` returns, and spaces its
    steps "trailing", so that timesteps are whole and the first is the noisiest.
    """
    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and hasattr(kind, "set_timesteps") and hasattr(kind, "step")):
        raise InputError(
            f"scheduler must be 'ddim' or the name of a diffusers scheduler, got {name!r}"
        )
    own = getattr(backbone, "scheduler", None)
    if own is None or "betas" not in vars(own):
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
