"""Fully connected CRF with Gaussian edges, by mean field, linear in pixels.

The appearance kernel is a Gaussian in five dimensions (row, column, three colour axes). It is
filtered on a regular five-dimensional grid: pixels are spread onto it with quadratic B-splines, the
grid is convolved along each axis, and the result is read back with the same splines. The convolution
is the one that makes spread, convolve and read closest to the exact Gaussian, so kernel values are
right to about half a percent, where linear interpolation (bilateral grid, permutohedral lattice) is
off by several. That matters: with the usual weights the mean field amplifies kernel errors tenfold.
The grid's size depends on the reach of the kernel relative to the image, not on the number of pixels.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..errors import InputError

_SPACING = 0.45
_MAX_CELLS = 2**25
_EXACT_PIXELS = 4096
_REACH = 5.0
_TRUNCATION = 1e-4


class _Kernel(Protocol):
    """A Gaussian kernel over the pixels of one image, with ones on its diagonal."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(H, W) float32 to sum_j k(i, j) v_j, (H, W) float32, i itself included."""
        ...


class SpatialKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 gamma^2)), by two one-dimensional sums.

    Args:
        gamma: reach in pixels; the sums end at five times as far, or at the image's border.
    """

    def __init__(self, height: int, width: int, gamma: float) -> None:
        self._taps = [_gaussian_taps(gamma, side) for side in (width, height)]

    def apply(self, values: np.ndarray) -> np.ndarray:
        import cv2

        across, down = self._taps
        return cv2.sepFilter2D(np.ascontiguousarray(values, np.float32), cv2.CV_32F, across, down,
                               borderType=cv2.BORDER_CONSTANT)  # fmt: skip


class ExactKernel:
    """The appearance kernel as a full N x N matrix, for images of a few thousand pixels."""

    def __init__(self, image: np.ndarray, alpha: float, beta: float) -> None:
        height, width = image.shape[:2]
        rows, columns = np.mgrid[:height, :width]
        features = np.column_stack([rows.ravel() / alpha, columns.ravel() / alpha,
                                    image.reshape(-1, 3) / beta]).astype(np.float32)  # fmt: skip
        matrix = np.zeros((len(features), len(features)), np.float32)
        for axis in features.T:
            matrix -= 0.5 * np.square(axis[:, None] - axis)
        self._matrix = np.exp(matrix, out=matrix)

    def apply(self, values: np.ndarray) -> np.ndarray:
        return (self._matrix @ values.reshape(-1)).reshape(values.shape)


class GridKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 alpha^2) - |c_i - c_j|^2 / (2 beta^2)) on a 5-D grid.

    Memory: about 600 bytes per pixel, and two grids of at most 2**25 float32 cells. Where small
    `alpha` or `beta` would need more cells the spacing grows, and narrow kernels come out wider.

    Args:
        image: (H, W, 3) uint8.
        alpha: reach in pixels.
        beta: reach in colour, 0 to 255 per channel.
        spacing: distance of grid nodes in units of the kernel's standard deviation.

    Attributes:
        shape: nodes of the grid along row, column and the three colour axes.
        vertices: used (block, colour node) pairs; at most 27 per pixel.
    """

    def __init__(
        self, image: np.ndarray, alpha: float, beta: float, spacing: float = _SPACING
    ) -> None:
        from scipy.sparse import csr_array

        height, width = image.shape[:2]
        colours = _compact_axes(image.reshape(-1, 3).astype(np.float32)) / np.float32(beta)
        axes = [np.arange(height, dtype=np.float32) / np.float32(alpha),
                np.arange(width, dtype=np.float32) / np.float32(alpha), *colours.T]  # fmt: skip
        while True:
            sides = [int(np.ptp(axis) / spacing) + 4 for axis in axes]
            if np.prod(sides, dtype=np.float64) <= _MAX_CELLS:
                break
            spacing *= 1.1
        self.shape = tuple(sides)
        taps = _grid_taps(spacing, max(sides))
        self._factors = [_factors(taps[np.abs(np.arange(n)[:, None] - np.arange(n))]) for n in sides]
        splines = [_spline(axis, spacing, taps) for axis in axes]

        (row, down), (column, across) = splines[:2]
        self._space = (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, 3, 3)
        block = (row[:, None] * sides[1] + column).reshape(-1).astype(np.int32)
        nodes = int(np.prod(sides[2:]))
        cells = (block * np.int32(nodes))[:, None]
        weights = np.ones((height * width, 1), np.float32)
        for (index, weight), stride in zip(
            splines[2:], (sides[3] * sides[4], sides[4], 1), strict=True
        ):
            offsets = (index[:, None] + np.arange(3, dtype=np.int32)) * np.int32(stride)
            cells = (cells[:, :, None] + offsets[:, None, :]).reshape(len(cells), -1)
            weights = (weights[:, :, None] * weight[:, None, :]).reshape(len(weights), -1)

        # Numbers the cells in use, so that what is kept per pixel stays small.
        number = np.zeros(int(np.prod(sides)), np.int32)
        number[cells] = 1
        self._cells = np.flatnonzero(number)
        number[self._cells] = np.arange(len(self._cells), dtype=np.int32)
        self.vertices = len(self._cells)
        starts = np.arange(0, cells.size + 1, cells.shape[1])
        self._colour = csr_array((weights.reshape(-1), number[cells].reshape(-1), starts),
                                 shape=(len(block), self.vertices))  # fmt: skip
        self._spread = self._colour.T
        self._row_step, self._column_step = sides[1] * nodes, nodes

    def apply(self, values: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(values, np.float32).reshape(-1, 1)
        grid = np.zeros(int(np.prod(self.shape)), np.float32)
        for i in range(3):
            spread = self._spread @ (self._space[:, i] * flat)
            for j in range(3):
                grid[self._cells + (i * self._row_step + j * self._column_step)] += spread[:, j]
        grid = self._convolved(grid)
        out = np.zeros(flat.shape[0], np.float32)
        for i in range(3):
            start = self._cells + i * self._row_step
            read = np.stack([grid[start + j * self._column_step] for j in range(3)], axis=1)
            out += np.einsum("nj,nj->n", self._colour @ read, self._space[:, i])
        return out.reshape(values.shape)

    def _convolved(self, grid: np.ndarray) -> np.ndarray:
        # Into the low-rank factors of every axis and out again: what lies between is small.
        shape = list(self.shape)
        for axis, (into, _) in enumerate(self._factors):
            grid = _along(grid, shape, axis, into)
        for axis, (_, out_of) in reversed(list(enumerate(self._factors))):
            grid = _along(grid, shape, axis, out_of)
        return grid


class DenseCRF:
    """The pairwise half of a dense CRF on one image, built once for any number of labellings.

    Pairwise energy of two pixels with different labels (Potts):
    appearance * k_alpha,beta(i, j) + smoothness * k_gamma(i, j), each kernel normalised as
    k(i, j) / sqrt(d_i d_j) with d_i = sum_j k(i, j).

    Args:
        image: (H, W, 3) uint8.
        appearance, alpha, beta: weight, reach in pixels, reach in colour (0 to 255).
        smoothness, gamma: weight, reach in pixels. A weight of 0 leaves its kernel out.
        exact_pixels: up to this many pixels the appearance kernel is summed exactly instead of on
            the grid; the matrix takes 4 bytes times the square of that.

    Raises:
        InputError: the image is not (H, W, 3) uint8.

    Source: Kraehenbuehl and Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian
    edge potentials", arXiv 1210.5644; normalisation as in the authors' code.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        appearance: float = 10.0,
        alpha: float = 80.0,
        beta: float = 13.0,
        smoothness: float = 3.0,
        gamma: float = 3.0,
        exact_pixels: int = _EXACT_PIXELS,
    ) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InputError(
                f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}"
            )
        self.shape = image.shape[:2]
        self._kernels: list[tuple[float, _Kernel, np.ndarray]] = []
        if appearance > 0:
            small = self.shape[0] * self.shape[1] <= exact_pixels
            self._add(appearance, (ExactKernel if small else GridKernel)(image, alpha, beta))
        if smoothness > 0:
            self._add(smoothness, SpatialKernel(*self.shape, gamma))
        self._total = self._message(np.ones(self.shape, np.float32))

    def _add(self, weight: float, kernel: _Kernel) -> None:
        degree = kernel.apply(np.ones(self.shape, np.float32))
        self._kernels.append((weight, kernel, 1 / np.sqrt(np.maximum(degree, 1.0))))

    def _message(self, values: np.ndarray) -> np.ndarray:
        """Weighted sum over the other pixels, (H, W): the paper's message without i itself."""
        out = np.zeros(self.shape, np.float32)
        for weight, kernel, norm in self._kernels:
            scaled = norm * values
            out += weight * norm * (kernel.apply(scaled) - scaled)
        return out

    def marginals(self, unary: np.ndarray, iterations: int = 5) -> np.ndarray:
        """Approximate marginals after a number of parallel mean-field updates.

        Q_i(l) is proportional to exp(-unary_i(l) + sum over kernels of the weighted message of
        label l), all pixels at once; it starts from exp(-unary).

        Args:
            unary: (L, H, W) energies, -log p, finite, L >= 2.
            iterations: updates, 0 or more.

        Returns:
            (L, H, W) float32, summing to 1 over the labels.

        Raises:
            InputError: the shape does not fit the image.
        """
        unary = np.asarray(unary, np.float32)
        if unary.ndim != 3 or unary.shape[1:] != self.shape or len(unary) < 2:
            raise InputError(
                f"unary must be (L, {self.shape[0]}, {self.shape[1]}) with L >= 2, "
                f"got {unary.shape}"
            )
        marginals = _softmax(-unary)
        for _ in range(iterations):
            message = np.empty_like(marginals)
            # The labels' messages add up to a constant, which saves filtering the first one.
            for label in range(1, len(unary)):
                message[label] = self._message(marginals[label])
            message[0] = self._total - message[1:].sum(axis=0)
            marginals = _softmax(message - unary)
        return marginals


def dense_crf(
    unary: np.ndarray,
    image: np.ndarray,
    *,
    iterations: int = 5,
    appearance: float = 10.0,
    alpha: float = 80.0,
    beta: float = 13.0,
    smoothness: float = 3.0,
    gamma: float = 3.0,
) -> np.ndarray:
    """Marginals of a dense CRF; see `DenseCRF` for the arguments and the source.

    Args:
        unary: (L, H, W) energies, -log p.
        image: (H, W, 3) uint8.

    Returns:
        (L, H, W) float32, summing to 1 over the labels.
    """
    model = DenseCRF(image, appearance=appearance, alpha=alpha, beta=beta,
                     smoothness=smoothness, gamma=gamma)  # fmt: skip
    return model.marginals(unary, iterations)


def _softmax(logits: np.ndarray) -> np.ndarray:
    out = np.exp(logits - logits.max(axis=0))
    out /= out.sum(axis=0)
    return out


def _gaussian_taps(sigma: float, side: int) -> np.ndarray:
    radius = int(min(np.ceil(_REACH * sigma), side - 1))
    return np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma)).astype(np.float32)


