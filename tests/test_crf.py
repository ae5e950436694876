from __future__ import annotations

import cv2
import numpy as np
import pytest

from textseg.errors import InputError
from textseg.refine.crf import DenseCRF, ExactKernel, GridKernel, SpatialKernel, dense_crf

H, W = 36, 52
SCALE = W / 500


def brute_force(unary, image, *, iterations=5, appearance=10.0, alpha=80.0, beta=13.0,
                smoothness=3.0, gamma=3.0):  # fmt: skip
    """Mean field by the sum over all pairs of pixels, in float64."""
    labels, height, width = unary.shape
    position = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
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
    disc = (rows - 16) ** 2 + (columns - 30) ** 2 < 11**2
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


@pytest.mark.parametrize("probability", PROBABILITIES)
@pytest.mark.parametrize("exact_pixels", [0, H * W], ids=["grid", "matrix"])
@pytest.mark.parametrize("image", IMAGES)
def test_marginals_match_the_sum_over_all_pairs(image, probability, exact_pixels):
    pixels, unary = IMAGES[image](), two_labels(PROBABILITIES[probability]())
    reach = {"alpha": 80 * SCALE, "gamma": 3 * SCALE}
    expected = brute_force(unary, pixels, **reach)
    found = DenseCRF(pixels, exact_pixels=exact_pixels, **reach).marginals(unary)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < (0.02 if exact_pixels == 0 else 1e-3)


def test_several_labels_match_the_sum_over_all_pairs():
    p = np.stack([smooth_noise(seed, 5, 1, 0.05, 1)[..., 0] for seed in (7, 8, 9, 10)])
    unary = -np.log(p / p.sum(0)).astype(np.float32)
    pixels = IMAGES["smooth colours"]()
    reach = {"alpha": 80 * SCALE, "gamma": 3 * SCALE}
    found = DenseCRF(pixels, exact_pixels=0, **reach).marginals(unary)
    assert np.abs(found - brute_force(unary, pixels, **reach)).max() < 0.02
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
