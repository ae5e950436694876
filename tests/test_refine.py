from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from textseg.errors import InputError
from textseg.options import RefineOptions
from textseg.refine import (
    Refiner,
    close_mask,
    dilate,
    erode,
    fill_small_holes,
    guided_filter,
    open_mask,
    refine,
    refine_exclusive,
    remove_small_objects,
    upsample,
)

PLAIN = RefineOptions.off()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def painted(masks_and_colours, height: int, width: int, noise: float = 6.0) -> np.ndarray:
    image = np.empty((height, width, 3))
    image[:] = (70, 120, 90)
    for mask, colour in masks_and_colours:
        image[mask] = colour
    image += np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def latent_map(mask: np.ndarray, factor: int, blur: float) -> np.ndarray:
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    noise = np.random.default_rng(1).uniform(0, 0.1, small.shape).astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), blur) + noise


# Upsampling


@pytest.mark.parametrize("smooth", [True, False])
def test_upsampling_agrees_with_torch(smooth: bool):
    score = np.random.default_rng(0).random((6, 9), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(score)[None, None], (41, 77), align_corners=False,
        mode="bicubic" if smooth else "bilinear",
    )  # fmt: skip
    found = upsample(score, (41, 77), smooth=smooth)
    np.testing.assert_allclose(found, expected[0, 0].clamp(0, 1).numpy(), atol=2e-3)


def test_upsampling_keeps_the_centre_of_mass():
    score = np.zeros((8, 12), np.float32)
    score[2, 7] = 1
    rows, columns = ndimage.center_of_mass(upsample(score, (80, 120), smooth=False))
    assert (rows, columns) == pytest.approx((24.5, 74.5), abs=1e-3)


def test_upsampling_stays_in_the_unit_interval_and_averages_when_it_shrinks():
    step = np.repeat([[0.0, 0.0, 1.0, 1.0]], 3, axis=0)
    assert upsample(step, (30, 40)).min() >= 0 and upsample(step, (30, 40)).max() <= 1
    board = (np.indices((8, 12)).sum(0) % 2).astype(np.float32)
    np.testing.assert_allclose(upsample(board, (4, 6)), 0.5)


# Morphology


def blots(seed: int) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(47, 71)), 2) > 0.02


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_morphology_agrees_with_scipy_on_a_disk(seed: int, radius: int):
    mask, side = blots(seed), np.arange(-radius, radius + 1)
    disk = side[:, None] ** 2 + side**2 <= radius**2
    grown = ndimage.binary_dilation(mask, disk)
    shrunk = ndimage.binary_erosion(mask, disk, border_value=1)
    np.testing.assert_array_equal(dilate(mask, radius), grown)
    np.testing.assert_array_equal(erode(mask, radius), shrunk)
    np.testing.assert_array_equal(open_mask(mask, radius), ndimage.binary_dilation(shrunk, disk))
    np.testing.assert_array_equal(
        close_mask(mask, radius), ndimage.binary_erosion(grown, disk, border_value=1)
    )


@pytest.mark.parametrize("value", [False, True])
def test_morphology_leaves_full_and_empty_masks(value: bool):
    mask = np.full((5, 8), value)
    for tidy in (dilate, erode, open_mask, close_mask, remove_small_objects, fill_small_holes):
        np.testing.assert_array_equal(tidy(mask, 3), mask)


