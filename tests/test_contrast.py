"""The algorithm against a plain transcription over raw diffusers modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textseg.contrast import evidence, measure, noise_contrast
from textseg.options import ContrastOptions
from textseg.predictions import Predictions, draw_noise
from textseg.presence import confidence_above_zero, presence_features
from textseg.prompts import PromptPair

IDENTITY = "ab" * 32


@pytest.fixture(scope="module")
def latents(eps_backbone: Any, tiny_image: np.ndarray) -> torch.Tensor:
    return eps_backbone.encode(tiny_image)


def null(query: str) -> PromptPair:
    return PromptPair(query, "", "null")


def test_draws_depend_on_their_key_alone() -> None:
    first = draw_noise((4, 6, 10), 0, IDENTITY, 500, 0)
    assert first.dtype == torch.float32 and first.device.type == "cpu"
    torch.manual_seed(1)
    assert torch.equal(first, draw_noise((4, 6, 10), 0, IDENTITY, 500, 0))
    others = [(1, IDENTITY, 500, 0), (0, "cd" * 32, 500, 0), (0, IDENTITY, 501, 0),
              (0, IDENTITY, 500, 1)]  # fmt: skip
    for key in others:
        assert not torch.equal(first, draw_noise((4, 6, 10), *key))
    many = torch.stack([draw_noise((4, 6, 10), 0, IDENTITY, 500, i) for i in range(200)])
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(5, 7), seed=st.integers(0, 99))
def test_formulas_by_loops(n: int, h: int, w: int, seed: int) -> None:
    eps, q, r = torch.randn(3, n, 2, h, w, generator=torch.Generator().manual_seed(seed))
    contrast, signed = noise_contrast(q, r), evidence(eps, q, r)
    assert contrast.shape == signed.shape == (n, h, w)
    for i, y, x in np.ndindex(n, h, w):
        c = [abs(float(q[i, k, y, x] - r[i, k, y, x])) for k in range(2)]
        e = [float((eps - r)[i, k, y, x] ** 2 - (eps - q)[i, k, y, x] ** 2) for k in range(2)]
        assert float(contrast[i, y, x]) == pytest.approx(sum(c) / 2, rel=1e-4, abs=1e-6)
        assert float(signed[i, y, x]) == pytest.approx(sum(e) / 2, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(evidence(eps, r, q), -signed)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_measure_against_a_plain_transcription(
    kind: str, request: pytest.FixtureRequest, tiny_image: np.ndarray
) -> None:
    pipe = request.getfixturevalue(f"{kind}_pipeline")
    model = request.getfixturevalue(f"{kind}_backbone")
    options = ContrastOptions(strength=(0.3, 0.6), samples=3, batch_size=2, seed=7)
    latents = model.encode(tiny_image)
    assert latents.shape[1] != latents.shape[2]
    pair = PromptPair("a dog", "a cat", "text")
    [measured] = measure(Predictions(model, latents, IDENTITY), [pair], options)

    maps, signed = [], []
    for t in (300, 600):
        a = pipe.scheduler.alphas_cumprod[t]
        for i in range(3):
            eps = draw_noise(latents.shape, 7, IDENTITY, t, i)
            x = a.sqrt() * latents + (1 - a).sqrt() * eps
            out = {}
            for prompt in ("a dog", "a cat"):
                text = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
                with torch.no_grad():
                    raw = pipe.unet(x[None], t, encoder_hidden_states=text).sample[0]
                out[prompt] = raw if kind == "eps" else a.sqrt() * raw + (1 - a).sqrt() * x
            maps.append((out["a dog"] - out["a cat"]).abs().mean(0))
            signed.append(((eps - out["a cat"]) ** 2 - (eps - out["a dog"]) ** 2).mean(0))
    expected = torch.stack(maps).mean(0).numpy()
    assert measured.contrast.dtype == measured.evidence.dtype == np.float32
    np.testing.assert_allclose(measured.contrast, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        measured.evidence, torch.stack(signed).mean(0).numpy(), rtol=1e-3, atol=1e-5
    )
    order = np.argsort(-expected.ravel())[: max(1, round(0.05 * expected.size))]
    per_draw = torch.stack(signed).flatten(1)[:, order.copy()].mean(1).numpy()
    np.testing.assert_allclose(measured.draw_evidence, per_draw, rtol=1e-3, atol=1e-5)
    assert 0 <= measured.presence <= 1


def test_a_query_gives_the_same_bits_alone_and_among_others(
    eps_backbone: Any, latents: torch.Tensor
) -> None:
    options = ContrastOptions(strength=(0.4, 0.5), samples=5, batch_size=2)
    queries = ["a dog", "the cat", "an apple"]
    together = measure(
        Predictions(eps_backbone, latents, IDENTITY), list(map(null, queries)), options
    )
    tight = Predictions(eps_backbone, latents, IDENTITY, max_bytes=1)
    reverse = measure(tight, list(map(null, queries[::-1])), options)[::-1]
    for i, query in enumerate(queries):
        [alone] = measure(Predictions(eps_backbone, latents, IDENTITY), [null(query)], options)
        for other in (together[i], reverse[i]):
            assert np.array_equal(alone.contrast, other.contrast)
            assert np.array_equal(alone.evidence, other.evidence)
            assert alone.presence == other.presence


def test_every_prompt_is_evaluated_once(eps_backbone: Any, latents: torch.Tensor) -> None:
    options = ContrastOptions(strength=(0.4, 0.5), samples=5, batch_size=2)
    predictions = Predictions(eps_backbone, latents, IDENTITY)
    measure(predictions, [null("a dog"), null("a cat"), null("a dog")], options)
    assert predictions.evaluations == 2 * 5 * 3
    measure(predictions, [null("a ball")], options)
    assert predictions.evaluations == 2 * 5 * 4
    measure(predictions, [PromptPair("a dog", "a cat", "text")], options)
    assert predictions.evaluations == 2 * 5 * 4


def test_what_is_kept_is_bounded(eps_backbone: Any, latents: torch.Tensor) -> None:
    options = ContrastOptions(samples=4, batch_size=4)
    one = 4 * latents.nbytes
    predictions = Predictions(eps_backbone, latents, IDENTITY, max_bytes=3 * one)
    measure(predictions, [null(f"dog {i}") for i in range(6)], options)
    assert len(predictions._kept) == 3
    # The reference, used by all, is the one that stays.
    assert predictions.evaluations == 4 * 7


def test_several_references_are_averaged(eps_backbone: Any, latents: torch.Tensor) -> None:
    options = ContrastOptions(samples=2, batch_size=2)
    pair = PromptPair("a dog", "a cat | a ball", "swap", (), ("a cat", "a ball"))
    predictions = Predictions(eps_backbone, latents, IDENTITY)
    [measured] = measure(predictions, [pair], options)
    q, c, b = (predictions.predict(p, 500, 0, range(2)) for p in ("a dog", "a cat", "a ball"))
    expected = (q - (c + b) / 2).abs().mean((0, 1)).numpy()
    np.testing.assert_allclose(measured.contrast, expected, rtol=1e-4, atol=1e-7)


def test_batch_size_changes_the_last_bits_only(eps_backbone: Any, latents: torch.Tensor) -> None:
    maps = [
        measure(
            Predictions(eps_backbone, latents, IDENTITY),
            [null("a dog")],
            ContrastOptions(samples=6, batch_size=b),
        )[0].contrast
        for b in (1, 4, 6)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(maps[0], maps[2], rtol=1e-3, atol=1e-6)


def test_equal_prompts_measure_nothing(eps_backbone: Any, latents: torch.Tensor) -> None:
    [same] = measure(
        Predictions(eps_backbone, latents, IDENTITY),
        [PromptPair("a dog", "a dog", "text")],
        ContrastOptions(samples=2),
    )
    assert not same.contrast.any() and not same.evidence.any()
    assert same.presence == 0


def test_progress_is_reported(eps_backbone: Any, latents: torch.Tensor) -> None:
    calls: list[tuple[int, int, str]] = []
    measure(
        Predictions(eps_backbone, latents, IDENTITY),
        [null("a dog"), null("a cat")],
        ContrastOptions(samples=3, batch_size=2),
        lambda done, total, stage: calls.append((done, total, stage)),
    )
    assert calls == [(i, 4, "contrast") for i in (1, 2, 3, 4)]


def test_confidence_is_the_one_sided_t_test() -> None:
    from scipy.stats import ttest_1samp

    for values in ([0.1, 0.4, -0.2, 0.3], [-1.0, -1.1, -0.7]):
        test: Any = ttest_1samp(values, 0, alternative="greater")
        expected = 1 - test.pvalue
        assert confidence_above_zero(np.array(values)) == pytest.approx(expected)
    assert confidence_above_zero(np.array([2.0])) == 1
    assert confidence_above_zero(np.zeros(3)) == 0


def test_presence_of_a_calibrated_model(v_backbone: Any, tiny_image: np.ndarray) -> None:
    latents = v_backbone.encode(tiny_image)
    predictions = Predictions(v_backbone, latents, IDENTITY)
    options = v_backbone.contrast_defaults
    pair = PromptPair("", "a photo without a dog", "absent")
    [measured] = measure(predictions, [pair], options)
    top = np.sort(measured.contrast.ravel())[::-1]
    peak, broad = (top[: max(1, round(f * top.size))].mean(dtype=float) for f in (0.02, 0.05))
    strongest = np.argsort(-measured.contrast.ravel(), kind="stable")
    gain = measured.evidence.ravel()[strongest[: max(1, round(0.02 * top.size))]].mean(dtype=float)
    x = [np.log(peak), np.log(broad / peak), np.log(top.mean(dtype=float) / peak), gain / peak**2]
    found = presence_features(measured.contrast, measured.evidence)
    np.testing.assert_allclose(found, x, rtol=1e-5)
    logit = 2 * x[0] + 0.5 * x[1] - x[2] + 0.25 * x[3] + 1
    assert measured.presence == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)
    [other] = measure(predictions, [null("a dog")], options)
    assert other.presence == pytest.approx(confidence_above_zero(other.draw_evidence))


def test_one_draw_still_gives_a_presence(eps_backbone: Any, latents: torch.Tensor) -> None:
    [measured] = measure(
        Predictions(eps_backbone, latents, IDENTITY), [null("a dog")], ContrastOptions(samples=1)
    )
    assert 0 <= measured.presence <= 1
    nothing = np.zeros((3, 5), np.float32)
    assert np.isfinite(presence_features(nothing, nothing)).all()
