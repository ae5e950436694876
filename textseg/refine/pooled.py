"""The CRF's appearance kernel between a thousand places of an image instead of all its pixels."""

from __future__ import annotations

import numpy as np

# Sides of the first clusters in reaches of the kernel, and how many pixels decide on the splits.
_FIRST = 1.2
_SAMPLE = 8192
# Pixels worked on at a time, so that they stay in the processor's cache.
_BAND = 2**15
_ROUNDS = 24


class PooledKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 alpha^2) - |c_i - c_j|^2 / (2 beta^2)), pixels pooled.

    Squares of 1.2 alpha are cut in two, and their parts again, along the coordinate (row, column,
    red, green, blue) that varies most, at its mean, those with the largest sum of squares last of
    all, until there are `points` clusters. A pixel takes the place of its cluster's mean in the
    kernel, which is then a matrix between clusters. Building it costs points^2 and a dozen passes
    over the pixels; a sum costs two passes.

    Args:
        image: (H, W, 3) uint8.
        alpha: reach in pixels.
        beta: reach in colour, 0 to 255 per channel.
        points: clusters at most, 16 or more.
        finer: (H', W', 3) uint8, the same image larger, that the clusters are found on.

    Attributes:
        cluster: (H W,) the cluster of each pixel.
    """

    def __init__(
        self,
        image: np.ndarray,
        alpha: float,
        beta: float,
        points: int,
        finer: np.ndarray | None = None,
    ) -> None:
        finer = image if finer is None else finer
        self._size = height, width = image.shape[:2]
        fine = finer.shape[0], finer.shape[1]
        alpha *= max(fine) / max(height, width)
        side, squares = first_squares(*fine, alpha, points)
        stride = max(1, int(np.sqrt(fine[0] * fine[1] / _SAMPLE)))
        down, across = (np.arange(0, length, stride, dtype=np.float64) for length in fine)
        sampled = finer[::stride, ::stride]
        rounds, count = _splits(*_features(sampled, down, across, fine, alpha, beta, side),
                                squares, points)  # fmt: skip
        self.cluster: np.ndarray = np.empty(height * width, np.intp)
        sums = np.zeros((5, count))
        down, across = ((np.arange(length) + 0.5) * (full / length) - 0.5
                        for length, full in zip((height, width), fine, strict=True))  # fmt: skip
        band = max(1, _BAND // width)
        for top in range(0, height, band):
            rows = slice(top, min(top + band, height))
            features, cluster = _features(image[rows], down[rows], across, fine, alpha, beta, side)
            for split in rounds:
                cluster = _split(features, cluster, *split)
            self.cluster[rows.start * width : rows.stop * width] = cluster
            sums += _sums(features, cluster, count)
        sizes = np.maximum(np.bincount(self.cluster, minlength=count), 1)
        places = (sums / sizes).astype(np.float32)
        half = 0.5 * np.square(places).sum(axis=0)
        matrix = places.T @ places
        matrix -= half
        matrix -= half[:, None]
        # Where the reaches are tiny, rounding lifts distances above zero.
        self._matrix = np.exp(np.minimum(matrix, 0, out=matrix), out=matrix)
        np.fill_diagonal(self._matrix, 1.0)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(H, W) float32 to sum_j k(i, j) v_j, (H, W) float32, i itself included."""
        pooled = np.bincount(self.cluster, values.reshape(-1), len(self._matrix))
        return (self._matrix @ pooled.astype(np.float32))[self.cluster].reshape(self._size)

    apply_to_all = apply


def first_squares(height: int, width: int, alpha: float, points: int) -> tuple[int, int]:
    """Side of the first clusters in pixels, and how many there are, points / 4 at most.

    All are counted, those too that the sample steps over: squares cut thin by the border.

    >>> first_squares(489, 640, 102.4, 1024)
    (122, 30)
    """
    side = max(1, int(min(_FIRST * alpha, max(height, width))))
    while (squares := -(-height // side) * -(-width // side)) * 4 > points:
        side *= 2
    return side, squares


def _features(
    pixels: np.ndarray,
    down: np.ndarray,
    across: np.ndarray,
    size: tuple[int, int],
    alpha: float,
    beta: float,
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Of pixels (h, w, 3) at rows `down` and columns `across` of an image of some (height, width):
    (n, 5) coordinates in reaches of the kernel, about their middle, and (n,) the square of `side`
    pixels each lies in."""
    height, width = size
    features = np.empty((len(down), len(across), 5), np.float32)
    features[..., 0] = ((down - height / 2) / alpha)[:, None]
    features[..., 1] = (across - width / 2) / alpha
    features[..., 2:] = pixels
    features[..., 2:] -= np.float32(127.5)
    features[..., 2:] *= np.float32(1 / beta)
    row, column = (np.rint(place).astype(np.intp) // side for place in (down, across))
    return features.reshape(-1, 5), (row[:, None] * -(-width // side) + column).reshape(-1)


_Split = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each cluster: the coordinate it is cut along, where, and the number of its upper part."""


def _splits(
    features: np.ndarray, cluster: np.ndarray, count: int, points: int
) -> tuple[list[_Split], int]:
    """How to cut `count` clusters in two, round by round, and how many there are then."""
    rounds = []
    for _ in range(_ROUNDS):
        sizes = np.maximum(np.bincount(cluster, minlength=count), 1)
        means = _sums(features, cluster, count) / sizes
        squares = _sums(np.square(features), cluster, count) - np.square(means) * sizes
        gain = squares.sum(axis=0)
        room = points - count
        chosen = gain > 1e-3
        if chosen.sum() > room:
            chosen[np.argsort(-gain, kind="stable")[room:]] = False
        if not chosen.any():
            break
        axis = squares.argmax(axis=0)
        upper = np.where(chosen, count - 1 + np.cumsum(chosen), np.arange(count))
        rounds.append((axis, means[axis, np.arange(count)].astype(np.float32), upper))
        cluster = _split(features, cluster, *rounds[-1])
        count += int(chosen.sum())
    return rounds, count


def _split(
    features: np.ndarray, cluster: np.ndarray, axis: np.ndarray, cut: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    where = np.arange(0, features.size, 5)
    where += axis[cluster]
    above = features.reshape(-1)[where] > cut[cluster]
    return np.where(above, upper[cluster], cluster)


def _sums(features: np.ndarray, cluster: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(cluster, values, count) for values in features.T])
