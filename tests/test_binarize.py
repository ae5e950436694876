from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from textseg.binarize import cut, cut_level, normalize
from textseg.errors import InputError
from textseg.options import THRESHOLD_RULES, RefineOptions

RESCALING = ("paper", "otsu", "quantile")


def random_map(seed: int = 0, shape: tuple[int, int] = (9, 13)) -> np.ndarray:
    return np.random.default_rng(seed).gamma(0.6, 0.4, shape).astype(np.float32)


def test_paper_rule_follows_its_three_steps_by_hand():
    contrast = np.array([[0.0, 1.0, 1.0], [2.0, 2.0, 18.0]], np.float32)
    # The mean is 4, so 18 is cut to 12; then everything is divided by 12.
    expected = np.array([[0, 1 / 12, 1 / 12], [1 / 6, 1 / 6, 1]], np.float32)
    options = RefineOptions(threshold="paper", level=0.15)
    score = normalize(contrast, options)
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    assert score.dtype == np.float32
    np.testing.assert_array_equal(cut(score, options), [[0, 0, 0], [1, 1, 1]])


def test_paper_rule_subtracts_the_minimum():
    contrast = np.array([[2.0, 3.0, 4.0]], np.float32)
    np.testing.assert_allclose(normalize(contrast), [[0, 0.5, 1]])


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_where_a_cell_lies_does_not_matter(rule: str):
    contrast, options = random_map(), RefineOptions(threshold=rule)
    order = np.random.default_rng(1).permutation(contrast.size)
    score, mask = normalize(contrast, options), cut(normalize(contrast, options), options)
    shuffled = normalize(contrast.flat[order].reshape(13, 9), options)
    np.testing.assert_allclose(shuffled.ravel(), score.flat[order], rtol=1e-6)
    np.testing.assert_array_equal(cut(shuffled, options).ravel(), mask.flat[order])
    assert mask.any() and not mask.all()


def test_score_ignores_the_maps_unit():
    np.testing.assert_allclose(
        normalize(random_map() * 1e-6), normalize(random_map()), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("rule", RESCALING)
@pytest.mark.parametrize("value", [0.0, 0.37, 1e6])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_map_scores_zero_and_gives_an_empty_mask(rule: str, value: float, level: float):
    options = RefineOptions(threshold=rule, level=level)
    score = normalize(np.full((4, 7), value, np.float32), options)
    assert not score.any()
    assert not cut(score, options).any()


def test_rounding_noise_on_a_flat_map_is_not_contrast():
    flat = np.float32(0.3) * (1 + np.random.default_rng(0).uniform(-1, 1, (6, 9)) * 1e-7)
    assert not normalize(flat).any()


@pytest.mark.parametrize("seed", range(4))
def test_otsu_maximises_the_variance_between_classes(seed: int):
    rng = np.random.default_rng(seed)
    contrast = np.where(rng.random((20, 31)) < 0.3, rng.normal(0.8, 0.1, (20, 31)),
                        rng.normal(0.2, 0.08, (20, 31))).astype(np.float32)  # fmt: skip
    options = RefineOptions(threshold="otsu")
    score = normalize(contrast, options).astype(float)

    def between(threshold: float) -> float:
        inside = score > threshold
        share = inside.mean()
        if share in (0.0, 1.0):
            return 0.0
        return share * (1 - share) * (score[inside].mean() - score[~inside].mean()) ** 2

    best = max(between(threshold) for threshold in np.unique(score))
    # Otsu's histogram has 256 bins, so it may miss the best cut by a pixel or two.
    assert between(cut_level(score, options)) >= 0.995 * best


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_quantile_leaves_out_the_fraction(level: float):
    contrast = np.random.default_rng(1).permutation(100).reshape(5, 20)
    options = RefineOptions(threshold="quantile", level=level, clamp=10.0)
    mask = cut(normalize(contrast, options), options)
    assert (~mask).sum() == max(1, round(level * 100))
    assert contrast[mask].min(initial=100) > contrast[~mask].max()


def test_fixed_clips_and_cuts_the_map_itself():
    contrast = np.array([[-0.4, 0.2, 0.5, 0.51, 3.0]], np.float32)
    options = RefineOptions(threshold="fixed", level=0.5)
    score = normalize(contrast, options)
    np.testing.assert_array_equal(score, np.array([[0, 0.2, 0.5, 0.51, 1]], np.float32))
    np.testing.assert_array_equal(cut(score, options), [[0, 0, 0, 1, 1]])


def test_calibrated_is_half_at_the_larger_of_floor_and_share_of_the_peak():
    contrast = np.concatenate([np.linspace(0, 1, 200), np.full(100, 4.0)]).reshape(15, 20)
    by_peak = normalize(contrast, RefineOptions(threshold="calibrated", floor=0.1, relative=0.5))
    np.testing.assert_allclose(by_peak, contrast / (contrast + 2.0), rtol=1e-6)
    by_floor = normalize(contrast, RefineOptions(threshold="calibrated", floor=9.0, relative=0.5))
    np.testing.assert_allclose(by_floor, contrast / (contrast + 9.0), rtol=1e-6)


def test_calibrated_keeps_an_absent_object_out():
    faint = random_map() * 1e-3
    options = RefineOptions(threshold="calibrated", floor=0.1, relative=0.5)
    assert not cut(normalize(faint, options), options).any()


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_signed_evidence_against_the_query_scores_zero(rule: str):
    contrast = random_map() - 0.2
    score = normalize(contrast, RefineOptions(threshold=rule))
    assert not score[contrast <= 0].any()
    all_negative = normalize(-random_map() - 0.01, RefineOptions(threshold=rule))
    assert not all_negative.any()


@settings(max_examples=40, deadline=None)
@given(
    rule=st.sampled_from(THRESHOLD_RULES),
    level=st.floats(0, 1),
    contrast=arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)),
                    elements=st.floats(-10, 1000, width=32)),
)  # fmt: skip
def test_scores_lie_in_the_unit_interval_and_keep_the_order(rule, level, contrast):
    options = RefineOptions(threshold=rule, level=level)
    score = normalize(contrast, options)
    assert score.shape == contrast.shape
    assert (score >= 0).all() and (score <= 1).all()
    order = np.argsort(contrast, axis=None)
    assert (np.diff(score.reshape(-1)[order]) >= 0).all()
    mask = cut(score, options)
    assert mask.dtype == bool
    assert not mask[score == 0].any()


@pytest.mark.parametrize("bad", [np.zeros((2, 3, 4)), np.zeros((0, 3)), np.zeros(4)])
def test_wrong_shapes_are_named(bad: np.ndarray):
    with pytest.raises(InputError, match=r"contrast must be a non-empty array \(h, w\)"):
        normalize(bad)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float):
    contrast = random_map()
    contrast[2, 3] = value
    with pytest.raises(InputError, match="finite"):
        normalize(contrast)
