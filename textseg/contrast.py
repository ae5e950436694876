"""The algorithm: where, and by how much, do two prompts disagree about the noise in an image?

    x_t   = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps           one draw of noise, shared by both
    c     = mean over channels |eps(x_t, query) - eps(x_t, reference)|          `noise_contrast`
    e     = mean over channels (eps - eps_reference)^2 - (eps - eps_query)^2          `evidence`

Both are averaged over draws, then over noise levels, in units of the noise (standard deviation 1)
at every level. c is the map of DiffEdit (Couairon et al. 2022, arXiv 2210.11427, section 3.2). e is
signed: positive where the query explains the true noise better, which is the drop in the diffusion
model's denoising loss that a diffusion classifier compares (Li et al. 2023, arXiv 2303.16203), per
position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .name_weights import cell_weights
from .predictions import draw_batches
from .presence import presence, strongest_evidence
from .progress import report

if TYPE_CHECKING:
    import torch

    from .backbone.base import Backbone
    from .options import ContrastOptions
    from .predictions import Predictions
    from .progress import Progress
    from .prompts import PromptPair


@dataclass(frozen=True, eq=False)
class Measured:
    """What the noise predictions say about one pair of prompts.

    Attributes:
        contrast: (h, w) float32, at least 0.
        evidence: (h, w) float32, signed.
        draw_evidence: (draws of all levels,) float64: for each draw the mean evidence over the
            strongest 5 % of cells by contrast.
        presence: 0 to 1, see `textseg.presence`.
        draws: noise draws per level the maps are made of.
    """

    contrast: np.ndarray
    evidence: np.ndarray
    draw_evidence: np.ndarray
    presence: float
    draws: int = 0


def noise_contrast(eps_query: torch.Tensor, eps_ref: torch.Tensor) -> torch.Tensor:
    """|eps_query - eps_ref|, averaged over channels: (N, C, h, w) twice to (N, h, w).

    The size is taken draw by draw, before any averaging, as in DiffEdit's published code.
    """
    return (eps_query - eps_ref).abs().mean(dim=1)


def evidence(eps: torch.Tensor, eps_query: torch.Tensor, eps_ref: torch.Tensor) -> torch.Tensor:
    """(eps - eps_ref)^2 - (eps - eps_query)^2, averaged over channels: (N, C, h, w) to (N, h, w).

    Positive where the reference explains the true noise `eps` worse than the query does.
    """
    return ((eps - eps_ref).square() - (eps - eps_query).square()).mean(dim=1)


def diffedit_mask(
    backbone: Backbone,
    latents: torch.Tensor,
    query: str,
    reference: str,
    noise: torch.Tensor,
    t: int,
    *,
    clamp: float = 3.0,
) -> torch.Tensor:
    """Step 1 of DiffEdit, whole: where two prompts disagree about the noise by half the most.

    What `measure` and `textseg.binarize` do for many queries, levels and batches, for one; as
    DiffEdit's published code has it, which rescales by the largest value only.

    Args:
        backbone: any model.
        latents: clean latents, (C, h, w), or one encoding for each draw, (N, C, h, w).
        query, reference: the two prompts.
        noise: draws from a standard normal, (N, C, h, w).
        t: timestep, of half of the noise levels in the paper (`Backbone.timestep(0.5)`).
        clamp: multiple of the mean above which a value counts as extreme and is cut off.

    Returns:
        (h, w) bool.
    """
    import torch

    images = latents.expand(noise.shape)
    noisy = torch.cat(
        [backbone.add_noise(x, eps[None], t) for x, eps in zip(images, noise, strict=True)]
    )
    eps_query, eps_ref = (backbone.predict(noisy, t, e) for e in backbone.embed([query, reference]))
    contrast = noise_contrast(eps_query, eps_ref).mean(dim=0)
    extreme = clamp * contrast.mean()
    return contrast.clamp(max=extreme) / extreme > 0.5


def measure(
    predictions: Predictions,
    pairs: Sequence[PromptPair],
    options: ContrastOptions,
    progress: Progress | None = None,
    *,
    cut: Callable[[np.ndarray], float] | None = None,
) -> list[Measured]:
    """Contrast and evidence of each pair, from one pass over the unique prompts.

    The UNet runs on levels * samples * (unique prompts not seen before) noisy images, or on fewer
    draws where `options.stop_risk` is above 0: the maps are then those of the first draws, at least
    two, whose `expected_flips` are at most that. Draws are looked at one by one, so that
    `batch_size` does not change how many are used; what a batch holds beyond them is not used.
    A pair with several references is set against the mean of their predictions.

    Args:
        options: strength, samples, seed, batch_size, naming and, for stopping, stop_risk and
            measure are used.
        progress: called as progress(done, total, "contrast") after each batch of a pair.
        cut: the threshold a map will be cut at, in units of the map; needed for stopping.

    Raises:
        InputError: stopping is asked for without `cut`.
    """
    if options.stop_risk > 0 and cut is None:
        raise InputError(f"cut must be given where stop_risk is above 0, got {options.stop_risk}")
    levels = [predictions.backbone.timestep(strength) for strength in options.strength]
    batches = draw_batches(options)
    steps = len(levels) * len(batches)
    results: list[Measured] = []
    for index, pair in enumerate(pairs):
        done = steps * index

        def batch_done() -> None:
            nonlocal done
            done += 1
            report(progress, done, steps * len(pairs), "contrast")

        if options.stop_risk > 0 and cut is not None:
            maps = _maps_until_stable(predictions, pair, options, levels, batches, cut, batch_done)
        else:
            maps = [_draw_maps(predictions, pair, t, options, batches, batch_done) for t in levels]
        results.append(_summed_up(predictions, pair, options, maps))
    return results


def expected_flips(maps: np.ndarray, threshold: float) -> float:
    """How much of a mask further draws are expected to change.

    Per cell the probability that the true mean is on the other side of the threshold than the mean
    of n draws: P(T_{n-1} > |mean - threshold| / (s / sqrt(n))) for Student's T and the spread s
    over draws. Their sum over cells, in units of the mask's cells (of a hundredth of all cells
    where the mask is smaller).

    Args:
        maps: (N, h, w), one per draw, N >= 2.
        threshold: in units of the maps.
    """
    from scipy.special import stdtr

    n = len(maps)
    mean = maps.mean(axis=0, dtype=np.float64)
    error = maps.std(axis=0, ddof=1, dtype=np.float64) / math.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(mean - threshold) / error
    doubt = stdtr(n - 1, -np.where(error > 0, distance, np.inf))
    return float(doubt.sum() / max((mean > threshold).sum(), mean.size / 100))


Maps = tuple["torch.Tensor", "torch.Tensor"]
"""Contrast and evidence of each draw at one level, (N, h, w) twice, on the CPU."""


def _draw_maps(
    predictions: Predictions,
    pair: PromptPair,
    t: int,
    options: ContrastOptions,
    batches: Sequence[range],
    batch_done: Callable[[], None],
) -> Maps:
    import torch

    seed = options.seed
    weights = cell_weights(predictions, pair.noun, t, options)
    contrasts, evidences = [], []
    for draws in batches:
        eps = predictions.noise(t, seed, draws)
        eps_query = predictions.predict(pair.query, t, seed, draws)
        eps_ref = torch.stack(
            [predictions.predict(p, t, seed, draws) for p in pair.references]
        ).mean(dim=0)
        contrasts.append(weights * noise_contrast(eps_query, eps_ref).cpu())
        evidences.append(evidence(eps, eps_query, eps_ref).cpu())
        batch_done()
    return torch.cat(contrasts), torch.cat(evidences)


def _maps_until_stable(
    predictions: Predictions,
    pair: PromptPair,
    options: ContrastOptions,
    levels: Sequence[int],
    batches: Sequence[range],
    cut: Callable[[np.ndarray], float],
    batch_done: Callable[[], None],
) -> list[Maps]:
    import torch

    which = 0 if options.measure == "contrast" else 1
    maps: list[Maps] = []
    for draws in batches:
        more = [_draw_maps(predictions, pair, t, options, [draws], batch_done) for t in levels]
        old = maps or [(m[0][:0], m[1][:0]) for m in more]
        maps = [(torch.cat([a, c]), torch.cat([b, d])) for (a, b), (c, d) in
                zip(old, more, strict=True)]  # fmt: skip
        means = torch.stack([level[which] for level in maps]).mean(dim=0).numpy()
        for n in range(max(2, draws.start + 1), draws.stop + 1):
            # As measured further down: over all levels' draws.
            mean = torch.cat([level[which][:n] for level in maps]).mean(dim=0).numpy()
            if expected_flips(means[:n], cut(mean)) <= options.stop_risk:
                return [(a[:n], b[:n]) for a, b in maps]
    return maps


def _summed_up(
    predictions: Predictions, pair: PromptPair, options: ContrastOptions, maps: Sequence[Maps]
) -> Measured:
    import torch

    contrast_map = torch.cat([contrast for contrast, _ in maps]).mean(dim=0).numpy()
    draw_maps = torch.cat([signed for _, signed in maps]).numpy()
    per_draw = strongest_evidence(contrast_map, draw_maps)
    evidence_map = draw_maps.mean(axis=0, dtype=np.float64).astype(np.float32)
    found = presence(predictions, pair, options, contrast_map, evidence_map, per_draw)
    return Measured(contrast_map, evidence_map, per_draw, found, len(maps[0][0]))
