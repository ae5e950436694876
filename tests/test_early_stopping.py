"""Draws are made until the mask is stable, and no further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone

from textseg.binarize import cut, cut_value, normalize
from textseg.contrast import expected_flips, measure
from textseg.errors import InputError
from textseg.options import THRESHOLD_RULES, ContrastOptions, RefineOptions
from textseg.predictions import Predictions
from textseg.prompts import PromptPair
from textseg.segmenter import Segmenter

IDENTITY = "cd" * 32
PAIR = PromptPair("a dog", "", "null")
IMAGE = np.random.default_rng(1).integers(0, 256, (48, 80, 3), np.uint8)
FIXED = RefineOptions.off(threshold="fixed", level=0.25)


class Unsure(FakeBackbone):
    """The dog's contrast varies from draw to draw, by `spread` times its noise."""

    def __init__(self, spread: float) -> None:
        super().__init__({"dog": (0.25, 0.25, 0.75, 0.75)}, refine=FIXED)
        self.spread = spread

    def predict(
        self,
        noisy: torch.Tensor,
        t: int,
        embedding: torch.Tensor,
        *,
        noisy_at: int | None = None,
    ) -> torch.Tensor:
        eps = super().predict(noisy, t, embedding)
        said = float(embedding.sum() > 0)
        return eps + said * self.spread * noisy.sin()


def measured(model: Any, **options: Any) -> tuple[Any, int]:
    latents = model.encode(IMAGE)
    predictions = Predictions(model, latents, IDENTITY)
    [found] = measure(
        predictions, [PAIR], ContrastOptions(**options), cut=lambda map_: cut_value(map_, FIXED)
    )
    return found, predictions.evaluations


def same(a: Any, b: Any) -> bool:
    return (
        np.array_equal(a.contrast, b.contrast)
        and np.array_equal(a.evidence, b.evidence)
        and a.presence == b.presence
    )


def test_a_sure_mask_takes_two_draws_and_an_unsure_one_all() -> None:
    sure, evaluations = measured(Unsure(0.0), samples=12, batch_size=2, stop_risk=0.05)
    assert (sure.draws, evaluations) == (2, 4)
    unsure, evaluations = measured(Unsure(0.6), samples=12, batch_size=2, stop_risk=1e-9)
    assert (unsure.draws, evaluations) == (12, 24)


def test_a_stopped_result_is_that_of_its_first_draws() -> None:
    stopped, evaluations = measured(Unsure(0.3), samples=40, batch_size=1, stop_risk=0.3)
    assert 2 < stopped.draws < 40
    assert evaluations == 2 * stopped.draws
    plain, _ = measured(Unsure(0.3), samples=stopped.draws, batch_size=1)
    assert same(stopped, plain)


def test_a_lower_risk_takes_more_draws() -> None:
    draws = [measured(Unsure(0.3), samples=60, batch_size=1, stop_risk=risk)[0].draws
             for risk in (0.9, 0.3, 0.1)]  # fmt: skip
    assert draws == sorted(draws) and draws[0] < draws[-1]


