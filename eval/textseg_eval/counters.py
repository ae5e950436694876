"""Integer counts of one image, and what follows from their sums.

Everything that is added up is a whole number of pixels, so that any order and any number of workers
gives the same figures. Scores are counted in bins of 1/256: for a threshold k / 256 the test
score >= k / 256 is exact, and one pass gives the counts of every threshold.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from dataclasses import dataclass

import numpy as np

from textseg.saving import utf8

BINS = 257
"""Bins of a score histogram; bin k holds k / 256 <= score < (k + 1) / 256, the last one score 1."""

EDGE_TOLERANCE = 0.008
"""Distance within which two boundaries match, as a fraction of the image's diagonal."""


@dataclass(frozen=True)
class Counts:
    """Pixels of one mask against one truth.

    Attributes:
        intersection: pixels in both.
        predicted: pixels in the mask; the truth's own number of pixels is kept beside the counts,
            once for all rules.
        edges: matched and all boundary pixels of the mask, matched and all of the truth; None where
            boundaries are not scored.
    """

    intersection: int
    predicted: int
    edges: tuple[int, int, int, int] | None = None

    def to_list(self) -> list[int]:
        return [self.intersection, self.predicted, *(self.edges or ())]

    @classmethod
    def from_list(cls, values: list[int]) -> Counts:
        edges = (values[2], values[3], values[4], values[5]) if len(values) == 6 else None
        return cls(values[0], values[1], edges)

    def boundary_f(self) -> float | None:
        """Harmonic mean of boundary precision and recall; 1 where neither has a boundary.

        Of four boundary pixels three match, of the truth's six three do: 3/4 and 1/2.

        >>> Counts(9, 9, (3, 4, 3, 6)).boundary_f()
        0.6
        >>> Counts(0, 0, (0, 0, 0, 0)).boundary_f(), Counts(0, 4, (0, 4, 0, 0)).boundary_f()
        (1.0, 0.0)
        """
        if self.edges is None:
            return None
        matched, edge, truth_matched, truth_edge = self.edges
        if edge == 0 and truth_edge == 0:
            return 1.0
        if edge == 0 or truth_edge == 0 or matched + truth_matched == 0:
            return 0.0
        precision, recall = matched / edge, truth_matched / truth_edge
        return 2 * precision * recall / (precision + recall)


def to_bins(score: np.ndarray) -> np.ndarray:
    """Scores in [0, 1] to bins 0 to 256, uint16; values outside are clipped.

    >>> to_bins(np.array([-1, 0.25, 0.999, 1, 2], np.float32)).tolist()
    [0, 64, 255, 256, 256]
    """
    return (np.clip(score, 0.0, 1.0) * np.float32(256)).astype(np.uint16)


def count_mask(
    mask: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None, *, edges: bool = True
) -> Counts:
    """Counts of a mask (H, W) bool against a truth (H, W) bool, without the ignored pixels.

    >>> mask, truth = np.array([[True, True, False]]), np.array([[False, True, True]])
    >>> count_mask(mask, truth, edges=False)
    Counts(intersection=1, predicted=2, edges=None)
    >>> count_mask(mask, truth, ignore=np.array([[True, False, False]]), edges=False)
    Counts(intersection=1, predicted=1, edges=None)
    """
    if ignore is not None:
        mask, truth = mask & ~ignore, truth & ~ignore
    return Counts(
        int(np.count_nonzero(mask & truth)),
        int(np.count_nonzero(mask)),
        count_edges(mask, truth) if edges else None,
    )


