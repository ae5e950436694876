"""Where a model itself names what it sees: how far its names bear out a contrast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from .options import ContrastOptions
    from .predictions import Predictions

NAMING_FLOOR = 1e-6
NEGLIGIBLE = 0.01


def names_of(predictions: Predictions, noun: str, t: int, seed: int) -> np.ndarray | None:
    """How sure the model is, cell by cell, that this is what it shows; from the first draw.

    Args:
        noun: with or without adjectives before it.

    Returns:
        (h', w') float32 log-probabilities, at most 0; None where the model does not know the
        noun or cannot name (`Backbone.name_cells`).
    """
    nouns, words = predictions.backbone.nouns, noun.split()
    known = next((n for i in range(len(words)) if (n := " ".join(words[i:])) in nouns), None)
    cells = None if known is None else predictions.cell_names(t, seed)
    return None if known is None or cells is None else cells[1 + nouns.index(known)]


def cell_weights(
    predictions: Predictions, noun: str, t: int, options: ContrastOptions
) -> torch.Tensor | float:
    """What a contrast is multiplied by, (h, w) float32: 1 where names have no say in it."""
    import torch

    names = names_of(predictions, noun, t, options.seed) if options.naming > 0 else None
    if names is None:
        return 1.0
    height, width = predictions.latents.shape[-2:]
    return torch.from_numpy(naming_weights(names, options.naming, (height, width)))


def naming_weights(names: np.ndarray, naming: float, size: tuple[int, int]) -> np.ndarray:
    """(p / max p)^naming of each cell, where p is how likely it is that it shows a noun.

    A contrast is large wherever taking the noun away would change the picture, and a model that is
    unsure of names would change look-alikes too; where the noun is likeliest the weight is 1.

    Args:
        names: (h', w') log-probabilities, from `names_of`.
        naming: 0 to 1, see `ContrastOptions`.
        size: (h, w) of the contrast.

    Returns:
        (h, w) float32 in (0, 1], interpolated linearly in the logarithm.
    """
    import cv2

    logarithm = cv2.resize(names, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.exp(naming * (logarithm - logarithm.max())).astype(np.float32)


def naming_features(contrast: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The numbers presence is calibrated on where a model names what it sees.

    How large a contrast is differs from one kind of picture to another, whether the noun is there
    or not; how likely its name is differs less.

    Args:
        contrast: (h, w), of one pair.
        names: (h', w') log-probabilities of its noun, h' <= h and w' <= w.

    Returns:
        (2,) float64: the logarithm of the noun's probability, averaged over cells weighted by the
        contrast squared; its largest log-probability.
    """
    import cv2

    size = names.shape[1], names.shape[0]
    weight = cv2.resize(contrast, size, interpolation=cv2.INTER_AREA).astype(np.float64) ** 2
    chance = (weight * np.exp(names)).sum() / max(weight.sum(), 1e-24)
    return np.array([math.log(chance + NAMING_FLOOR), float(names.max())])


def rank_names(
    chances: np.ndarray, most: int, among: Sequence[int] | None = None
) -> list[tuple[int, float]]:
    """Nouns ranked against one another: each explains cells, which the ones after it do without.

    The noun that explains most of the cells still unexplained is taken, with its share of what all
    nouns make of the cells it explains; a cell is then explained by as much as its chance is of the
    noun's largest. So a look-alike that is second everywhere is not named, while a second thing
    elsewhere is.

    Args:
        chances: (K, h, w) float32 in [0, 1], how likely it is that a cell shows each noun.
        most: nouns to take at most.
        among: indices of the nouns to choose from; all if None.

    Returns:
        (index, share) pairs in the order they were taken, the share in [0, 1]; no noun twice, and
        none that explains less than a hundredth of a cell.
    """
    open_cells = np.ones(chances.shape[1:], np.float64)
    together = chances.sum(0, dtype=np.float64) + NAMING_FLOOR
    choice = np.zeros(len(chances), bool)
    choice[list(range(len(chances)) if among is None else among)] = True
    taken: list[tuple[int, float]] = []
    while choice.any() and len(taken) < most:
        explained = np.where(choice, (chances * open_cells).sum((1, 2)), 0)
        index = int(explained.argmax())
        if explained[index] < NEGLIGIBLE:
            break
        weight = chances[index] * open_cells
        choice[index] = False
        taken.append((index, float((weight * chances[index] / together).sum() / weight.sum())))
        open_cells = open_cells * (1 - chances[index] / chances[index].max())
    return taken
