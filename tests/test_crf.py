from __future__ import annotations

import cv2
import numpy as np
import pytest

from textseg.errors import InputError
from textseg.refine.crf import DenseCRF, ExactKernel, GridKernel, SpatialKernel, dense_crf
from textseg.refine.pooled import PooledKernel

H, W = 28, 42
SCALE = W / 500


def brute_force(unary, image, *, iterations=5, appearance=10.0, alpha=80.0, beta=13.0,
                smoothness=3.0, gamma=3.0):  # fmt: skip
    """Mean field by the sum over all pairs of pixels, in float64."""
    labels, height, width = unary.shape
    position = np.indices((height, width)).reshape(2, -1).T.astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def squares(x):
        return ((x[:, None] - x) ** 2).sum(-1)

    near = squares(position)
    pairs = [
        (appearance, np.exp(-near / (2 * alpha**2) - squares(colour) / (2 * beta**2))),
        (smoothness, np.exp(-near / (2 * gamma**2))),
    ]
    total = np.zeros_like(near)
    for weight, kernel in pairs:
        degree = kernel.sum(1)
        kernel = kernel / np.sqrt(np.outer(degree, degree))
        np.fill_diagonal(kernel, 0.0)
        total += weight * kernel
    energy = unary.reshape(labels, -1).astype(float)
    q = np.exp(-energy)
    q /= q.sum(0)
    for _ in range(iterations):
        disagree = q.sum(0) - q
        q = np.exp(-energy - disagree @ total)
        q /= q.sum(0)
    return q.reshape(unary.shape)


def smooth_noise(seed, sigma, channels, low, high, height=H, width=W):
    noise = np.random.default_rng(seed).normal(size=(height, width, channels))
    noise = cv2.GaussianBlur(noise, (0, 0), sigma).reshape(height, width, channels)
    noise = (noise - noise.min()) / np.ptp(noise)
    return low + (high - low) * noise


def disc_image():
    rows, columns = np.mgrid[:H, :W]
    disc = (rows - 13) ** 2 + (columns - 24) ** 2 < 9**2
    image = np.where(disc[..., None], (200, 60, 50), (60, 120, 90))
    noise = np.random.default_rng(3).normal(0, 8, (H, W, 3))
    return np.clip(image + noise, 0, 255).astype(np.uint8), disc


IMAGES = {
    "independent colours": lambda: np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8),
    "smooth colours": lambda: smooth_noise(1, 4, 3, 0, 255).astype(np.uint8),
    "fine texture": lambda: smooth_noise(2, 1, 3, 30, 220).astype(np.uint8),
    "grey": lambda: np.repeat(smooth_noise(3, 2, 1, 0, 255), 3, axis=2).astype(np.uint8),
    "disc": lambda: disc_image()[0],
    "one colour": lambda: np.full((H, W, 3), 90, np.uint8),
}
PROBABILITIES = {
    "blobs": lambda: smooth_noise(5, 5, 1, 0.05, 0.95)[..., 0],
    "two values": lambda: np.where(smooth_noise(6, 5, 1, 0, 1)[..., 0] > 0.6, 0.7, 0.3),
    "blurred disc": lambda: np.clip(
        cv2.GaussianBlur(disc_image()[1].astype(float), (0, 0), 5), 0.05, 0.95
    ),
}


def two_labels(p):
    return -np.log(np.stack([1 - p, p])).astype(np.float32)


# Independent colours fill the whole colour cube, which makes the largest and slowest grid.
CASES = [("independent colours", "blobs")] + [
    (image, probability) for image in list(IMAGES)[1:] for probability in PROBABILITIES
]


@pytest.mark.parametrize("exact_pixels", [0, H * W], ids=["grid", "matrix"])
@pytest.mark.parametrize(("image", "probability"), CASES)
def test_marginals_match_the_sum_over_all_pairs(image, probability, exact_pixels):
    pixels, unary = IMAGES[image](), two_labels(PROBABILITIES[probability]())
    alpha, gamma = 80 * SCALE, 3 * SCALE
    expected = brute_force(unary, pixels, alpha=alpha, gamma=gamma)
    crf = DenseCRF(pixels, alpha=alpha, gamma=gamma, exact_pixels=exact_pixels)
    found = crf.marginals(unary)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < (0.02 if exact_pixels == 0 else 1e-3)