@pytest.mark.parametrize("batch_size", [2, 3, 7, 40])
def test_the_batch_size_does_not_change_where_it_stops(batch_size: int) -> None:
    alone, _ = measured(Unsure(0.3), samples=40, batch_size=1, stop_risk=0.3)
    other, evaluations = measured(Unsure(0.3), samples=40, batch_size=batch_size, stop_risk=0.3)
    assert other.draws == alone.draws
    assert evaluations == 2 * min(-(-alone.draws // batch_size) * batch_size, 40)
    np.testing.assert_allclose(other.contrast, alone.contrast, rtol=1e-5)


@pytest.mark.parametrize("strength", [(0.5,), (0.3, 0.6)])
def test_where_it_never_stops_the_bits_are_the_usual_ones(
    eps_backbone: Any, strength: tuple[float, ...]
) -> None:
    usual, _ = measured(eps_backbone, strength=strength, samples=5, batch_size=2)
    looked, evaluations = measured(
        eps_backbone, strength=strength, samples=5, batch_size=2, stop_risk=1e-12
    )
    assert same(usual, looked)
    assert looked.draws == 5
    assert evaluations == 2 * 5 * len(strength)


@pytest.mark.parametrize("kind", ["contrast", "evidence"])
def test_several_levels_stop_together(kind: Any) -> None:
    found, evaluations = measured(
        Unsure(0.0), strength=(0.3, 0.6), samples=8, batch_size=2, stop_risk=0.05, measure=kind
    )
    assert (found.draws, evaluations, len(found.draw_evidence)) == (2, 8, 4)


def test_company_does_not_change_where_a_query_stops() -> None:
    options = ContrastOptions(samples=40, batch_size=2, stop_risk=0.3)
    pairs = [PAIR, PromptPair("a cat", "", "null"), PromptPair("the dog", "a cat", "text")]

    def asked(order: list[int]) -> dict[int, Any]:
        model = Unsure(0.3)
        predictions = Predictions(model, model.encode(IMAGE), IDENTITY)
        found = measure(
            predictions, [pairs[i] for i in order], options, cut=lambda m: cut_value(m, FIXED)
        )
        return dict(zip(order, found, strict=True))

    together, reverse = asked([0, 1, 2]), asked([2, 1, 0])
    for i in range(3):
        alone = asked([i])[i]
        for other in (together[i], reverse[i]):
            assert other.draws == alone.draws
            assert same(other, alone)


def test_the_result_says_how_many_draws_were_used() -> None:
    segmenter = Segmenter(Unsure(0.0)).set_image(IMAGE)
    found = segmenter.query("the dog", samples=8, stop_risk=0.1)
    assert "used 2 of 8 draws" in found.notes
    assert found.contrast_options.stop_risk == 0.1
    assert not any("draws" in note for note in segmenter.query("the dog", samples=8).notes)


def test_expected_flips_is_the_sum_of_one_sided_t_tests() -> None:
    from scipy.stats import ttest_1samp

    maps = np.random.default_rng(2).normal(0.5, 0.2, (5, 4, 6))
    tests = ttest_1samp(maps, 0.45)
    mean = maps.mean(axis=0)
    expected = np.sum(tests.pvalue / 2) / (mean > 0.45).sum()  # pyright: ignore
    assert expected_flips(maps, 0.45) == pytest.approx(expected)
    # Where the mask is empty, a hundredth of the cells is the unit.
    beyond = np.sum(ttest_1samp(maps, 3.0).pvalue / 2) / 0.24  # pyright: ignore
    assert expected_flips(maps, 3.0) == pytest.approx(beyond)
    assert expected_flips(np.ones((3, 2, 5)), 0.5) == 0
    assert expected_flips(np.ones((3, 2, 5)), 1.0) == 0


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
@pytest.mark.parametrize("level", [0.2, 0.5, 0.8, 1.0])
def test_the_cut_in_units_of_the_map_cuts_where_the_score_does(rule: str, level: float) -> None:
    rng = np.random.default_rng(3)
    options = RefineOptions.off(threshold=rule, level=level, floor=0.2, relative=0.4)
    for map_ in (rng.gamma(1.0, 0.4, (9, 13)), rng.normal(0, 1, (9, 13)), np.full((3, 5), 0.7),
                 np.zeros((3, 5))):  # fmt: skip
        value, mask = cut_value(map_, options), cut(normalize(map_, options), options)
        clear = np.abs(map_ - value) > 1e-5
        np.testing.assert_array_equal((map_ > value)[clear], mask[clear])


def test_queries_share_the_reference_predictions(eps_pipeline: Any, eps_backbone: Any) -> None:
    rows = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal rows
        rows += len(args[0])

    hook = eps_pipeline.unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        segmenter = Segmenter(eps_backbone, refine=RefineOptions.off()).set_image(IMAGE)
        segmenter.query("a dog", samples=3)
        assert rows == 2 * 3
        segmenter.query(["a cat", "a ball", "an apple"], samples=3)
        assert rows == (1 + 4) * 3
        segmenter.query(["a dog", "a ball"], samples=3, threshold="otsu")
        assert rows == (1 + 4) * 3 == segmenter.evaluations
    finally:
        hook.remove()


def test_wrong_arguments_are_named() -> None:
    for risk in (-0.1, 1.0, float("nan"), "0.1"):
        with pytest.raises(InputError, match=r"stop_risk must be a number in \[0, 1\)"):
            ContrastOptions(stop_risk=risk)  # type: ignore[arg-type]
    model = Unsure(0.0)
    predictions = Predictions(model, model.encode(IMAGE), IDENTITY)
    with pytest.raises(InputError, match="cut must be given where stop_risk is above 0"):
        measure(predictions, [PAIR], ContrastOptions(stop_risk=0.1))