def count_edges(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """Boundary pixels that match and all of them, for the mask and for the truth.

    A boundary pixel is a pixel of the region with a 4-neighbour inside the image that is not; it
    matches when a boundary pixel of the other lies within `EDGE_TOLERANCE` times the diagonal, at
    least one pixel (the F measure of Perazzi et al. 2016, DAVIS, section 4).

    A square of 3 x 3 has eight, another one a pixel further right as many. Within one pixel all
    match.

    >>> mask, truth = np.zeros((6, 9), bool), np.zeros((6, 9), bool)
    >>> mask[1:4, 1:4] = truth[1:4, 2:5] = True
    >>> count_edges(mask, truth)
    (8, 8, 8, 8)
    >>> count_edges(mask, np.zeros((6, 9), bool))
    (0, 8, 0, 0)
    """
    import cv2

    radius = max(1, round(EDGE_TOLERANCE * float(np.hypot(*mask.shape))))
    box = _joint_box(mask, truth, radius + 1)
    if box is None:
        return 0, 0, 0, 0
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    span = np.arange(-radius, radius + 1)
    disc = (span[:, None] ** 2 + span[None] ** 2 <= radius**2).astype(np.uint8)

    # The crop is wide enough that its border is either the image's or outside both regions.
    def edge(region: np.ndarray) -> np.ndarray:
        part = np.ascontiguousarray(region[box]).view(np.uint8)
        return (part - np.asarray(cv2.erode(part, cross))).view(bool)

    def near(edges: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.dilate(edges.view(np.uint8), disc)).view(bool)

    first, second = edge(mask), edge(truth)
    return (
        int(np.count_nonzero(first & near(second))),
        int(np.count_nonzero(first)),
        int(np.count_nonzero(second & near(first))),
        int(np.count_nonzero(second)),
    )


def _joint_box(first: np.ndarray, second: np.ndarray, margin: int) -> tuple[slice, slice] | None:
    both = first | second
    rows = np.flatnonzero(both.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(both.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )


def histogram(bins: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Pixels per score bin inside and outside a truth.

    Args:
        bins: (H, W) uint16 from `to_bins`.
        truth, ignore: (H, W) bool.

    Returns:
        (2, BINS) int64: row 0 inside the truth, row 1 outside.

    >>> found = histogram(np.array([[0, 9, 9]], np.uint16), np.array([[False, True, False]]))
    >>> found[:, [0, 9]].tolist(), int(found.sum())
    ([[0, 1], [1, 1]], 3)
    """
    keys = bins + np.uint16(BINS) * ~truth
    flat = keys.ravel() if ignore is None else keys[~ignore]
    return np.bincount(flat, minlength=2 * BINS).reshape(2, BINS)


def hard_histogram(counts: Counts, truth: int, pixels: int) -> np.ndarray:
    """The histogram of a mask without scores: 1 inside it, 0 outside, (2, BINS) int64.

    >>> hard_histogram(Counts(intersection=3, predicted=5), truth=4, pixels=20)[:, [0, -1]].tolist()
    [[1, 3], [14, 2]]
    """
    result = np.zeros((2, BINS), np.int64)
    result[0, -1], result[0, 0] = counts.intersection, truth - counts.intersection
    result[1, -1] = counts.predicted - counts.intersection
    result[1, 0] = pixels - truth - result[1, -1]
    return result


def pack_histogram(values: np.ndarray) -> str:
    """A histogram as short text, for JSON lines.

    >>> values = hard_histogram(Counts(3, 5), truth=4, pixels=20)
    >>> bool((unpack_histogram(pack_histogram(values)) == values).all())
    True
    """
    return base64.b64encode(zlib.compress(values.astype("<i4").tobytes(), 6)).decode("ascii")


def unpack_histogram(text: str) -> np.ndarray:
    """(2, BINS) int64 from `pack_histogram`."""
    data = zlib.decompress(base64.b64decode(text))
    return np.frombuffer(data, "<i4").reshape(2, BINS).astype(np.int64)


def threshold_counts(hist: np.ndarray, *, below: bool = False) -> np.ndarray:
    """Intersection and predicted pixels at every threshold k / 256.

    Args:
        hist: (..., 2, BINS) from `histogram`, or sums of such.
        below: the region is where the score lies below the threshold (background) rather than at
            or above it.

    Returns:
        (..., 2, BINS) int64: intersection and predicted pixels for k = 0 to 256.

    At threshold 0 the region is the whole image, at any other the mask itself.

    >>> threshold_counts(hard_histogram(Counts(3, 5), truth=4, pixels=20))[:, [0, 1, 256]].tolist()
    [[4, 3, 3], [20, 5, 5]]
    """
    if below:
        total = np.cumsum(hist, axis=-1) - hist
    else:
        total = np.cumsum(hist[..., ::-1], axis=-1)[..., ::-1]
    return np.stack([total[..., 0, :], total.sum(axis=-2)], axis=-2)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element-wise quotient, NaN where the denominator is 0.

    >>> ratio(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, nan]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)


def mean_defined(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean of what is not NaN; NaN where nothing is.

    >>> mean_defined(np.array([[1.0, np.nan], [3.0, np.nan]])).tolist()
    [2.0, nan]
    """
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=axis), defined.sum(axis=axis))


def average_precision(scores: np.ndarray, present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the precision and recall steps, equal scores taken as one step.

    Args:
        scores: (N,) float, higher means more likely present.
        present: (N,) bool.
        weights: (N, B) how often each counts, one column per replicate.

    Returns:
        (B,) float64, NaN where nothing is present.

    The first and the third of three are present: precision 1 at recall 1/2, then 2/3 at 1.

    >>> scores, present = np.array([0.9, 0.8, 0.1]), np.array([True, False, True])
    >>> average_precision(scores, present, np.ones((3, 1))).round(4).tolist()
    [0.8333]
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    weights = weights[order].astype(np.float64)
    taken = np.cumsum(weights, axis=0)[ends]
    found = np.cumsum(weights * present[order][:, None], axis=0)[ends]
    steps = np.diff(found, axis=0, prepend=np.zeros((1, weights.shape[1])))
    area = (steps * np.nan_to_num(ratio(found, taken))).sum(axis=0)
    return ratio(area, found[-1])


def replicate_weights(image_id: int | str, seed: int, replicates: int) -> np.ndarray:
    """How often an image counts in the sample and in each bootstrap replicate.

    Poisson(1) draws seeded by the image, so that the weights do not depend on the order of the
    images and pair two runs over the same images.

    Returns:
        (1 + replicates,) uint8: 1 for the sample itself, then the draws.

    >>> weights = replicate_weights(7, seed=0, replicates=1000)
    >>> int(weights[0]), len(weights), bool(abs(weights[1:].mean() - 1) < 0.1)
    (1, 1001, True)
    """
    draws = seeded("bootstrap", seed, image_id).poisson(1.0, replicates)
    return np.concatenate([[1], draws]).astype(np.uint8)


def seeded(purpose: str, seed: int, image_id: int | str) -> np.random.Generator:
    """A generator that belongs to one image and one purpose."""
    return np.random.Generator(np.random.PCG64(image_hash(purpose, seed, image_id)))


def image_hash(purpose: str, seed: int, image_id: int | str) -> int:
    """A whole number below 2**64 that spreads images evenly, the same on every machine."""
    digest = hashlib.sha256(utf8(f"{purpose}/{seed}/{image_id}")).digest()
    return int.from_bytes(digest[:8], "big")
