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

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError
from .progress import report

if TYPE_CHECKING:
    import torch

    from .backbone.base import Backbone
    from .options import ContrastOptions
    from .progress import Progress
    from .prompts import PromptPair

STRONGEST = 0.05
PEAK = 0.02
NAMING_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Measured:
    """What the noise predictions say about one pair of prompts.

    Attributes:
        contrast: (h, w) float32, at least 0.
        evidence: (h, w) float32, signed.
        draw_evidence: (draws of all levels,) float64: for each draw the mean evidence over the
            `STRONGEST` fraction of cells by contrast.
        presence: 0 to 1, see `presence`.
        draws: noise draws per level the maps are made of.
    """

    contrast: np.ndarray
    evidence: np.ndarray
    draw_evidence: np.ndarray
    presence: float
    draws: int = 0


def draw_noise(shape: Sequence[int], seed: int, identity: str, t: int, index: int) -> torch.Tensor:
    """One draw from a standard normal, (C, h, w) float32 on the CPU.

    It depends on nothing but the seed, the image, the timestep and its own index: batches, devices,
    workers and the other noise levels do not change it.
    """
    import torch

    key = hashlib.sha256(f"{seed}/{identity}/{t}/{index}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=generator)


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


class Predictions:
    """Noise predictions for one image, each made once.

    One call of the model holds draws of one prompt and one level only, so a prediction has the same
    bits whatever else is asked. The predictions last used are kept, up to `max_bytes` (one prompt
    at one level takes 650 KB for 10 draws of 4 x 64 x 64 latents).

    Attributes:
        evaluations: images the UNet has been run on so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        latents: torch.Tensor,
        identity: str,
        *,
        max_bytes: int = 2**28,
    ) -> None:
        """
        Args:
            latents: clean latents (C, h, w).
            identity: of the image, from `image_identity`; with the seed it fixes the noise.
        """
        self.backbone, self.latents, self.identity = backbone, latents, identity
        self.evaluations = 0
        self._room = max_bytes
        self._kept: OrderedDict[tuple[str, int, int, int, int], torch.Tensor] = OrderedDict()
        self._names: dict[tuple[int, int], np.ndarray | None] = {}

    def noise(self, t: int, seed: int, draws: range) -> torch.Tensor:
        """The true noise of some draws, (N, C, h, w) on the backbone's device."""
        import torch

        shape = tuple(self.latents.shape)
        drawn = [draw_noise(shape, seed, self.identity, t, i) for i in draws]
        return torch.stack(drawn).to(self.latents.device)

    def predict(self, prompt: str, t: int, seed: int, draws: range) -> torch.Tensor:
        """Predicted noise of some draws under a prompt, (N, C, h, w) float32."""
        key = (prompt, t, seed, draws.start, draws.stop)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        noisy = self.backbone.add_noise(self.latents, self.noise(t, seed, draws), t)
        predicted = self.backbone.predict(noisy, t, self.backbone.embed([prompt])[0])
        self._keep(key, predicted)
        return predicted

    def names(self, noun: str, t: int, seed: int) -> np.ndarray | None:
        """How sure the model is, cell by cell, that this is what it shows; from the first draw.

        Args:
            noun: with or without adjectives before it.

        Returns:
            (h', w') float32 log-probabilities, at most 0; None where the model does not know the
            noun or cannot name (`Backbone.name_cells`).
        """
        nouns = self.backbone.nouns
        words = noun.split()
        known = next((n for i in range(len(words)) if (n := " ".join(words[i:])) in nouns), None)
        if known is None:
            return None
        if (t, seed) not in self._names:
            noisy = self.backbone.add_noise(self.latents, self.noise(t, seed, range(1)), t)
            found = self.backbone.name_cells(noisy, t)
            self._names[t, seed] = None if found is None else found[0].cpu().numpy()
        cells = self._names[t, seed]
        return None if cells is None else cells[1 + nouns.index(known)]

    def holds(self, prompt: str, t: int, seed: int, draws: range) -> bool:
        """Whether `predict` would answer without the model."""
        return (prompt, t, seed, draws.start, draws.stop) in self._kept

    def _keep(self, key: tuple[str, int, int, int, int], predicted: torch.Tensor) -> None:
        self.evaluations += len(predicted)
        self._kept[key] = predicted
        self._room -= predicted.nbytes
        while self._room < 0 and len(self._kept) > 1:
            self._room += self._kept.popitem(last=False)[1].nbytes


def predict_together(wanted: Sequence[tuple[Predictions, str, int, range]], t: int) -> None:
    """Make predictions of several images and prompts in one call of the model, and keep each where
    its `Predictions.predict` finds it. Their last bits differ from those of separate calls.

    Args:
        wanted: (predictions, prompt, seed, draws), all of one model and one latent size.
        t: timestep, the same for all.
    """
    import torch

    backbone = wanted[0][0].backbone
    noisy, embedded = [], []
    for image, prompt, seed, draws in wanted:
        noisy.append(backbone.add_noise(image.latents, image.noise(t, seed, draws), t))
        embedded.append(backbone.embed([prompt]).expand(len(draws), -1, -1))
    predicted = backbone.predict(torch.cat(noisy), t, torch.cat(embedded))
    parts = predicted.split([len(draws) for *_, draws in wanted])
    for (image, prompt, seed, draws), part in zip(wanted, parts, strict=True):
        image._keep((prompt, t, seed, draws.start, draws.stop), part.clone())


def draw_batches(options: ContrastOptions) -> list[range]:
    """The draws of one level, in the batches one call of the model takes."""
    size = options.batch_size or options.samples
    return [range(i, min(i + size, options.samples)) for i in range(0, options.samples, size)]


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


def naming_weights(names: np.ndarray, naming: float, size: tuple[int, int]) -> np.ndarray:
    """(p / max p)^naming of each cell, where p is how likely it is that it shows a noun.

    A contrast is large wherever taking the noun away would change the picture, and a model that is
    unsure of names would change look-alikes too; where the noun is likeliest the weight is 1.

    Args:
        names: (h', w') log-probabilities, from `Predictions.names`.
        naming: 0 to 1, see `ContrastOptions`.
        size: (h, w) of the contrast.

    Returns:
        (h, w) float32 in (0, 1], interpolated linearly in the logarithm.
    """
    import cv2

    logarithm = cv2.resize(names, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.exp(naming * (logarithm - logarithm.max())).astype(np.float32)


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
    names = predictions.names(pair.noun, t, seed) if options.naming > 0 else None
    size = predictions.latents.shape[-2:]
    weights = (
        1.0
        if names is None
        else torch.from_numpy(naming_weights(names, options.naming, (size[0], size[1])))
    )
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
    backbone = predictions.backbone
    names = None
    if "named" in (_calibrated_presence(backbone, pair, options) or {}):
        names = predictions.names(pair.noun, backbone.timestep(options.strength[0]), options.seed)
    found = presence(backbone, pair, options, contrast_map, evidence_map, per_draw, names)
    return Measured(contrast_map, evidence_map, per_draw, found, len(maps[0][0]))


def strongest_evidence(contrast: np.ndarray, draw_evidence: np.ndarray) -> np.ndarray:
    """Mean evidence of each draw over the strongest cells of the contrast: (h, w) and (N, h, w) to
    (N,) float64. With one draw only, its strongest cells one by one."""
    cells = _strongest(contrast, STRONGEST)
    values = draw_evidence.reshape(len(draw_evidence), -1)[:, cells].astype(np.float64)
    return values[0] if len(values) == 1 else values.mean(axis=1)


def presence(
    backbone: Backbone,
    pair: PromptPair,
    options: ContrastOptions,
    contrast: np.ndarray,
    evidence: np.ndarray,
    draw_evidence: np.ndarray,
    names: np.ndarray | None = None,
) -> float:
    """How sure the model is that the object is there, 0 to 1.

    Calibrated models, for the pairing and noise levels they were calibrated with:
    sigmoid(weights . x + offset), where x are `presence_features` or, for models that name what
    they see, `naming_features` of `names` (see `Predictions.names`). Else the one-sided level of a
    t-test that the evidence over the strongest cells is above zero, draws taken as independent:
    P(T <= t) for Student's T.
    """
    calibrated = _calibrated_presence(backbone, pair, options)
    if calibrated:
        x = presence_features(contrast, evidence)
        if names is not None and "named" in calibrated:
            calibrated, x = calibrated["named"], naming_features(contrast, names)
        return _sigmoid(float(x @ np.asarray(calibrated["weights"])) + calibrated["offset"])
    return confidence_above_zero(draw_evidence)


def _calibrated_presence(
    backbone: Backbone, pair: PromptPair, options: ContrastOptions
) -> dict[str, Any] | None:
    """The calibration's "presence", where pairing and noise levels are those it was made with."""
    defaults = backbone.contrast_defaults
    same = (pair.strategy, options.strength) == (defaults.reference, defaults.strength)
    return backbone.calibration.get("presence") if same else None


def presence_features(contrast: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The numbers presence is calibrated on.

    An object that is there leaves a peak far above the rest, and the prompt without it explains
    the noise worse there; one that is not leaves a weak map, or a broad one.

    Args:
        contrast, evidence: (h, w), of one pair.

    Returns:
        (4,) float64: the logarithm of the peak, the mean contrast over the strongest 2 % of cells;
        the logarithms of the mean over the strongest 5 % and over all cells, less that of the
        peak; the mean evidence over the strongest 2 %, in units of the peak squared.
    """
    flat = contrast.reshape(-1).astype(np.float64)
    peak, broad = (max(flat[_strongest(contrast, f)].mean(), 1e-12) for f in (PEAK, STRONGEST))
    cells = _strongest(contrast, PEAK)
    gain = evidence.reshape(-1)[cells].mean(dtype=np.float64) / peak**2
    rest = max(flat.mean(), 1e-12)
    return np.array([math.log(peak), math.log(broad / peak), math.log(rest / peak), gain])


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


def confidence_above_zero(values: np.ndarray) -> float:
    """P(T <= t) for the t statistic of the values' mean and Student's T with n - 1 degrees of
    freedom; 0 or 1 if they do not vary, 0 for all zeros."""
    from scipy.special import stdtr

    n = len(values)
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if spread == 0:
        return float(mean > 0)
    return float(stdtr(n - 1, mean / (spread / math.sqrt(n))))


def diffusers_mask(
    backbone: Backbone,
    latents: torch.Tensor,
    noise: torch.Tensor,
    query: str,
    reference: str,
    *,
    strength: float = 0.5,
    steps: int = 50,
    clamp: float = 3.0,
) -> np.ndarray:
    """The mask that diffusers' `StableDiffusionDiffEditPipeline.generate_mask` makes.

    For comparison only: it starts from a step of the sampler's schedule instead of a fraction of T
    and cuts at latent size. Its guidance cancels in the mask and is left out.

    Args:
        backbone: a `LatentUNet`.
        latents: (N, C, h, w), one encoding per draw as the pipeline samples them, or (C, h, w).
        noise: (N, C, h, w).
        query, reference: the pipeline's target_prompt and source_prompt.
        strength, steps, clamp: its mask_encode_strength, num_inference_steps and
            mask_thresholding_ratio.

    Returns:
        (h, w) bool.
    """
    import torch

    timestep = getattr(backbone, "diffusers_timestep", None)
    if timestep is None:
        raise InputError(f"backbone must be a latent UNet, got family {backbone.family!r}")
    t = timestep(strength, steps)
    latents = latents.expand(noise.shape)
    noisy = torch.stack(
        [backbone.add_noise(x, n[None], t)[0] for x, n in zip(latents, noise, strict=True)]
    )
    eps_query, eps_ref = (backbone.predict(noisy, t, e) for e in backbone.embed([query, reference]))
    contrast = noise_contrast(eps_query, eps_ref).mean(dim=0)
    ceiling = contrast.mean() * clamp
    return ((contrast.clamp(max=ceiling) / ceiling) > 0.5).cpu().numpy()


def _strongest(contrast: np.ndarray, fraction: float) -> np.ndarray:
    """Flat indices of the strongest cells, at least one; ties go to the first."""
    count = max(1, round(fraction * contrast.size))
    return np.argsort(-contrast.reshape(-1), kind="stable")[:count]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