def components(mask: np.ndarray, structure: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros(mask.shape, int)
    count = ndimage.label(mask, structure, output=labels)
    return labels, np.array([(labels == i).sum() for i in range(int(count) + 1)])  # type: ignore


@pytest.mark.parametrize("area", [1, 4, 20, 200])
def test_area_rules_agree_with_scipy_components(area: int):
    mask = blots(2) & ~blots(3)
    labels, sizes = components(mask, np.ones((3, 3)))
    np.testing.assert_array_equal(remove_small_objects(mask, area), mask & (sizes >= area)[labels])

    filled = np.asarray(ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(fill_small_holes(mask, mask.size), filled)
    holes, sizes = components(filled & ~mask, None)
    small = (sizes < area)[holes] & (holes > 0)
    np.testing.assert_array_equal(fill_small_holes(mask, area), mask | small)


# Guided filter


def guided_brute_force(score, image, radius, eps):
    guide = image / 255.0
    height, width = score.shape
    slopes, offsets = np.empty((height, width, 3)), np.empty((height, width))

    def window(row, column):
        return (slice(max(0, row - radius), row + radius + 1),
                slice(max(0, column - radius), column + radius + 1))  # fmt: skip

    for row in range(height):
        for column in range(width):
            here = window(row, column)
            colours, values = guide[here].reshape(-1, 3), score[here].reshape(-1)
            centred = colours - colours.mean(0)
            left = centred.T @ centred / len(values) + eps * np.eye(3)
            slope = np.linalg.solve(left, centred.T @ (values - values.mean()) / len(values))
            slopes[row, column] = slope
            offsets[row, column] = values.mean() - slope @ colours.mean(0)
    out = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            here = window(row, column)
            slope = slopes[here].reshape(-1, 3).mean(0)
            out[row, column] = slope @ guide[row, column] + offsets[here].mean()
    return np.clip(out, 0, 1)


@pytest.mark.parametrize("shape", [(13, 19), (1, 11), (7, 1), (1, 1)])
@pytest.mark.parametrize(("radius", "eps"), [(0, 1e-3), (2, 1e-3), (3, 1e-6), (30, 1e-2)])
def test_guided_filter_matches_its_definition(shape, radius: int, eps: float):
    rng = np.random.default_rng(4)
    image, score = rng.integers(0, 256, (*shape, 3), np.uint8), rng.random(shape)
    found = guided_filter(score, image, radius, eps)
    np.testing.assert_allclose(found, guided_brute_force(score, image, radius, eps), atol=1e-5)
    assert found.dtype == np.float32


def test_guided_filter_moves_a_blurred_edge_to_the_colour_edge():
    truth = disc(90, 130, 45, 70, 25)
    image = painted([(truth, (210, 60, 50))], 90, 130)
    score = cv2.GaussianBlur(np.roll(truth, 3, axis=1).astype(np.float32), (0, 0), 5)
    better = guided_filter(score, image, 12)
    assert iou(better > 0.5, truth) > iou(score > 0.5, truth) + 0.03


# The chain


def test_without_links_the_chain_is_threshold_and_upsampling():
    contrast = np.random.default_rng(5).random((8, 11), dtype=np.float32)
    image = np.zeros((64, 88, 3), np.uint8)
    options = replace(PLAIN, clamp=10.0)
    mask, score = refine(contrast, image, options)
    expected = upsample((contrast - contrast.min()) / np.ptp(contrast), (64, 88))
    np.testing.assert_allclose(score, expected, atol=1e-6)
    np.testing.assert_array_equal(mask, score > 0.5)
    assert mask.dtype == bool and score.dtype == np.float32


def test_crf_snaps_a_blurred_score_to_the_object():
    truth = disc(52, 76, 24, 45, 15)
    image = painted([(truth, (200, 60, 50))], 52, 76)
    contrast = latent_map(truth, 4, 1.5)
    before, _ = refine(contrast, image, PLAIN)
    after, score = refine(contrast, image, RefineOptions())
    assert iou(before, truth) < 0.93
    assert iou(after, truth) > 0.98
    assert score.min() >= 0 and score.max() <= 1


def test_crf_keeps_a_small_object():
    truth = disc(52, 76, 30, 20, 3)
    image = painted([(truth, (220, 200, 40))], 52, 76)
    mask, _ = refine(latent_map(truth, 4, 0.7), image)
    assert iou(mask, truth) > 0.9


def test_flat_map_gives_an_empty_mask():
    image = painted([], 40, 56)
    mask, _ = refine(np.full((5, 7), 0.3, np.float32), image)
    assert not mask.any()


def test_area_rules_are_fractions_of_the_image():
    contrast = np.zeros((40, 60), np.float32)
    contrast[5:20, 5:30] = 1
    contrast[10:12, 10:12] = 0
    contrast[30:33, 50:53] = 1
    image = np.zeros((80, 120, 3), np.uint8)
    tidy, _ = refine(contrast, image, replace(PLAIN, clamp=100.0, min_area=0.01, max_hole=0.01))
    expected = np.zeros((80, 120), bool)
    expected[10:40, 10:60] = True
    assert iou(tidy, expected) > 0.95
    assert not tidy[50:].any() and tidy[20:24, 20:24].all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (2, 3)])