def test_several_labels_match_the_sum_over_all_pairs():
    p = np.stack([smooth_noise(seed, 5, 1, 0.05, 1)[..., 0] for seed in (7, 8, 9, 10)])
    unary = -np.log(p / p.sum(0)).astype(np.float32)
    pixels = IMAGES["smooth colours"]()
    alpha, gamma = 80 * SCALE, 3 * SCALE
    found = DenseCRF(pixels, alpha=alpha, gamma=gamma, exact_pixels=0).marginals(unary)
    expected = brute_force(unary, pixels, alpha=alpha, gamma=gamma)
    assert np.abs(found - expected).max() < 0.02
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda image: (GridKernel(image, 6.0, 13.0), 6.0, 13.0),
        lambda image: (GridKernel(image, 3.0, 40.0), 3.0, 40.0),
        lambda image: (ExactKernel(image, 6.0, 13.0), 6.0, 13.0),
        lambda image: (SpatialKernel(image.shape[0], image.shape[1], 2.0), 2.0, None),
    ],
    ids=["grid", "grid, other reaches", "matrix", "spatial"],
)
def test_kernels_match_their_formula(kernel):
    image = smooth_noise(12, 2, 3, 40, 200, 15, 22).astype(np.uint8)
    made, reach, colour_reach = kernel(image)
    position = np.indices((15, 22)).reshape(2, -1).T.astype(float)
    colour = image.reshape(-1, 3).astype(float)
    exponent = ((position[:, None] - position) ** 2).sum(-1) / reach**2
    if colour_reach:
        exponent += ((colour[:, None] - colour) ** 2).sum(-1) / colour_reach**2
    for pixel in (0, 100, 329):
        impulse = np.zeros((15, 22), np.float32)
        impulse.flat[pixel] = 1
        expected = np.exp(-exponent[pixel] / 2)
        np.testing.assert_allclose(made.apply(impulse).ravel(), expected, atol=8e-3)
        assert made.apply(impulse).flat[pixel] == pytest.approx(1, abs=1e-3)


def strided_sum(image, stride, reach, colour_reach, values):
    """The sums of a Gaussian kernel at every pixel over every stride-th row and column."""
    position = np.indices(image.shape[:2]).reshape(2, -1).T.astype(float)
    features = np.column_stack([position / reach, image.reshape(-1, 3) / colour_reach])
    chosen = np.zeros(image.shape[:2], bool)
    chosen[::stride, ::stride] = True
    squares = ((features[:, None] - features[chosen.ravel()]) ** 2).sum(-1)
    return stride**2 * (np.exp(-squares / 2) @ values.ravel()).reshape(image.shape[:2])


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("colour_reach", [13.0, np.inf], ids=["grid", "spatial"])
def test_strided_kernels_match_their_formula(stride, colour_reach):
    image = smooth_noise(12, 2, 3, 40, 200, 17, 22).astype(np.uint8)
    if np.isfinite(colour_reach):
        kernel = GridKernel(image, 6.0, colour_reach, stride=stride)
    else:
        kernel = SpatialKernel(17, 22, 6.0, stride)
    values = np.random.default_rng(18).random(image[::stride, ::stride, 0].shape, np.float32)
    expected = strided_sum(image, stride, 6.0, colour_reach, values)
    everywhere = kernel.apply_to_all(values)
    assert everywhere.shape == image.shape[:2]
    np.testing.assert_allclose(everywhere, expected, rtol=8e-3, atol=0.05)
    strided = kernel.apply(values)
    assert strided.shape == values.shape
    np.testing.assert_allclose(strided, expected[::stride, ::stride], rtol=8e-3, atol=0.05)


