"""Strength is the same noise on every schedule and in every family."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILIES, FLOWS, Tiny, diffusion_schedule, flow_levels

from textseg.backbone.latent_unet import LatentUNet
from textseg.backbone.schedulers import (
    flow_signal,
    nearest_timestep,
    reference_signal,
    signal_powers,
)
from textseg.inversion import ddim_levels, edit_levels


def signal_of_schedule(scheduler: Any) -> torch.Tensor:
    """alpha_bar at each timestep, from what the scheduler itself does to a clean signal."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        sigma = scheduler.sigmas[: len(scheduler.timesteps)].double().flip(0)
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return scheduler.alphas_cumprod.double()


DIFFUSION = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
             "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
             "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
             "TCDScheduler")  # fmt: skip
SCHEDULES: dict[str, dict[str, Any]] = {
    "stable diffusion": {},
    "pixart": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", DIFFUSION)
def test_strength_is_the_same_noise_on_every_diffusion_schedule(kind: str, schedule: str) -> None:
    scheduler = diffusion_schedule(kind, **SCHEDULES[schedule])
    alphas = signal_of_schedule(scheduler)
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        t = nearest_timestep(signal_powers(scheduler), wanted)
        assert float(alphas[t]) == pytest.approx(wanted, rel=0.01)
        sigma, sigma_wanted = ((1 - a) ** 0.5 for a in (float(alphas[t]), wanted))
        assert sigma == pytest.approx(sigma_wanted, rel=0.01)


@pytest.mark.parametrize("zero", [DIFFUSION[0], "EulerDiscreteScheduler", "DDPMScheduler"])
def test_schedules_that_end_in_pure_noise(zero: str) -> None:
    scheduler = diffusion_schedule(zero, rescale_betas_zero_snr=True)
    alphas = signal_powers(scheduler)
    assert 0 < float(alphas[-1]) <= 1e-6
    wanted = reference_signal()[500]
    assert float(alphas[nearest_timestep(alphas, wanted)]) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    "options", [{"shift": 1.0}, {"shift": 3.0}, {"use_dynamic_shifting": True, "shift": 3.0}]
)
@pytest.mark.parametrize(
    "kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]
)
def test_strength_is_the_same_noise_on_every_flow(kind: str, options: dict[str, Any]) -> None:
    import diffusers

    if "Heun" in kind and "use_dynamic_shifting" in options:
        pytest.skip("this scheduler has no dynamic shift")
    scheduler = getattr(diffusers, kind)(**options)
    alphas = signal_of_schedule(scheduler)
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        t = nearest_timestep(alphas, wanted)
        sigma = float(1 / (1 + (alphas[t] / (1 - alphas[t])).sqrt()))
        assert float(alphas[t]) == pytest.approx(wanted, rel=0.01)
        assert sigma == pytest.approx(1 / (1 + (wanted / (1 - wanted)) ** 0.5), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_maps_strength_to_the_same_noise(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    _, backbone = tiny(family)
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        assert backbone.alpha_bar(backbone.timestep(strength)) == pytest.approx(wanted, rel=0.01)
    levels = edit_levels(backbone, 10, 0.5)
    assert levels[0] == -1 and levels == sorted(set(levels)) and len(levels) == 6
    assert backbone.alpha_bar(levels[-1]) == pytest.approx(reference_signal()[499], rel=0.01)


CELLS = {
    32: ("sana", "sana-sprint"),
    64: ("latent-unet", "bria-fibo", "qwen-image-2.1", "hunyuan-image", "hunyuan-image-distilled",
         "prx"),
    96: ("sd2", "lcm"),
}  # fmt: skip
"""Latent cells along the native side -> families; all others have 128."""
PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def cells_of(family: str) -> int:
    return next((cells for cells, families in CELLS.items() if family in families), 128)


def signal_to_noise(family: str, pipe: Any, t: int) -> float:
    """Power of the signal over that of the noise at a timestep, from the scheduler itself."""
    if family not in FLOWS:
        power = float(pipe.scheduler.alphas_cumprod[t])
        return power / (1 - power)
    scheduler, i = flow_levels(family, pipe.scheduler.config), 999 - t
    one, none = torch.ones(1), torch.zeros(1)
    at = scheduler.timesteps[i : i + 1]
    signal, noise = scheduler.scale_noise(one, at, none), scheduler.scale_noise(none, at, one)
    return float(signal / noise) ** 2


def default_noise(family: str, tiny: Callable[[str], Tiny]) -> tuple[float, int, float]:
    """The default strength at a family's own size, its timestep, and the signal to noise there
    times what a mean over as much of the picture takes away, against 64 cells."""
    pipe, backbone = tiny(family)
    kind: Any = type(backbone)
    cells = cells_of(family)
    model = kind(pipe, family, {"native_size": cells * backbone.factor})
    [strength] = model.contrast_defaults.strength
    t = model.timestep(strength)
    return strength, t, signal_to_noise(family, pipe, t) * (cells / 64) ** 2


@pytest.mark.parametrize("family", FAMILIES)
def test_as_much_of_the_picture_is_hidden_as_by_stable_diffusions_default(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    expected = default_noise("latent-unet", tiny)[2]
    assert expected == pytest.approx(0.2763 / (1 - 0.2763), rel=1e-3)
    seen, (pipe, backbone) = default_noise(family, tiny)[2], tiny(family)
    if cells_of(family) < 64:  # where the strength stays at the paper's
        assert seen == pytest.approx(expected * (cells_of(family) / 64) ** 2, rel=0.05)
    else:
        assert seen == pytest.approx(expected, rel=0.05)
    # The way up of an edit ends at the same ratio for all, whatever the cells.
    start = edit_levels(backbone, 50, 0.5)[-1]
    assert signal_to_noise(family, pipe, start) == pytest.approx(expected, rel=0.05)
    if not backbone.unet.config.get("sample_size"):
        assert backbone._cells() == cells_of(family)


def test_the_page_tells_the_noise_of_the_default_strengths(tiny: Callable[[str], Tiny]) -> None:
    rows: dict[tuple[int, float], list[str]] = {}
    for family in sorted({*FAMILIES} - {"sd3-without-t5", "sd3.5", "sdxl-lcm"}):
        strength, t, _ = default_noise(family, tiny)
        rows.setdefault((cells_of(family), strength), []).append(f"`{family}` {t}")
    made = ""
    for (cells, strength), families in sorted(rows.items()):
        wanted = ratio(strength)
        made += f"| {cells} | {strength:g} | {wanted:.3f} | {wanted * (cells / 64) ** 2:.2f} | "
        made += f"{', '.join(families)} |\n"
    assert made in PAGE.read_text(), f"docs/models.md must have\n{made}"


def ratio(strength: float) -> float:
    power = reference_signal()[round(1000 * strength)]
    return power / (1 - power)


def test_auraflow_has_the_size_of_its_pipeline(tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny("aura-flow")
    taken = inspect.signature(type(pipe).__call__).parameters
    kind: Any = type(backbone)
    assert kind(pipe, "m").native_size == taken["height"].default == 1024


@pytest.mark.parametrize("family", FLOWS)
def test_a_flows_levels_are_its_schedulers(family: str, tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny(family)
    expected = flow_levels(family, pipe.scheduler.config).sigmas[:-1].double().flip(0)
    powers = torch.tensor([backbone.alpha_bar(t) for t in range(1000)], dtype=torch.float64)
    torch.testing.assert_close(powers[:-1], flow_signal(expected)[:-1], rtol=1e-4, atol=1e-9)
    assert powers[-1] == 1e-6 and backbone.alpha_bar(-1) == 1


def test_stable_diffusions_own_timesteps_map_to_themselves(eps_backbone: LatentUNet) -> None:
    assert [eps_backbone.same_noise(t) for t in range(1000)] == list(range(1000))
    assert edit_levels(eps_backbone, 7, 0.6) == ddim_levels(1000, 7, 0.6)
    np.testing.assert_allclose(
        reference_signal(), diffusion_schedule().alphas_cumprod.double(), rtol=2e-5
    )