def _compact_axes(colours: np.ndarray) -> np.ndarray:
    """(N, 3) colours turned to their principal axes where that shrinks their bounding box."""
    _, turn = np.linalg.eigh(np.cov(colours, rowvar=False)) if len(colours) > 1 else (0, np.eye(3))
    turned = colours @ turn.astype(np.float32)
    volumes = [np.prod(np.ptp(axes, axis=0) + 1.0) for axes in (colours, turned)]
    return turned if volumes[1] < volumes[0] else colours


def _grid_taps(spacing: float, length: int) -> np.ndarray:
    """(length,) taps b of the symmetric convolution between two quadratic B-splines.

    Minimises the squared error of sum_mn B(x/h - m) b(m - n) B(y/h - n) against exp(-(x - y)^2 / 2)
    over all x and y, frequency by frequency.
    """
    frequency = 2 * np.pi * np.fft.fftfreq(1 << (4 * length + 63).bit_length(), d=spacing)
    numerator, denominator = np.zeros_like(frequency), np.zeros_like(frequency)
    for alias in range(-6, 7):
        shifted = frequency + 2 * np.pi * alias / spacing
        spline = np.sinc(shifted * spacing / (2 * np.pi)) ** 6
        numerator += np.sqrt(2 * np.pi) * np.exp(-0.5 * shifted**2) * spline
        denominator += spline
    taps = np.fft.ifft(numerator / denominator**2).real / spacing
    return taps[:length].astype(np.float32)


