"""DDIM encoding and decoding: against diffusers, the ODE in another form, and a solvable model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from textseg.errors import CancelledError, InputError
from textseg.inversion import ddim_decode, ddim_encode, ddim_levels

BACKBONES = ("eps_backbone", "v_backbone")


class Gaussian:
    """The exact denoiser of data from N(0, spread^2): its ODE has a closed solution."""

    spread = 0.5
    num_train_timesteps = 1000
    distilled_guidance = None

    def __init__(self) -> None:
        self.evaluations = 0

    def alpha_bar(self, t: int) -> float:
        # sigma grows evenly with t; where it starts like sqrt(t), the order has a log factor.
        return 1 / (1 + (2 * (t + 1) / 1000) ** 2)

    def embed(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def predict(
        self,
        noisy: torch.Tensor,
        t: int,
        embedding: torch.Tensor,
        *,
        noisy_at: int | None = None,
    ) -> torch.Tensor:
        self.evaluations += 1
        a = self.alpha_bar(t)
        return noisy * (math.sqrt(1 - a) / (a * self.spread**2 + 1 - a))

    def exact(self, latents: torch.Tensor, t: int) -> torch.Tensor:
        """The latents carried along the ODE from the clean end to t."""
        a = self.alpha_bar(t)
        return latents * (math.sqrt(a * self.spread**2 + 1 - a) / self.spread)


def _latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(seed))


def _trailing(backbone: Any) -> dict[str, Any]:
    """The backbone's scheduler settings, spaced so that the schedule ends at T - 1."""
    own = {k: v for k, v in dict(backbone.scheduler.config).items() if not k.startswith("_")}
    return own | {"timestep_spacing": "trailing"}