def test_a_strided_mean_field_stays_close_to_the_full_one():
    image = cv2.resize(disc_image()[0], (3 * W, 3 * H), interpolation=cv2.INTER_CUBIC)
    disc = cv2.resize(disc_image()[1].astype(np.float32), (3 * W, 3 * H))
    unary = two_labels(np.clip(cv2.GaussianBlur(disc, (0, 0), 9), 0.05, 0.95))
    settings = {"alpha": 80 * 3 * SCALE, "gamma": 3 * 3 * SCALE, "exact_pixels": 0}
    full = DenseCRF(image, **settings).marginals(unary)
    strided = DenseCRF(image, **settings, stride=2).marginals(unary)
    assert strided.shape == full.shape
    np.testing.assert_allclose(strided.sum(0), 1, atol=1e-5)
    assert np.abs(strided - full).mean() < 0.01
    assert ((strided > 0.5) != (full > 0.5)).mean() < 0.005
    # Without iterations, and with one, too.
    unsent = DenseCRF(image, **settings, stride=2).marginals(unary, 0)
    np.testing.assert_allclose(unsent, DenseCRF(image, **settings).marginals(unary, 0))


@pytest.mark.parametrize("image", ["disc", "smooth colours", "fine texture"])
def test_a_coarser_grid_moves_few_pixels(image):
    pixels, unary = IMAGES[image](), two_labels(PROBABILITIES["blurred disc"]())
    alpha, gamma = 80 * SCALE, 3 * SCALE
    expected = brute_force(unary, pixels, alpha=alpha, gamma=gamma)
    found = DenseCRF(pixels, alpha=alpha, gamma=gamma, exact_pixels=0, spacing=0.9).marginals(unary)
    assert np.abs(found - expected).mean() < 0.005
    assert ((found > 0.5) != (expected > 0.5)).mean() < 0.005


@pytest.mark.parametrize("reach", [6.0, 9.3])
@pytest.mark.parametrize("size", [(60, 101), (83, 40)])
def test_a_coarse_spatial_sum_is_right_to_about_a_percent(
    reach: float, size: tuple[int, int]
) -> None:
    position = [np.arange(side)[:, None] - np.arange(side) for side in size]
    down, across = (np.exp(-0.5 * np.square(p / reach)) for p in position)
    largest = (down @ np.ones(size) @ across).max()
    for seed in range(3):
        values = np.sign(smooth_noise(seed, 3, 1, -1, 1, *size)[..., 0]).astype(np.float32)
        found = SpatialKernel(*size, reach, coarse=True).apply(values)
        assert found.shape == size
        assert np.abs(found - down @ values @ across).max() < 0.015 * largest


POOLED_CASES = [case for case in CASES if case[0] != "independent colours"]


@pytest.mark.parametrize(("image", "probability"), POOLED_CASES)
def test_pooled_pixels_stay_close_to_the_sum_over_all_pairs(image, probability):
    pixels, unary = IMAGES[image](), two_labels(PROBABILITIES[probability]())
    alpha, gamma = 80 * SCALE, 3 * SCALE
    expected = brute_force(unary, pixels, alpha=alpha, gamma=gamma)
    found = DenseCRF(pixels, alpha=alpha, gamma=gamma, points=1024).marginals(unary)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert np.abs(found - expected).mean() < 0.01
    assert ((found > 0.5) != (expected > 0.5)).mean() < 0.005


@pytest.mark.parametrize("points", [64, 400])
def test_a_pooled_sum_is_exact_between_the_means_of_its_clusters(points):
    image = smooth_noise(12, 2, 3, 40, 200, 90, 130).astype(np.uint8)
    kernel = PooledKernel(image, 20.0, 13.0, points)
    cluster = kernel.cluster
    sizes = np.bincount(cluster)
    assert len(sizes) <= points and len(sizes) > points // 2
    position = np.indices(image.shape[:2]).reshape(2, -1).T
    features = np.column_stack([position / 20.0, image.reshape(-1, 3) / 13.0])
    used = np.flatnonzero(sizes)
    means = np.stack([features[cluster == c].mean(axis=0) for c in used])
    values = np.random.default_rng(3).random(image.shape[:2], np.float32)
    totals = np.bincount(cluster, values.ravel())[used]
    squares = ((means[:, None] - means) ** 2).sum(-1)
    expected = np.zeros(len(sizes))
    expected[used] = np.exp(-squares / 2) @ totals
    found = kernel.apply(values)
    assert found.shape == image.shape[:2]
    np.testing.assert_allclose(found, expected[cluster].reshape(found.shape), rtol=1e-3)


