"""Fully connected CRF with Gaussian edges, by mean field, linear in pixels.

The appearance kernel is a Gaussian in five dimensions (row, column, three colour axes). It is
filtered on a regular grid: pixels are spread onto it with quadratic B-splines, the grid is
convolved along each axis, and the result is read back with the same splines. The convolution is
the one that brings the three steps closest to the exact Gaussian, so kernel values are right to
about half a percent, where linear interpolation at this spacing is off by several. That matters:
with the usual weights the mean field amplifies an error in the kernel about tenfold, and in pixels
on the brink between two labels more. The grid's size depends on the reach of the kernel relative to
the image, not on the number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class _Band:
    """The pixel rows that share their first grid row.

    Attributes:
        node: that grid row; the band reaches into it and the next two.
        pixels: where the band's n pixels lie in the flat image.
        cells: the m (column, colour) nodes in use, as indices into a flat slab of the grid.
        colour: (n, m) sparse colour weights, 27 per pixel. spread: its transpose.
        space: (n, 3, 3) weights along rows and columns.
    """

    node: int
    pixels: slice
    cells: np.ndarray
    colour: Any
    spread: Any
    space: np.ndarray


class GridKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 alpha^2) - |c_i - c_j|^2 / (2 beta^2)) on a 5-D grid.

    The grid is filled and read one slab (a row of nodes) at a time, and held only in the low-rank
    factors of its four other axes. Memory: about 300 bytes per pixel, more where neighbouring
    pixels differ much in colour. Where a small `alpha` or `beta` would need more than 2**25 cells
    the spacing grows, and narrow kernels come out wider.

    Args:
        image: (H, W, 3) uint8.
        alpha: reach in pixels.
        beta: reach in colour, 0 to 255 per channel.
        spacing: distance of grid nodes in units of the kernel's standard deviation.

    Attributes:
        shape: nodes of the grid along row, column and the three colour axes.
        vertices: nodes that pixels are spread to, counted once per band; at most 27 per pixel.
    """

    def __init__(
        self, image: np.ndarray, alpha: float, beta: float, spacing: float = _SPACING
    ) -> None:
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
        matrices = [taps[np.abs(np.arange(n)[:, None] - np.arange(n))] for n in sides]
        self._across_rows = matrices[0]
        self._factors = [_factors(matrix) for matrix in matrices[1:]]
        splines = [_spline(axis, spacing, taps) for axis in axes]
        rows = splines[0][0]
        self._bands = [
            self._band(splines, slice(*np.searchsorted(rows, (node, node + 1))))
            for node in np.unique(rows)
        ]
        self.vertices = sum(len(band.cells) for band in self._bands)

    def _band(self, splines: list[tuple[np.ndarray, np.ndarray]], rows: slice) -> _Band:
        from scipy.sparse import csr_array

        (first, down), (column, across) = splines[:2]
        down = down[rows]
        pixels = slice(rows.start * len(column), rows.stop * len(column))
        *_, reds, greens, blues = self.shape
        cells = np.tile(column * np.int32(reds * greens * blues), len(down))[:, None]
        weights = np.ones(cells.shape, np.float32)
        for (index, weight), stride in zip(splines[2:], (greens * blues, blues, 1), strict=True):
            nodes = (index[pixels, None] + np.arange(3, dtype=np.int32)) * np.int32(stride)
            cells = (cells[:, :, None] + nodes[:, None, :]).reshape(len(cells), -1)
            weights = (weights[:, :, None] * weight[pixels, None, :]).reshape(len(cells), -1)
        number = np.zeros(int(np.prod(self.shape[1:])), np.int32)
        number[cells] = 1
        used = np.flatnonzero(number)
        number[used] = np.arange(len(used), dtype=np.int32)
        starts = np.arange(0, cells.size + 1, cells.shape[1], dtype=np.int32)
        colour = csr_array((weights.reshape(-1), number[cells].reshape(-1), starts),
                           shape=(len(cells), len(used)))  # fmt: skip
        space = (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, 3, 3)
        return _Band(int(first[rows.start]), pixels, used, colour, colour.T, space)

    def apply(self, values: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        step = int(np.prod(self.shape[2:]))
        inner = [len(into) for into, _ in self._factors]
        core = np.zeros((self.shape[0], int(np.prod(inner))), np.float32)
        slabs: dict[int, np.ndarray] = {}
        for band in self._bands:
            for node in [node for node in slabs if node < band.node]:
                core[node] = _transformed(slabs.pop(node), self.shape[1:], self._factors, 0)
            weighted = band.space.reshape(-1, 9) * flat[band.pixels, None]
            spread = (band.spread @ weighted).reshape(-1, 3, 3)
            for i in range(3):
                node = band.node + i
                if node not in slabs:
                    slabs[node] = np.zeros(int(np.prod(self.shape[1:])), np.float32)
                for j in range(3):
                    slabs[node][band.cells + j * step] += spread[:, i, j]
        for node, slab in slabs.items():
            core[node] = _transformed(slab, self.shape[1:], self._factors, 0)
        core = self._across_rows @ core
        out = np.empty_like(flat)
        slabs = {}
        for band in self._bands:
            read = np.empty((len(band.cells), 3, 3), np.float32)
            slabs = {node: slabs[node] for node in slabs if node >= band.node}
            for i in range(3):
                node = band.node + i
                if node not in slabs:
                    slabs[node] = _transformed(core[node], inner, self._factors, 1)
                for j in range(3):
                    read[:, i, j] = slabs[node][band.cells + j * step]
            spatial = (band.colour @ read.reshape(-1, 9)).reshape(-1, 3, 3)
            out[band.pixels] = np.einsum("nij,nij->n", spatial, band.space)
        return out.reshape(values.shape)


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
            raise InputError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        self.shape = image.shape[:2]
        self._kernels: list[tuple[float, _Kernel, np.ndarray]] = []
        if appearance > 0:
            small = self.shape[0] * self.shape[1] <= exact_pixels
            self._add(appearance, (ExactKernel if small else GridKernel)(image, alpha, beta))
        if smoothness > 0:
            self._add(smoothness, SpatialKernel(self.shape[0], self.shape[1], gamma))
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
    """(r, n) into and (n, r) out of the leading eigenvectors of a symmetric (n, n) matrix."""
    values, vectors = np.linalg.eigh(matrix.astype(np.float64))
    kept = np.abs(values) > _TRUNCATION * np.abs(values).max()
    into = vectors[:, kept].T
    return into.astype(np.float32), (into.T * values[kept]).astype(np.float32)


def _transformed(
    grid: np.ndarray,
    shape: Sequence[int],
    factors: list[tuple[np.ndarray, np.ndarray]],
    way: int,
) -> np.ndarray:
    """A flat grid of `shape` into (way 0) or out of (way 1) the factors of its axes, flat."""
    sides = list(shape)
    order = range(len(sides)) if way == 0 else reversed(range(len(sides)))
    for axis in order:
        matrix = factors[axis][way]
        before, after = int(np.prod(sides[:axis])), int(np.prod(sides[axis + 1 :]))
        if after == 1:
            grid = grid.reshape(before, sides[axis]) @ matrix.T
        else:
            grid = np.matmul(matrix, grid.reshape(before, sides[axis], after))
        sides[axis] = len(matrix)
    return grid.reshape(-1)


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