def _slope(errors: list[float]) -> float:
    """Order of convergence between the first and the last of errors at doubling steps."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


def test_levels_span_the_schedule_and_the_ratio() -> None:
    assert ddim_levels(1000, 5) == [-1, 199, 399, 599, 799, 999]
    assert ddim_levels(1000, 50, 0.5)[-1] == 499
    assert ddim_levels(1000, 4, 0.01) == [-1, 249]
    assert ddim_levels(1000, 7) == [-1, 142, 285, 428, 570, 713, 856, 999]
    assert len(ddim_levels(1000, 1000)) == 1001


@pytest.mark.parametrize(
    ("steps", "ratio", "words"),
    [
        (0, 0.5, "steps must be a whole number from 1 to 1000, got 0"),
        (1001, 0.5, "steps"),
        (50, 0.0, "encode_ratio must be a number in (0, 1], got 0.0"),
        (50, 1.1, "encode_ratio"),
    ],
)
def test_levels_refuse(steps: int, ratio: float, words: str) -> None:
    with pytest.raises(InputError) as caught:
        ddim_levels(1000, steps, ratio)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", BACKBONES)
def test_encoding_equals_diffusers_inverse_scheduler(
    name: str, request: pytest.FixtureRequest
) -> None:
    from diffusers import DDIMInverseScheduler

    backbone = request.getfixturevalue(name)
    scheduler: Any = DDIMInverseScheduler.from_config(_trailing(backbone))
    scheduler.set_timesteps(10)
    embedding = backbone.embed([""])
    expected = _latents()[None]
    encoded = ddim_encode(backbone, _latents(), ddim_levels(1000, 10))
    assert list(scheduler.timesteps) == encoded.levels[1:]
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            output = backbone.unet(expected, t, encoder_hidden_states=embedding).sample
        expected = scheduler.step(output, t, expected).prev_sample
        torch.testing.assert_close(encoded[i + 1], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_decoding_equals_diffusers_scheduler(name: str, request: pytest.FixtureRequest) -> None:
    from diffusers import DDIMScheduler

    backbone = request.getfixturevalue(name)
    scheduler: Any = DDIMScheduler.from_config(_trailing(backbone))
    scheduler.set_timesteps(10)
    embedding = backbone.embed(["the cat", "a dog"])
    expected = _latents()[None]
    for t in scheduler.timesteps:
        with torch.no_grad():
            negative, positive = backbone.unet(
                expected.repeat(2, 1, 1, 1), t, encoder_hidden_states=embedding
            ).sample.chunk(2)
        output = negative + 3 * (positive - negative)
        expected = scheduler.step(output, t, expected).prev_sample
    decoded = ddim_decode(
        backbone,
        _latents(),
        ddim_levels(1000, 10),
        prompt="a dog",
        negative_prompt="the cat",
        guidance_scale=3,
    )
    torch.testing.assert_close(decoded, expected[0], rtol=1e-3, atol=1e-3)


def test_encoding_equals_the_ode_in_its_other_form(eps_backbone: Any) -> None:
    """x / sqrt(abar) moves along eps by the change of sigma = sqrt((1 - abar) / abar)."""
    levels = ddim_levels(1000, 8, 0.75)
    assert levels[-1] == 749
    (embedding,) = eps_backbone.embed([""])
    encoded = ddim_encode(eps_backbone, _latents(), levels)
    a = [eps_backbone.alpha_bar(t) for t in levels]
    sigma = [math.sqrt((1 - value) / value) for value in a]
    scaled = _latents().double() / math.sqrt(a[0])
    for i, t in enumerate(levels[1:]):
        noisy = (scaled * math.sqrt(a[i])).float()[None]
        eps = eps_backbone.predict(noisy, t, embedding)[0].double()
        scaled = scaled + (sigma[i + 1] - sigma[i]) * eps
        expected = (scaled * math.sqrt(a[i + 1])).float()
        torch.testing.assert_close(encoded[i + 1], expected, rtol=1e-4, atol=1e-4)


def test_error_falls_at_first_order_on_the_solvable_model() -> None:
    model: Any = Gaussian()
    against_ode, round_trip = [], []
    for steps in (20, 40, 80, 160):
        levels = ddim_levels(1000, steps)
        encoded = ddim_encode(model, _latents(), levels)
        exact = model.exact(_latents(), levels[-1])
        against_ode.append(float((encoded[-1] - exact).abs().max()))
        back = ddim_decode(model, encoded[-1], levels, prompt="")
        round_trip.append(float((back - _latents()).abs().max()))
    assert _slope(against_ode) == pytest.approx(1, abs=0.3)
    assert _slope(round_trip) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("name", BACKBONES)
def test_round_trip_error_falls_with_steps(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    errors = []
    for steps in (10, 20, 40, 80):
        levels = ddim_levels(1000, steps, 0.5)
        encoded = ddim_encode(backbone, _latents(), levels, prompt="a dog")
        back = ddim_decode(backbone, encoded[-1], levels, prompt="a dog")
        errors.append(float((back - _latents()).square().mean().sqrt()))
    assert errors == sorted(errors, reverse=True)
    assert _slope(errors) > 0.6


def test_fixed_point_makes_the_round_trip_exact() -> None:
    model: Any = Gaussian()
    levels = ddim_levels(1000, 20)
    errors = []
    for iterations in (0, 1, 3, 20):
        encoded = ddim_encode(model, _latents(), levels, fixed_point=iterations)
        back = ddim_decode(model, encoded[-1], levels, prompt="")
        errors.append(float((back - _latents()).abs().max()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-4


@pytest.mark.parametrize("name", BACKBONES)
def test_fixed_point_on_networks(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    levels = ddim_levels(1000, 10, 0.5)

    def error(iterations: int) -> float:
        encoded = ddim_encode(backbone, _latents(), levels, fixed_point=iterations)
        back = ddim_decode(backbone, encoded[-1], levels, prompt="")
        return float((back - _latents()).abs().max())

    assert error(15) < 1e-3 < error(0)


def test_checkpoints_give_the_same_bits_in_less_memory(eps_backbone: Any) -> None:
    levels = ddim_levels(1000, 30)
    whole = ddim_encode(eps_backbone, _latents(), levels)
    thin = ddim_encode(eps_backbone, _latents(), levels, keep="checkpoints")
    assert whole.held == len(whole) == 31
    most = 0
    for i in range(30, -1, -1):
        assert torch.equal(thin[i], whole[i])
        most = max(most, thin.held)
    assert most <= 2 * math.isqrt(30) + 2
    assert torch.equal(thin[-1], whole[-1])


def test_checkpoints_encode_each_level_again_at_most_once() -> None:
    model: Any = Gaussian()
    encoded = ddim_encode(model, _latents(), ddim_levels(1000, 30), keep="checkpoints")
    assert model.evaluations == 30
    for i in range(30, -1, -1):
        encoded[i]
    assert model.evaluations <= 60


def test_evaluations_per_step() -> None:
    model: Any = Gaussian()
    ddim_encode(model, _latents(), ddim_levels(1000, 10), fixed_point=2)
    assert model.evaluations == 30


def test_progress_counts_and_cancels() -> None:
    model: Any = Gaussian()
    seen: list[tuple[int, int, str]] = []

    def stop_at_three(done: int, total: int, stage: str) -> bool:
        seen.append((done, total, stage))
        return done < 3

    with pytest.raises(CancelledError, match="step 3 of 5 of encoding"):
        ddim_encode(model, _latents(), ddim_levels(1000, 5), progress=stop_at_three)
    assert seen == [(1, 5, "encoding"), (2, 5, "encoding"), (3, 5, "encoding")]


def test_refuses_a_way_of_keeping_that_is_none() -> None:
    with pytest.raises(InputError, match="keep must be 'all' or 'checkpoints', got 'some'"):
        ddim_encode(Gaussian(), _latents(), ddim_levels(1000, 5), keep="some")  # type: ignore[arg-type]