def test_more_points_come_closer():
    image = smooth_noise(2, 2, 3, 60, 180, 80, 120).astype(np.uint8)
    kernel = GridKernel(image, 19.2, 13.0)
    values = smooth_noise(5, 9, 1, 0, 1, 80, 120)[..., 0].astype(np.float32)
    exact = kernel.apply(values) / kernel.apply(np.ones_like(values))
    errors = []
    for points in (64, 256, 1024, 4096):
        pooled = PooledKernel(image, 19.2, 13.0, points)
        mean = pooled.apply(values) / pooled.apply(np.ones_like(values))
        errors.append(np.sqrt(((mean - exact) ** 2).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.02 and errors[3] < 0.008


def test_pooling_takes_reaches_far_smaller_than_the_image():
    image = smooth_noise(4, 2, 3, 0, 255, 50, 200).astype(np.uint8)
    values = np.ones(image.shape[:2], np.float32)
    kernel = PooledKernel(image, 0.5, 13.0, 64)
    assert kernel.cluster.max() < 64
    assert (kernel.apply(values) >= 1).all()


def test_up_to_as_many_pixels_as_points_the_sum_is_exact():
    image, unary = IMAGES["disc"](), two_labels(PROBABILITIES["blobs"]())
    np.testing.assert_array_equal(
        DenseCRF(image, points=H * W).marginals(unary), DenseCRF(image).marginals(unary)
    )


def test_small_images_are_not_strided():
    image = IMAGES["disc"]()
    unary = two_labels(PROBABILITIES["blobs"]())
    np.testing.assert_array_equal(
        DenseCRF(image, stride=4).marginals(unary), DenseCRF(image).marginals(unary)
    )


def test_work_grows_no_faster_than_pixels():
    cells, vertices = [], []
    for factor in (1, 2, 3):
        height, width = 40 * factor, 60 * factor
        image = smooth_noise(13, 4 * factor, 3, 60, 180, height, width).astype(np.uint8)
        kernel = GridKernel(image, 80 * width / 500, 13.0)
        cells.append(np.prod(kernel.shape))
        vertices.append(kernel.vertices / (height * width))
    assert max(vertices) <= 27
    assert vertices[0] > vertices[1] > vertices[2]
    assert max(cells) < 1.5 * min(cells)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (2, 3)])
@pytest.mark.parametrize("exact_pixels", [0, 4096])
def test_smallest_images(size, exact_pixels):
    rng = np.random.default_rng(14)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    unary = two_labels(rng.uniform(0.1, 0.9, size))
    found = DenseCRF(image, exact_pixels=exact_pixels).marginals(unary)
    assert np.abs(found - brute_force(unary, image)).max() < 0.02


def test_small_reaches_coarsen_the_grid_instead_of_filling_memory():
    image = np.random.default_rng(15).integers(0, 256, (20, 30, 3), np.uint8)
    kernel = GridKernel(image, 0.5, 4.0)
    assert np.prod(kernel.shape) <= 2**25


def test_without_pairwise_terms_the_marginals_are_those_of_the_unary():
    unary = np.random.default_rng(16).normal(size=(3, 6, 9)).astype(np.float32)
    image = np.zeros((6, 9, 3), np.uint8)
    expected = np.exp(-unary) / np.exp(-unary).sum(0)
    for found in (
        dense_crf(unary, image, appearance=0, smoothness=0),
        dense_crf(unary, image, iterations=0),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_crf_serves_many_labellings():
    image = IMAGES["disc"]()
    crf = DenseCRF(image, exact_pixels=0)
    unaries = [two_labels(make()) for make in PROBABILITIES.values()]
    first = [crf.marginals(unary) for unary in unaries]
    again = [crf.marginals(unary) for unary in reversed(unaries)][::-1]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    rebuilt = DenseCRF(image, exact_pixels=0)
    np.testing.assert_array_equal(rebuilt.marginals(unaries[0]), first[0])


def test_wrong_arguments_are_named():
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InputError, match=r"image must be \(H, W, 3\) uint8"):
        DenseCRF(image.astype(float))
    with pytest.raises(InputError, match=r"unary must be \(L, 4, 6\)"):
        DenseCRF(image).marginals(np.zeros((2, 6, 4)))
    with pytest.raises(InputError, match="L >= 2"):
        DenseCRF(image).marginals(np.zeros((1, 4, 6)))