@pytest.mark.parametrize("rule", ["paper", "otsu", "calibrated"])
def test_tiny_images(size: tuple[int, int], rule: str):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    options = RefineOptions(threshold=rule, guided=0.05, opening=0.1, closing=0.1)
    mask, score = refine(np.array([[0.1, 0.9, 0.2]]), image, options)
    assert mask.shape == score.shape == size
    assert np.isfinite(score).all()


def test_refining_is_deterministic_and_does_not_depend_on_earlier_maps():
    truth = disc(48, 68, 20, 30, 10)
    image = painted([(truth, (200, 60, 50))], 48, 68)
    contrast, other = latent_map(truth, 4, 1.0), latent_map(~truth, 4, 2.0)
    refiner = Refiner(image)
    refiner.refine(other)
    for found, alone in zip(refiner.refine(contrast), refine(contrast, image), strict=True):
        np.testing.assert_array_equal(found, alone)


def test_large_images_are_filtered_smaller_and_cut_at_full_size(monkeypatch):
    monkeypatch.setattr("textseg.refine._WORKING_PIXELS", 3000)
    truth = disc(152, 208, 70, 120, 40)
    image = painted([(truth, (200, 60, 50))], 152, 208)
    contrast = latent_map(truth, 8, 1.5)
    before, _ = refine(contrast, image, PLAIN)
    after, score = refine(contrast, image)
    assert score.shape == truth.shape
    assert iou(after, truth) > max(0.97, iou(before, truth))


# Competing queries


def two_discs():
    left, right = disc(48, 72, 24, 25, 12), disc(48, 72, 24, 47, 12)
    image = painted([(left, (200, 60, 50)), (right, (60, 60, 220))], 48, 72)
    return left, right, image


@pytest.mark.parametrize(
    ("options", "least"), [(RefineOptions(), 0.95), (replace(PLAIN, closing=0.1), 0.6)]
)
def test_competing_masks_are_disjoint_and_each_finds_its_object(options, least: float):
    left, right, image = two_discs()
    maps = np.stack([latent_map(left, 4, 1.5), latent_map(right, 4, 1.5)])
    masks, scores = refine_exclusive(maps, image, options)
    assert masks.shape == scores.shape == (2, 48, 72)
    assert masks.dtype == bool and scores.dtype == np.float32
    assert (masks.sum(0) <= 1).all()
    assert iou(masks[0], left) > least and iou(masks[1], right) > least


def test_the_stronger_query_wins_a_contested_region():
    left, right, image = two_discs()
    contrast = latent_map(left, 4, 1.0)
    weaker = 0.6 * contrast + latent_map(right, 4, 1.0)
    masks, _ = refine_exclusive(np.stack([contrast, weaker]), image)
    assert iou(masks[0], left) > 0.9 and iou(masks[1], right) > 0.9


@pytest.mark.parametrize("options", [RefineOptions(), PLAIN])
def test_one_competing_query_equals_the_plain_mask(options: RefineOptions):
    left, _, image = two_discs()
    contrast = latent_map(left, 4, 1.5)
    masks, _ = refine_exclusive(contrast[None], image, options)
    np.testing.assert_array_equal(masks[0], refine(contrast, image, options)[0])


def test_the_order_of_competing_queries_does_not_matter():
    left, right, image = two_discs()
    maps = np.stack([latent_map(left, 4, 1.5), latent_map(right, 4, 1.5)])
    masks, scores = refine_exclusive(maps, image)
    swapped, swapped_scores = refine_exclusive(maps[::-1], image)
    np.testing.assert_array_equal(swapped[::-1], masks)
    np.testing.assert_allclose(swapped_scores[::-1], scores, atol=1e-4)


# Errors


@pytest.mark.parametrize("image", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)),
                                   np.zeros((0, 6, 3), np.uint8)])  # fmt: skip
def test_wrong_images_are_named(image: np.ndarray):
    with pytest.raises(InputError, match=r"image must be \(H, W, 3\) uint8"):
        Refiner(image)


def test_wrong_maps_are_named():
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InputError, match="contrast must be"):
        refine(np.zeros((2, 2, 2)), image)
    with pytest.raises(InputError, match="contrasts must be"):
        refine_exclusive(np.zeros((2, 2)), image)