def _factors(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(r, n) and (n, r) whose product is the symmetric (n, n) matrix, to _TRUNCATION of its norm."""
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    kept = np.abs(values) > _TRUNCATION * np.abs(values).max()
    into = vectors[:, kept].T
    return into.astype(np.float32), (into.T * values[kept]).astype(np.float32)


def _along(grid: np.ndarray, shape: list[int], axis: int, matrix: np.ndarray) -> np.ndarray:
    """Multiplies one axis of a flat grid of `shape` by a matrix, and updates `shape`."""
    before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    if after == 1:
        out = grid.reshape(before, shape[axis]) @ matrix.T
    else:
        out = np.matmul(matrix, grid.reshape(before, shape[axis], after))
    shape[axis] = len(matrix)
    return out.reshape(-1)


def _spline(axis: np.ndarray, spacing: float, taps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First node (n,) int32 and weights (n, 3) float32 of each coordinate's quadratic B-spline.

    Weights are scaled so that every coordinate's kernel with itself is exactly 1.
    """
    position = (axis - axis.min()) / np.float32(spacing) + 1
    nearest = np.round(position)
    f = position - nearest
    weights = np.stack([0.5 * (0.5 - f) ** 2, 0.75 - f * f, 0.5 * (0.5 + f) ** 2], axis=1)
    near = taps[np.abs(np.arange(3)[:, None] - np.arange(3))]
    own = np.einsum("na,ab,nb->n", weights, near, weights)
    return nearest.astype(np.int32) - 1, (weights / np.sqrt(own)[:, None]).astype(np.float32)
