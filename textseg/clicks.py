"""A mask corrected by clicks and boxes: the contrast, the colours and what a person points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import numpy as np

from .checks import is_number
from .cutting import Measurement, cut_with, result_of
from .errors import InputError
from .masks import Segmentation
from .options import RefineOptions
from .refine import Refiner

Point = tuple[float, float, int]
"""x, y in pixels, and a label: 1 for the object, 0 (or -1) for what is none of it."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

# Longer side at which distances are found, and how much a step costs per change of colour and of
# score beside its length, in units of the longer side.
_SIDE = 160
_COLOUR, _SCORE = 1.0, 0.3
# How far a click reaches in these units, and its weight there in log odds.
_REACH, _WEIGHT = 0.4, 6.0
# The share by which all log odds move towards what a click says of a score that said the opposite,
# of at most so much.
_LEVEL, _MOST = 0.45, 1.5
# The share of the mask, where its score is highest, that a click on what is none of the object does
# not reach beyond, and how near to the click it does not lie.
_CORE, _NEAR = 0.3, 0.12
_CERTAIN = 0.999


def correct(
    measurement: Measurement,
    image: np.ndarray,
    points: Sequence[Point] = (),
    boxes: Sequence[Box] = (),
    refine: RefineOptions | None = None,
) -> Segmentation:
    """Cut what was measured, as `cut` does, corrected by clicks and boxes.

    A click reaches as far as the way from it crosses no edges: its influence falls with the
    geodesic distance over the changes of colour and score, and ends where clicks of the other kind
    are nearer. Where the score is surer than where a click denied it, the object stays. Where the
    score said the opposite of a click, all of it moves a little, too. All this shifts the log odds
    of the score; the dense CRF then decides between score and colours, where the options have it
    on. The pixels around a click take its label, and nothing outside all boxes is in the mask. With
    no points and no boxes the result is that of `cut`.

    Args:
        measurement: of one query.
        image: (H, W, 3) uint8.
        points: (x, y, label) each, in pixels, 0 <= x < W and 0 <= y < H; label 1 for a place of
            the object, 0 (or -1) for one that is none.
        boxes: (left, top, right, bottom) each, in pixels, 0 <= left < right <= W and so on; the
            object lies inside them.
        refine: the options; those of the measurement if None.

    Returns:
        the result; its notes say how many points and boxes. A point of the object or a box says
        that the object is there, so that `min_presence` then empties no mask.

    Raises:
        InputError: a point or box outside the picture or of another form, or a bad image.

    Source of geodesic clicks: Bai and Sapiro 2007, "A geodesic framework for fast interactive image
    and video segmentation and matting".
    """
    return correct_with(Refiner(image, refine or measurement.refine_options), measurement,
                        points, boxes)  # fmt: skip


