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

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from .pooled import PooledKernel

_SPACING = 0.45
_MAX_CELLS = 2**25
_MAX_NODES = 2**11
_EXACT_PIXELS = 4096
_REACH = 5.0
_TRUNCATION = 1e-3


class _Kernel(Protocol):
    """A Gaussian kernel over the pixels of one image, with ones on its diagonal."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(h, w) float32 to sum_j k(i, j) v_j, (h, w) float32, i itself included, where the pixels
        are every stride-th row and column and each counts stride^2 times."""
        ...

    def apply_to_all(self, values: np.ndarray) -> np.ndarray:
        """The same sums at every pixel of the image: (h, w) to (H, W)."""
        ...


class SpatialKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 gamma^2)), by two one-dimensional sums.

    Args:
        gamma: reach in pixels; the sums end at five times as far, or at the image's border.
        stride: the sums run over every stride-th row and column, each counted stride^2 times.
        coarse: from a reach of 4 pixels on, work on means over squares of up to a third of it (a
            sixteenth of the longer side at most), and interpolate: right to about a percent of the
            largest sum, and as fast for any reach.
    """

    def __init__(
        self, height: int, width: int, gamma: float, stride: int = 1, *, coarse: bool = False
    ) -> None:
        self._size, self._stride = (height, width), stride
        self._square = 1
        if coarse and gamma >= 4 and stride == 1:
            self._square = max(1, int(min(gamma / 3, max(height, width) / 16)))
        if self._square > 1:
            # Averaging and interpolating spread values by themselves, with this variance.
            narrower = np.sqrt(gamma**2 - self._square**2 / 4)
            self._height = np.float32(self._square * gamma / narrower)
            gamma = narrower / self._square
            height, width = (-(-side // self._square) + 2 for side in (height, width))
        self._taps = [_gaussian_taps(gamma, side) for side in (width, height)]
        self._strided_taps = [_gaussian_taps(gamma / stride, -(-side // stride))
                              for side in (width, height)]  # fmt: skip

    def apply(self, values: np.ndarray) -> np.ndarray:
        return self._filtered(values, self._strided_taps)

    def apply_to_all(self, values: np.ndarray) -> np.ndarray:
        if self._stride == 1:
            return self.apply(values)
        spread = np.zeros(self._size, np.float32)
        spread[:: self._stride, :: self._stride] = values
        return self._filtered(spread, self._taps)

    def _filtered(self, values: np.ndarray, taps: list[np.ndarray]) -> np.ndarray:
        import cv2

        values = np.ascontiguousarray(values, np.float32)
        along, down = taps
        if self._square > 1:
            return self._coarsely(values, along, down)
        out = cv2.sepFilter2D(values, cv2.CV_32F, along, down, borderType=cv2.BORDER_CONSTANT)
        return out * np.float32(self._stride**2) if self._stride > 1 else out

    def _coarsely(self, values: np.ndarray, along: np.ndarray, down: np.ndarray) -> np.ndarray:
        import cv2

        # A square of zeros on every side, so that sums are interpolated up to the border.
        square, (height, width) = self._square, self._size
        bottom, right = (-side % square + square for side in (height, width))
        padded = cv2.copyMakeBorder(values, square, bottom, square, right, cv2.BORDER_CONSTANT)
        large = padded.shape[1], padded.shape[0]
        small = cv2.resize(padded, (large[0] // square, large[1] // square),
                           interpolation=cv2.INTER_AREA)  # fmt: skip
        small = cv2.sepFilter2D(small, cv2.CV_32F, along * self._height, down * self._height,
                                borderType=cv2.BORDER_CONSTANT)  # fmt: skip
        out = cv2.resize(small, large, interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(out[square : square + height, square : square + width])


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

    apply_to_all = apply


@dataclass(frozen=True)
class _Weights:
    """How n pixels are spread to V slots, a slot being a 3 x 3 patch of grid nodes of one colour.

    Attributes:
        slot: (V,) where the patch's first node lies in its flat row of the grid.
        rows: the slots whose patch starts at each row of the grid; at least two rows have none.
        colour: (n, V) sparse colour weights, 27 per pixel.
        space: (n, 3, 3) weights along rows and columns.
    """

    slot: np.ndarray
    rows: list[slice]
    colour: Any
    space: np.ndarray


@dataclass(frozen=True)
class _Slice:
    """The occupied colours of one node along the first colour axis, and the box they lie in.

    Attributes:
        cells: which of the grid's colours they are.
        second, third: the box along the other two colour axes.
        place: (cells, 2) their place in the box.
    """

    cells: slice
    second: slice
    third: slice
    place: tuple[np.ndarray, np.ndarray]


class GridKernel:
    """k(i, j) = exp(-|p_i - p_j|^2 / (2 alpha^2) - |c_i - c_j|^2 / (2 beta^2)) on a 5-D grid.

    The grid has all nodes along rows and columns, but only the colours that occur. It is convolved
    in the leading eigenvectors of each axis. Memory: about 300 bytes per pixel, more where
    neighbouring pixels differ much in colour, and 1,200 bytes per colour that occurs. Where a small
    `alpha` or `beta` would need more than 2**11 nodes along an axis or 2**25 in all the spacing
    grows, and narrow kernels come out wider.

    Args:
        image: (H, W, 3) uint8.
        alpha: reach in pixels.
        beta: reach in colour, 0 to 255 per channel.
        spacing: distance of grid nodes in units of the kernel's standard deviation.
        stride: the sums run over every stride-th row and column, each counted stride^2 times.

    Attributes:
        shape: nodes of the grid along row, column and the three colour axes.
        vertices: slots that pixels are spread to; at most 27 per pixel.
    """

    def __init__(
        self,
        image: np.ndarray,
        alpha: float,
        beta: float,
        spacing: float = _SPACING,
        stride: int = 1,
    ) -> None:
        height, width = image.shape[:2]
        colours = _compact_axes(image.reshape(-1, 3).astype(np.float32)) / np.float32(beta)
        axes = [np.arange(height, dtype=np.float32) / np.float32(alpha),
                np.arange(width, dtype=np.float32) / np.float32(alpha), *colours.T]  # fmt: skip
        while True:
            sides = [int(np.ptp(axis) / spacing) + 4 for axis in axes]
            if max(sides) <= _MAX_NODES and np.prod(sides, dtype=np.float64) <= _MAX_CELLS:
                break
            spacing *= 1.1
        self.shape: tuple[int, ...] = tuple(sides)
        self._stride, self._size = stride, (height, width)
        taps = _grid_taps(spacing, max(sides))
        matrices = [taps[np.abs(np.arange(n)[:, None] - np.arange(n))] for n in sides]
        self._across_slices = matrices[2]
        self._factors = [_factors(matrices[axis]) for axis in (0, 1, 3, 4)]
        splines = [_spline(axis, spacing, taps) for axis in axes]
        self._occupy([index for index, _ in splines[2:]])
        every = slice(None, None, stride)
        self._sources = self._weights(splines, every)
        self._splines = splines if stride > 1 else None
        self.vertices: int = len(self._sources.slot)

    def _occupy(self, nodes: list[np.ndarray]) -> None:
        """Number the colour nodes in use, and find the box of each slice of them."""
        _, second, third = self.shape[2:]
        self._first = (nodes[0] * np.int32(second) + nodes[1]) * np.int32(third) + nodes[2]
        used = np.zeros(int(np.prod(self.shape[2:])), bool)
        used[self._first] = True
        starts = np.flatnonzero(used).astype(np.int32)
        reach = np.arange(3, dtype=np.int32)
        patch = (reach[:, None, None] * second + reach[:, None]) * third + reach
        around = starts[:, None] + patch.reshape(-1)
        used[around] = True
        cells = np.flatnonzero(used)
        number = np.zeros(len(used), np.int32)
        number[cells] = np.arange(len(cells), dtype=np.int32)
        self._around = number[around]
        number[starts] = np.arange(len(starts), dtype=np.int32)
        self._first = number[self._first]
        self._colours = len(cells)
        self._slices: list[tuple[int, _Slice]] = []
        bounds = np.searchsorted(cells, np.arange(self.shape[2] + 1) * (second * third))
        for node in range(self.shape[2]):
            part = slice(int(bounds[node]), int(bounds[node + 1]))
            if part.start == part.stop:
                continue
            rows, columns = np.divmod(cells[part] % (second * third), third)
            low, left = int(rows.min()), int(columns.min())
            self._slices.append((node, _Slice(
                part, slice(low, int(rows.max()) + 1), slice(left, int(columns.max()) + 1),
                (rows - low, columns - left),
            )))  # fmt: skip

    def _weights(self, splines: list[tuple[np.ndarray, np.ndarray]], every: slice) -> _Weights:
        from scipy.sparse import csr_array

        (row, down), (column, across) = ((i[every], w[every]) for i, w in splines[:2])
        height, width = len(row), len(column)
        first = self._first.reshape(self._size)[every, every]
        colours = [w.reshape(*self._size, 3)[every, every] for _, w in splines[2:]]
        slots: list[np.ndarray] = []
        index = np.empty((height * width, 27), np.int32)
        weight = np.empty((height * width, 27), np.float32)
        rows = [slice(0)] * self.shape[0]
        count = 0
        starts = len(self._around)
        for node in np.unique(row):
            band = slice(*np.searchsorted(row, (node, node + 1)))
            pixels = slice(band.start * width, band.stop * width)
            # The distinct pairs of column node and colour, then the slots around those.
            pair = (column * np.int32(starts) + first[band]).reshape(-1)
            number = np.zeros(self.shape[1] * max(starts, self._colours), np.int32)
            number[pair] = 1
            pairs = np.flatnonzero(number)
            number[pairs] = np.arange(len(pairs), dtype=np.int32)
            which = number[pair]
            around = self._around[pairs % starts] + (pairs // starts * self._colours)[:, None]
            number[:] = 0
            number[around] = 1
            used = np.flatnonzero(number)
            number[used] = np.arange(count, count + len(used), dtype=np.int32)
            np.take(number[around], which, axis=0, out=index[pixels])
            slots.append(used)
            rows[node] = slice(count, count + len(used))
            count += len(used)
            reds, greens, blues = (w[band].reshape(-1, 3) for w in colours)
            pairwise = (reds[:, :, None] * greens[:, None, :]).reshape(-1, 9, 1)
            np.multiply(pairwise, blues[:, None, :], out=weight[pixels].reshape(-1, 9, 3))
        ends = np.arange(0, index.size + 1, 27, dtype=np.int32)
        colour = csr_array((weight.reshape(-1), index.reshape(-1), ends),
                           shape=(len(index), count))  # fmt: skip
        space = (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, 3, 3)
        return _Weights(np.concatenate(slots), rows, colour, space)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The sums at the pixels they run over: (h, w) to (h, w), strided."""
        out = self._read(self._convolved(values), self._sources)
        return out.reshape(values.shape)

    def apply_to_all(self, values: np.ndarray) -> np.ndarray:
        """The sums at every pixel: (h, w), strided, to (H, W)."""
        grid = self._convolved(values)
        targets = self._sources if self._splines is None else self._targets
        return self._read(grid, targets).reshape(self._size)

    @cached_property
    def _targets(self) -> _Weights:
        assert self._splines is not None
        return self._weights(self._splines, slice(None))

    def _convolved(self, values: np.ndarray) -> np.ndarray:
        """Values (h, w) of the strided pixels to the convolved grid, (row nodes, column modes x
        colours)."""
        rows, columns = self.shape[:2]
        source = self._sources
        flat = np.ascontiguousarray(values, np.float32).reshape(-1, 1)
        if self._stride > 1:
            flat = flat * np.float32(self._stride**2)
        spread = source.colour.T @ (source.space.reshape(-1, 9) * flat)
        parts = np.ascontiguousarray(spread.T).reshape(3, 3, -1)
        into, out = [pair[0] for pair in self._factors], [pair[1] for pair in self._factors]
        grid = np.empty((rows, len(into[1]), self._colours), np.float32)
        nodes = np.empty(columns * self._colours, np.float32)
        for row in range(rows):
            nodes[:] = 0
            for i in range(min(row + 1, 3)):
                slots = source.rows[row - i]
                for j in range(3):
                    np.add.at(nodes[j * self._colours :], source.slot[slots], parts[i, j, slots])
            np.matmul(into[1], nodes.reshape(columns, -1), out=grid[row])
        grid = (into[0] @ grid.reshape(rows, -1)).reshape(-1, self._colours)
        modes = len(grid)
        core = np.zeros((self.shape[2], len(into[2]), modes, len(into[3])), np.float32)
        for node, part in self._slices:
            box = np.zeros((part.second.stop - part.second.start, modes,
                            part.third.stop - part.third.start), np.float32)  # fmt: skip
            box[part.place[0], :, part.place[1]] = grid[:, part.cells].T
            inner = into[2][:, part.second] @ box.reshape(len(box), -1)
            inner = inner.reshape(len(inner) * modes, -1) @ into[3][:, part.third].T
            core[node] = inner.reshape(core[node].shape)
        core = (self._across_slices @ core.reshape(len(core), -1)).reshape(core.shape)
        for node, part in self._slices:
            inner = core[node].reshape(len(core[node]) * modes, -1) @ out[3][part.third].T
            box = out[2][part.second] @ inner.reshape(len(core[node]), -1)
            box = box.reshape(len(box), modes, -1)
            grid[:, part.cells] = box[part.place[0], :, part.place[1]].T
        return out[0] @ grid.reshape(len(into[0]), -1)

    def _read(self, grid: np.ndarray, target: _Weights) -> np.ndarray:
        """The convolved grid at the pixels, (n,)."""
        across = self._factors[1][1]
        parts = np.empty((3, 3, len(target.slot)), np.float32)
        nodes = np.empty((self.shape[1], self._colours), np.float32)
        for row, modes in enumerate(grid):
            np.matmul(across, modes.reshape(-1, self._colours), out=nodes)
            flat = nodes.reshape(-1)
            for i in range(min(row + 1, 3)):
                slots = target.rows[row - i]
                for j in range(3):
                    np.take(flat[j * self._colours :], target.slot[slots],
                            out=parts[i, j, slots], mode="clip")  # fmt: skip
        spatial = target.colour @ np.ascontiguousarray(parts.reshape(9, -1).T)
        return np.einsum("nk,nk->n", spatial, target.space.reshape(-1, 9))


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
        spacing: of the grid's nodes, in units of the kernel's standard deviation.
        stride: above `exact_pixels`, every stride-th row and column carries the mean field, and
            only its last update reaches all pixels, each with its own colour.
        points: pool the pixels to at most so many places for the appearance kernel, instead of
            the grid: several times as fast, and less exact. The kernel is summed exactly up to so
            many pixels, and `exact_pixels`, `spacing` and `stride` do nothing. 0 for the grid.
        finer: (H', W', 3) uint8, the same image larger, that the places are found on.

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
        spacing: float = _SPACING,
        stride: int = 1,
        points: int = 0,
        finer: np.ndarray | None = None,
    ) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InputError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        self.shape: tuple[int, int] = (height, width)
        exact = height * width <= (points or exact_pixels)
        self._stride = stride = 1 if exact or points else stride
        self._every = slice(None, None, stride)
        self._kernels: list[tuple[float, _Kernel, np.ndarray]] = []
        if appearance > 0:
            if exact:
                kernel: _Kernel = ExactKernel(image, alpha, beta)
            elif points:
                kernel = PooledKernel(image, alpha, beta, points, finer)
            else:
                kernel = GridKernel(image, alpha, beta, spacing, stride)
            self._add(appearance, kernel)
        if smoothness > 0:
            self._add(smoothness, SpatialKernel(height, width, gamma, stride, coarse=points > 0))

    def _add(self, weight: float, kernel: _Kernel) -> None:
        ones = np.ones((-(-self.shape[0] // self._stride), -(-self.shape[1] // self._stride)),
                       np.float32)  # fmt: skip
        degree = kernel.apply_to_all(ones)
        self._kernels.append((weight, kernel, 1 / np.sqrt(np.maximum(degree, 1.0))))

    def _message(self, values: np.ndarray) -> np.ndarray:
        """Weighted sum over the other pixels, strided: the paper's message without i itself."""
        out = np.zeros_like(values)
        for weight, kernel, norm in self._kernels:
            norm = norm[self._every, self._every]
            scaled = norm * values
            out += weight * norm * (kernel.apply(scaled) - scaled)
        return out

    def _message_to_all(self, values: np.ndarray) -> np.ndarray:
        """The same at every pixel, (H, W). What a pixel between the strided ones would send to
        itself is not known; the mean over those like it stands in."""
        if self._stride == 1:
            return self._message(values)
        out = np.zeros(self.shape, np.float32)
        for weight, kernel, norm in self._kernels:
            near = norm * kernel.apply_to_all(norm[self._every, self._every] * values)
            out += weight * near * (1 - norm * norm)
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
        if iterations == 0:
            return _softmax(-unary)
        if len(unary) == 2:
            return self._two_labels(unary[0] - unary[1], iterations)
        energy = unary[:, self._every, self._every]
        marginals = _softmax(-energy)
        for _ in range(iterations - 1):
            marginals = _softmax(self._messages(marginals, self._message) - energy)
        return _softmax(self._messages(marginals, self._message_to_all) - unary)

    def _two_labels(self, unary: np.ndarray, iterations: int) -> np.ndarray:
        """The same for two labels, in log odds: the difference of the marginals is tanh of half."""
        strided = unary[self._every, self._every]
        odds = strided
        for _ in range(iterations - 1):
            odds = strided + self._message(np.tanh(0.5 * odds))
        difference = np.tanh(0.5 * (unary + self._message_to_all(np.tanh(0.5 * odds))))
        return np.stack([0.5 - 0.5 * difference, 0.5 + 0.5 * difference])

    def _messages(
        self, marginals: np.ndarray, send: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Each label's message less that of label 0, which the softmax does not see."""
        sent = [send(label - marginals[0]) for label in marginals[1:]]
        return np.stack([np.zeros_like(sent[0]), *sent])


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
