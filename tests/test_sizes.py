"""No height and width fails, whatever the picture shows and however it is refined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from hypothesis import given, settings
from hypothesis import strategies as st

import textseg
from textseg.options import RefineOptions
from textseg.refine import DenseCRF, Refiner, guided_filter, upsample
from textseg.refine.guided import GuidedFilter
from textseg.refine.pooled import PooledKernel, first_squares

few = settings(max_examples=30, deadline=None, derandomize=True)


@st.composite
def sizes(draw, longest: int = 4000, most: int = 15_000) -> tuple[int, int]:
    """(height, width), thin ones up to `longest`, with at most about `most` pixels."""
    long = draw(st.integers(1, longest))
    short = draw(st.integers(1, max(1, min(long, most // long))))
    return (long, short) if draw(st.booleans()) else (short, long)


@st.composite
def pictures(draw, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    kind = draw(st.sampled_from(["flat", "noise", "ramp", "two colours", "one pixel"]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "ramp":
        ramp = np.linspace(0, 255, height)[:, None] / 2 + np.linspace(0, 255, width) / 2
        return np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    if kind == "two colours":
        return np.repeat(random.random((height, width, 1)) > 0.5, 3, axis=2) * np.uint8(255)
    picture = np.full((height, width, 3), draw(st.integers(0, 255)), np.uint8)
    if kind == "one pixel":
        picture[random.integers(height), random.integers(width)] = 255, 0, 128
    return picture


@st.composite
def maps(draw) -> np.ndarray:
    random = np.random.default_rng(draw(st.integers(0, 99)))
    values = random.normal(size=(draw(st.integers(1, 70)), draw(st.integers(1, 70))))
    kind = draw(st.sampled_from(["signed", "flat", "none", "large", "tiny"]))
    scale = {"signed": 1.0, "large": 1e30, "tiny": 1e-30}
    flat = np.full_like(values, 0.3 if kind == "flat" else 0.0)
    return (values * scale[kind] if kind in scale else flat).astype(np.float32)


reaches = st.floats(-2.5, 4).map(lambda power: 10.0**power)
shares = st.sampled_from([0.0, 0.01, 0.3, 1.0])
options = st.builds(
    RefineOptions,
    threshold=st.sampled_from(["paper", "otsu", "quantile", "fixed", "calibrated"]),
    level=st.sampled_from([0.0, 0.5, 1.0]),
    guided=shares,
    crf=st.booleans(),
    crf_iterations=st.integers(1, 3),
    crf_appearance=st.sampled_from([0.0, 10.0, 1e3]),
    crf_alpha=reaches,
    crf_beta=reaches,
    crf_smoothness=st.sampled_from([0.0, 3.0, 1e3]),
    crf_gamma=reaches,
    crf_points=st.sampled_from([0, 16, 300, 1024]),
    crf_spacing=st.sampled_from([0.9, 1.5]),
    crf_stride=st.sampled_from([1, 3, 16]),
    opening=shares,
    closing=shares,
    min_area=shares,
    max_hole=shares,
)


def scores(found: np.ndarray, size: tuple[int, int]) -> bool:
    return found.shape[-2:] == size and bool(((found >= 0) & (found <= 1)).all())


@pytest.mark.parametrize("points", [16, 1024])
def test_every_pixel_of_every_size_lies_in_a_counted_square(points: int):
    for longer in range(1, 1501):
        alpha = 80.0 * longer / 500
        for shorter in range(1, longer + 1):
            side, squares = first_squares(longer, shorter, alpha, points)
            across = -(-shorter // side)
            assert (longer - 1) // side * across + (shorter - 1) // side < squares <= points // 4


@few
@given(st.data())
def test_any_picture_is_refined(data):
    size = data.draw(sizes())
    refiner = Refiner(data.draw(pictures(size)), data.draw(options))
    contrast = data.draw(maps())
    mask, score = refiner.refine(contrast)
    assert mask.dtype == bool and mask.shape == size and scores(score, size)
    masks, both = refiner.refine_exclusive(np.stack([contrast, contrast[::-1]]))
    assert masks.sum(axis=0).max() <= 1 and scores(both, size)


@few
@given(st.data())
def test_any_picture_has_a_crf(data):
    size = data.draw(sizes())
    model = DenseCRF(data.draw(pictures(size)), alpha=data.draw(reaches), beta=data.draw(reaches),
                     gamma=data.draw(reaches), points=data.draw(st.sampled_from([0, 16, 500])),
                     exact_pixels=64, spacing=0.9, stride=data.draw(st.integers(1, 9)))  # fmt: skip
    p = np.random.default_rng(0).dirichlet([1, 1, 1], size).transpose(2, 0, 1)
    found = model.marginals(-np.log(np.maximum(p, 1e-6)), 2)
    assert found.shape == p.shape and np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)


@few
@given(st.data())
def test_any_score_is_filtered_and_enlarged(data):
    size = data.draw(sizes())
    score = np.abs(data.draw(maps())).clip(0, 1)
    large = upsample(score, size)
    assert scores(large, size)
    picture = data.draw(pictures(size))
    assert scores(guided_filter(large, picture, data.draw(st.integers(0, 5000))), size)


@few
@given(st.data())
def test_any_picture_is_segmented_and_edited(data):
    size = data.draw(sizes())
    picture = data.draw(pictures(size))
    model = FakeBackbone({"dog": (0.2, 0.3, 0.7, 0.8)})
    found = textseg.segment(picture, "the dog", model=model,
                            refine=replace(data.draw(options), min_presence=0.0))  # fmt: skip
    assert found.mask.shape == size and scores(found.score, size)
    mask = np.zeros(size, bool)
    top, left = (data.draw(st.integers(0, side - 1)) for side in size)
    mask[top : top + data.draw(st.integers(1, 9)), left : left + data.draw(st.integers(1, 9))] = 1
    method = data.draw(
        st.sampled_from(["poisson"] if mask.all() else ["opencv-inpaint", "poisson"])
    )
    edit = textseg.edit(picture, mask=mask, prompt="", query="the dog", model=model, method=method,
                        patch=picture if method == "poisson" else None)  # fmt: skip
    np.testing.assert_array_equal(edit.image[~mask], picture[~mask])


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 3), (489, 640), (368, 640)])
def test_mini_segments_and_edits_at_its_defaults(size: tuple[int, int]):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert textseg.segment(picture, "the dog").mask.shape == size
    mask = np.zeros(size, bool)
    mask[: size[0] // 2 + 1] = True
    edit = textseg.edit(picture, mask=mask, prompt="a cat", query="the dog", steps=2)
    np.testing.assert_array_equal(edit.image[~mask], picture[~mask])


# Large pictures


def test_a_guided_filter_enlarges_to_its_own_size_as_it_filters():
    picture = np.random.default_rng(0).integers(0, 256, (31, 44, 3), np.uint8)
    score = np.random.default_rng(1).random((31, 44))
    guided = GuidedFilter(picture, 3)
    np.testing.assert_allclose(guided.upsample(score, picture), guided.apply(score), atol=1e-5)


@pytest.mark.parametrize("size", [(97, 131), (32, 40), (13, 260)])
def test_upsampling_is_a_line_in_the_colours_of_the_large_image(size: tuple[int, int]) -> None:
    import torch

    rng = np.random.default_rng(5)
    image, score = rng.integers(0, 256, (*size, 3), np.uint8), rng.random((9, 13))
    small = rng.integers(0, 256, (9, 13, 3), np.uint8)
    colours = small / 255
    slopes, offsets = np.zeros((9, 13, 3)), np.zeros((9, 13))
    for row, column in np.ndindex(9, 13):
        window = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        i, p = colours[window].reshape(-1, 3), score[window].ravel()
        spread = np.cov(i.T, bias=True) + 1e-3 * np.eye(3)
        slopes[row, column] = np.linalg.solve(spread, ((i - i.mean(0)).T @ (p - p.mean())) / len(p))
        offsets[row, column] = p.mean() - slopes[row, column] @ i.mean(0)
    planes = np.concatenate([slopes, offsets[..., None]], axis=-1)
    means = np.zeros_like(planes)
    for row, column in np.ndindex(9, 13):
        window = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        means[row, column] = planes[window].mean(axis=(0, 1))
    tensor = torch.from_numpy(means).permute(2, 0, 1)[None]
    large = torch.nn.functional.interpolate(tensor, size, mode="bilinear")[0].numpy()
    expected = (large[:3].transpose(1, 2, 0) * image / 255).sum(-1) + large[3]

    found = GuidedFilter(small, 1).upsample(score, image)

    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-4)


def test_clusters_found_on_a_larger_picture_sum_as_those_found_on_its_own():
    small = np.random.default_rng(0).integers(0, 40, (33, 52, 3), np.uint8)
    small[8:20, 10:30] += 150
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    values = np.random.default_rng(1).random((33, 52), dtype=np.float32)
    own, finer = (PooledKernel(small, 20.0, 40.0, 400, image).apply(values)
                  for image in (None, large))  # fmt: skip
    assert np.abs(own - finer).mean() < 0.02 * own.mean()


@pytest.mark.parametrize("chosen", [RefineOptions(), replace(RefineOptions.off(), guided=0.03)])
def test_a_large_picture_is_cut_as_if_filtered_at_full_size(monkeypatch, chosen: RefineOptions):
    rows, columns = np.mgrid[:450, :620]
    disc = (rows - 200) ** 2 + (columns - 330) ** 2 < 120**2
    picture = np.where(disc[..., None], (200, 60, 50), (70, 120, 90))
    picture = (picture + np.random.default_rng(0).normal(0, 6, picture.shape)).clip(0, 255)
    picture = picture.astype(np.uint8)
    contrast = upsample(disc.astype(np.float32), (30, 40), smooth=False)
    maps = np.stack([contrast, 1 - contrast])
    whole, _ = Refiner(picture, chosen).refine(contrast)
    whole_both, _ = Refiner(picture, chosen).refine_exclusive(maps)
    monkeypatch.setattr("textseg.refine._WORKING_PIXELS", picture[..., 0].size // 6)
    smaller, score = Refiner(picture, chosen).refine(contrast)
    both, _ = Refiner(picture, chosen).refine_exclusive(maps)
    alone, _ = Refiner(picture, chosen).refine_exclusive(maps[:1])
    assert scores(score, whole.shape)
    assert (whole & smaller).sum() > 0.98 * (whole | smaller).sum()
    assert (whole_both[0] & both[0]).sum() > 0.98 * (whole_both[0] | both[0]).sum()
    assert (alone[0] != smaller).mean() < 1e-4