def correct_with(
    refiner: Refiner,
    measurement: Measurement,
    points: Sequence[Point] = (),
    boxes: Sequence[Box] = (),
) -> Segmentation:
    """`correct` by a refiner, which holds the image and the options; quick from the second call."""
    size = refiner.image.shape[0], refiner.image.shape[1]
    points, boxes = check_points(points, size), check_boxes(boxes, size)
    if not points and not boxes:
        return cut_with(refiner, [measurement])[0]

    def shift(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
        return _shifted(probability, image, size, points, boxes)

    mask, score = refiner.refine(measurement.contrast, shift)
    inside, sure = _inside(size, boxes), _discs(size, points)
    mask = ((mask & inside) | (sure > 0)) & (sure >= 0)
    score = np.where(sure > 0, 1.0, np.where(~inside | (sure < 0), 0.0, score))
    said = [
        f"{count} {word}{'s' * (count > 1)}"
        for count, word in ((len(points), "point"), (len(boxes), "box" + "e" * (len(boxes) > 1)))
        if count
    ]
    there = bool(boxes) or any(label for *_, label in points)
    kept = replace(refiner.options, min_presence=0.0) if there else refiner.options
    return result_of(measurement, refiner.image, mask, score.astype(np.float32), kept,
                     measurement.notes, " and ".join(said))  # fmt: skip


def check_points(points: Sequence[Point], size: tuple[int, int] | None = None) -> list[Point]:
    """Points as plain numbers, their labels 1 or 0.

    Args:
        size: height and width of the picture that they must lie in, if it is known.

    Raises:
        InputError: names the point that breaks a rule.
    """
    rule = "x, y, label with label 1 or 0"
    checked: list[Point] = []
    for point in points:
        x, y, label = _numbers("point", point, 3, rule)
        if label not in (1, 0, -1):
            raise InputError(f"point must be {rule}, got {point!r}")
        if size is not None and not (0 <= x < size[1] and 0 <= y < size[0]):
            raise InputError(
                f"point must lie in the picture of {size[1]} x {size[0]}, got {point!r}"
            )
        checked.append((x, y, int(label == 1)))
    return checked


def check_boxes(boxes: Sequence[Box], size: tuple[int, int] | None = None) -> list[Box]:
    """Boxes as plain numbers; arguments and errors as of `check_points`."""
    height, width = size or (inf, inf)
    where = f" in the picture of {width} x {height}" if size else ""
    checked: list[Box] = []
    for box in boxes:
        left, top, right, bottom = _numbers("box", box, 4, "left, top, right, bottom")
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise InputError(f"box must be left < right and top < bottom{where}, got {box!r}")
        checked.append((left, top, right, bottom))
    return checked


def _numbers(name: str, given: object, count: int, rule: str) -> list[float]:
    values = given.tolist() if isinstance(given, np.ndarray) else given
    if isinstance(values, Sequence) and not isinstance(values, str) and len(values) == count:
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        if all(is_number(value) for value in plain):
            return [float(value) for value in plain]
    raise InputError(f"{name} must be {rule}, got {given!r}")


def _inside(size: tuple[int, int], boxes: Sequence[Box]) -> np.ndarray:
    inside = np.full(size, not boxes)
    for left, top, right, bottom in boxes:
        inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return inside


def _discs(size: tuple[int, int], points: Sequence[Point]) -> np.ndarray:
    """1 around points of the object, -1 around the others, 0 elsewhere: (H, W) int8. A later point
    goes over an earlier one."""
    radius = max(1, max(size) // 100)
    discs = np.zeros(size, np.int8)
    for x, y, label in points:
        rows, columns = (slice(max(0, int(at) - radius), int(at) + radius + 1) for at in (y, x))
        down, across = np.ogrid[: size[0], : size[1]]
        near = (down[rows] - int(y)) ** 2 + (across[:, columns] - int(x)) ** 2 <= radius**2
        discs[rows, columns][near] = 1 if label else -1
    return discs


def _shifted(
    probability: np.ndarray,
    image: np.ndarray,
    size: tuple[int, int],
    points: Sequence[Point],
    boxes: Sequence[Box],
) -> np.ndarray:
    """The probability (h, w) of an image (h, w, 3), shifted by points and boxes in an image of
    another `size`."""
    import cv2

    width, height = probability.shape[1], probability.shape[0]
    odds = np.log(probability / (1 - probability))
    if points:
        steps = _steps(probability, image)
        small = cv2.resize(odds, steps.shape[::-1], interpolation=cv2.INTER_AREA)
        denied, meant = (
            sorted({(int(y * steps.shape[0] / size[0]), int(x * steps.shape[1] / size[1]))
                    for x, y, label in points if label == which})
            for which in (0, 1)
        )  # fmt: skip
        # What the score said where it is now denied or meant.
        too_high = max((small[cell] for cell in denied), default=0.0)
        too_low = min((small[cell] for cell in meant), default=0.0)
        odds = odds - _LEVEL * (np.clip(too_high, 0.0, _MOST) + np.clip(too_low, -_MOST, 0.0))
        from_denied, from_meant = _distances(steps, denied), _distances(steps, meant)
        core = _core(small, from_denied, too_high) if denied else []
        from_object = np.minimum(from_meant, _distances(steps, core))
        reached = _reached(from_meant, from_denied) - _reached(from_denied, from_object)
        odds = odds + _WEIGHT * cv2.resize(reached.astype(np.float32), (width, height))
    shifted = 1 / (1 + np.exp(-odds))
    shifted = np.clip(shifted, 0.01, 0.99)
    sure = cv2.resize(_discs(size, points), (width, height), interpolation=cv2.INTER_NEAREST)
    inside = cv2.resize(_inside(size, boxes).astype(np.uint8), (width, height),
                        interpolation=cv2.INTER_NEAREST)  # fmt: skip
    shifted[sure > 0] = _CERTAIN
    shifted[(sure < 0) | (inside == 0)] = 1 - _CERTAIN
    return shifted.astype(np.float32)


def _core(odds: np.ndarray, from_denied: np.ndarray, too_high: float) -> list[tuple[int, int]]:
    """The cells that stay the object's: those of highest score in the mask, surer than what was
    denied and not near it."""
    inside = odds > max(too_high, 0.0)
    if not inside.any():
        return []
    sure = odds >= np.quantile(odds[odds > 0], 1 - _CORE)
    return list(zip(*np.nonzero(inside & sure & (from_denied > _NEAR)), strict=True))


def _distances(steps: np.ndarray, cells: Sequence[tuple[int, int]]) -> np.ndarray:
    """What the cheapest way from any of the cells costs, infinite without cells."""
    from skimage.graph import MCP_Geometric

    return MCP_Geometric(steps).find_costs(cells)[0] if cells else np.full(steps.shape, np.inf)


def _reached(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How much clicks count, 0 to 1, by the distance from them and from what speaks against them:
    falling with distance, and from halfway to the other on down to nothing there."""
    share = 1 / (1 + (own + 1e-6) / (other + 1e-6))
    return np.exp(-own / _REACH) * np.minimum(1.0, 2 * np.where(np.isinf(other), 1.0, share))


def _steps(probability: np.ndarray, image: np.ndarray) -> np.ndarray:
    """What a step costs in each cell of a shrunken image: length, change of colour, of score."""
    import cv2

    shrink = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * shrink)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    small = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 1.0), cv2.COLOR_RGB2LAB)
    score = cv2.resize(probability, (width, height), interpolation=cv2.INTER_AREA)

    def slope(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)
        return np.hypot(cv2.Sobel(values, -1, 1, 0, scale=1 / 8),
                        cv2.Sobel(values, -1, 0, 1, scale=1 / 8))  # fmt: skip

    colour = np.sqrt(sum(np.square(slope(channel / 255)) for channel in cv2.split(small)))
    return 1 / _SIDE + _COLOUR * colour + _SCORE * slope(score)
