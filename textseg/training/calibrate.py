"""Finds the options a model works best with on an annotated set, and saves them in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..backbone.base import Backbone
from ..binarize import cut, normalize
from ..coco import noun_masks, read_coco
from ..contrast import measure
from ..errors import InputError
from ..image import image_identity, load_image, resize_image
from ..name_weights import names_of, naming_features, naming_weights
from ..options import ContrastOptions, RefineOptions
from ..predictions import Predictions
from ..presence import presence_features
from ..progress import Progress, report
from ..prompts import pair_for
from ..refine import Refiner
from ..refine.upsample import upsample

STRENGTHS: tuple[tuple[float, ...], ...] = (
    (0.05,), (0.1,), (0.2,), (0.3,), (0.4,), (0.5,), (0.1, 0.3), (0.2, 0.4), (0.3, 0.5),
)  # fmt: skip
FLOORS = tuple(float(f) for f in np.geomspace(0.03, 0.6, 10).round(3))
RELATIVES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6)
REFINEMENTS: tuple[dict[str, Any], ...] = (
    {"crf": False, "guided": 0.0},
    {"crf": False, "guided": 0.01},
    {"crf": False, "guided": 0.02},
    {"crf": False, "guided": 0.04},
    {"crf": True},
    {"crf": True, "crf_appearance": 5.0},
)
REFINED = 50
REFINED_SIDE = 320
# A floor fitted without refinement empties masks that refinement would make good.
FLOOR_PARTS = (2, 4, 8)
LEVEL_GAIN = 0.01
SIDE_GAIN = 0.015
SIDES = (1.0, 4 / 3, 5 / 3)
NAMINGS = (0.0, 0.25, 0.5)
ABSENT = 4
FITTED_SIDE = 160
EMPTIED_BELOW = tuple(float(p) for p in np.linspace(0, 0.95, 96).round(2))


@dataclass(frozen=True, eq=False)
class Question:
    """One query of the calibration set.

    Attributes:
        image: (H, W, 3) uint8.
        truth: (H, W) bool; None where the noun is absent.
        maps: contrast (h, w) by noise level.
        evidence: (h, w) by noise level.
        names: (h', w') by noise level (`Predictions.names`); empty where the model cannot name.
    """

    image: np.ndarray
    truth: np.ndarray | None
    maps: dict[float, np.ndarray]
    evidence: dict[float, np.ndarray]
    names: dict[float, np.ndarray] = field(default_factory=dict)

    def contrast(self, strengths: Sequence[float]) -> np.ndarray:
        """(h, w), averaged over noise levels."""
        return _mean(self.maps, strengths)

    def weighed(self, naming: float) -> Question:
        """The same with contrasts as `ContrastOptions.naming` has them."""
        maps = {
            s: m * naming_weights(self.names[s], naming, (m.shape[0], m.shape[1]))
            if s in self.names
            else m
            for s, m in self.maps.items()
        }
        return replace(self, maps=maps)

    def shrunk(self, side: int) -> Question:
        """The same with an image of at most `side` pixels on its longer side."""
        scale = side / max(self.image.shape[:2])
        if scale >= 1:
            return self
        size = [max(1, round(n * scale)) for n in self.image.shape[1::-1]]
        image = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        truth = self.truth
        if truth is not None:
            truth = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        return replace(self, image=image, truth=truth)


def _mean(maps: dict[float, np.ndarray], strengths: Sequence[float]) -> np.ndarray:
    total = np.sum([maps[s] for s in strengths], axis=0, dtype=np.float64)
    return np.asarray(total / len(strengths), np.float32)


def ask(
    model: Backbone,
    images: Path,
    annotations: Path,
    options: ContrastOptions,
    *,
    limit: int | None = None,
    absent: int = 1,
    progress: Progress | None = None,
) -> list[Question]:
    """Measures every noun of every image at every noise level, and some absent nouns an image.

    Args:
        model: nouns that are not in `model.nouns` are left out.
        images, annotations: a COCO-format instance set; crowds are left out.
        options: reference, samples and seed are used.
        limit: number of images, the first ones by id.
        absent: how many nouns that are not there to ask of each image.
        progress: called after each image, stage "calibrate".
    """
    coco = read_coco(annotations).check_regions()
    names = coco.categories
    nouns = [n for n in names.values() if not model.nouns or n in model.nouns]
    levels = sorted({s for strengths in STRENGTHS for s in strengths})
    records = coco.by_id()[:limit]
    questions: list[Question] = []
    for done, record in enumerate(records, 1):
        image = load_image(images / record.file_name, upright=False)
        record.check_picture(images / record.file_name, image.shape[:2])
        size = model.fit_size(*image.shape[:2])
        latents = model.encode(resize_image(image, size))
        predictions = Predictions(model, latents, image_identity(image))
        seed = record.id if isinstance(record.id, int) else [*record.id.encode()]
        rng = np.random.default_rng(seed)
        shown = {names[a.category_id] for a in record.annotations}
        crowds = {names[a.category_id] for a in record.annotations if a.crowd}
        missing = [str(n) for n in rng.permutation(nouns) if n not in shown]
        wanted = {*nouns} - crowds
        clear = [a for a in record.annotations if names[a.category_id] in wanted]
        asked: list[tuple[str, np.ndarray | None]] = []
        asked += noun_masks(clear, names, record.size).items()
        asked += [(name, None) for name in missing[:absent]]
        pairs = [pair_for(model, name, options.reference) for name, _ in asked]
        per_level = {
            s: measure(predictions, pairs, replace(options, strength=(s,))) for s in levels
        }
        for i, (_, truth) in enumerate(asked):
            if truth is not None and not truth.any():
                continue
            found = {s: measured[i] for s, measured in per_level.items()}
            named = {
                s: names_of(predictions, pairs[i].noun, model.timestep(s), options.seed)
                for s in levels
            }
            questions.append(
                Question(
                    image,
                    truth,
                    {s: m.contrast for s, m in found.items()},
                    {s: m.evidence for s, m in found.items()},
                    {s: cells for s, cells in named.items() if cells is not None},
                )
            )
        report(progress, done, len(records), "calibrate")
    return questions


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else 1.0


def mean_iou(
    questions: Sequence[Question], strengths: Sequence[float], options: RefineOptions
) -> float:
    there = [q for q in questions if q.truth is not None]
    return float(np.mean([_cut_iou(q, q.contrast(strengths), options) for q in there]))


def _cut_iou(question: Question, contrast: np.ndarray, options: RefineOptions) -> float:
    score = upsample(normalize(contrast, options), question.image.shape[:2])
    truth = question.truth
    return iou(cut(score, options), np.zeros(score.shape, bool) if truth is None else truth)


def fit_threshold(
    questions: Sequence[Question],
) -> tuple[tuple[float, ...], RefineOptions, float, dict[str, float]]:
    """Noise levels, floor and relative cut with the highest mean IoU, without refinement, on images
    of at most `FITTED_SIDE` pixels.

    Each level costs as many evaluations as the first: a second one must be worth `LEVEL_GAIN`.

    Returns:
        The levels, the options, their mean IoU, and the best mean IoU of every choice of levels.
    """
    questions = [q.shrunk(FITTED_SIDE) for q in questions if q.truth is not None]
    if not questions:
        raise InputError("questions must hold a noun that is present, got none")
    tried: list[tuple[tuple[float, ...], RefineOptions, float]] = []
    table: dict[str, float] = {}
    for strengths, floor, relative in product(STRENGTHS, FLOORS, RELATIVES):
        options = RefineOptions.off(threshold="calibrated", floor=floor, relative=relative)
        value = mean_iou(questions, strengths, options)
        key = "+".join(map(str, strengths))
        table[key] = max(table.get(key, 0.0), value)
        tried.append((strengths, options, value))
    best = max(tried, key=lambda one: one[2] - LEVEL_GAIN * (len(one[0]) - 1))
    return (*best, table)


def fit_presence(
    questions: Sequence[Question], strengths: Sequence[float]
) -> tuple[dict[str, Any], float, float]:
    """Logistic regression of "is it there" on `presence_features`, both answers weighted alike.

    Returns:
        `weights` and `offset`, and where the model names what it sees `named`, the same for
        `naming_features`; the balanced accuracy at a presence of 0.5; and the presence below
        which masks are emptied: where the shares of what is there and kept, and of what is absent
        and emptied, have the largest sum (Youden's index).
    """
    maps = [(q.contrast(strengths), _mean(q.evidence, strengths)) for q in questions]
    x = np.array([presence_features(contrast, evidence) for contrast, evidence in maps])
    y = np.array([q.truth is not None for q in questions], float)
    fitted, logits = _logistic(x, y)
    if all(strengths[0] in q.names for q in questions):
        named = [
            naming_features(contrast, q.names[strengths[0]])
            for q, (contrast, _) in zip(questions, maps, strict=True)
        ]
        fitted["named"], logits = _logistic(np.array(named), y)
    weight = _balance(y)
    accuracy = float((weight * ((logits > 0) == (y > 0))).sum())
    presences = 1 / (1 + np.exp(-logits))
    worth = [float((weight * ((presences >= least) == (y > 0))).sum()) for least in EMPTIED_BELOW]
    return fitted, accuracy, EMPTIED_BELOW[int(np.argmax(worth))]


def _balance(y: np.ndarray) -> np.ndarray:
    """Weights of answers, so that those of 1 weigh as much as those of 0; they sum to 1."""
    return np.where(y > 0, 0.5 / max(y.sum(), 1), 0.5 / max((1 - y).sum(), 1))


def _logistic(x: np.ndarray, y: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """Logistic regression of y (0 or 1) on x (N, D): weights and offset, and the N logits."""
    from scipy.optimize import minimize

    weight = _balance(y)
    mean, spread = x.mean(0), x.std(0) + 1e-6

    def loss(p: np.ndarray) -> float:
        z = (x - mean) / spread @ p[:-1] + p[-1]
        return float((weight * (np.logaddexp(0, z) - y * z)).sum() + 1e-3 * (p[:-1] ** 2).sum())

    fitted = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS").x
    weights = fitted[:-1] / spread
    offset = float(fitted[-1] - weights @ mean)
    return {"weights": weights.tolist(), "offset": offset}, x @ weights + offset


def fit_refinement(
    questions: Sequence[Question], strengths: Sequence[float], options: RefineOptions
) -> tuple[RefineOptions, list[tuple[dict[str, Any], float]]]:
    """The refinement with the highest mean IoU, and the figure of each, on images of at most
    `REFINED_SIDE` pixels: of `REFINEMENTS`, each, as what is refined may be cut elsewhere, with
    some relative cuts about the one given, and the best of these with lower floors."""
    there = [q.shrunk(REFINED_SIDE) for q in questions if q.truth is not None]
    start = replace(options, min_area=0.001, max_hole=0.001)
    table: list[tuple[dict[str, Any], float]] = []

    def try_all(changes: Iterable[dict[str, Any]]) -> dict[str, Any]:
        for change in changes:
            tried = replace(start, **change)
            found = [
                iou(Refiner(q.image, tried).refine(q.contrast(strengths))[0], q.truth)
                for q in there
                if q.truth is not None
            ]
            table.append((change, float(np.mean(found))))
        return max(table, key=lambda row: row[1])[0]

    relatives = [round(options.relative + step, 2) for step in (-0.2, -0.1, 0.0, 0.1)]
    best = try_all(
        {**change, "relative": relative}
        for change in REFINEMENTS
        for relative in relatives
        if 0 <= relative <= 1
    )
    best = try_all({**best, "floor": round(options.floor / part, 3)} for part in FLOOR_PARTS)
    return replace(start, **best), table


def _spread(questions: Sequence[Question], most: int) -> list[Question]:
    """At most that many of the questions about what is there, evenly from first to last."""
    there = [q for q in questions if q.truth is not None]
    return [there[i * len(there) // most] for i in range(most)] if len(there) > most else there


def calibrate(
    folder: Path,
    sets: Sequence[tuple[Path, Path]],
    *,
    options: ContrastOptions,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Calibrates the model in `folder` on annotated sets and updates its `textseg.json`.

    A network names objects better that are seen a little larger than in training (Touvron et al.
    2019, arXiv 1906.06423): the native size is tried at every factor of `SIDES`, of which each must
    be worth `SIDE_GAIN` more mean IoU than the one before, as it costs more. Then every value of
    `NAMINGS` is tried with every refinement, on at most `REFINED` questions of each set.

    Args:
        folder: a pipeline folder.
        sets: pairs of image folder and COCO-format instance file, not used for testing.
        options: reference, samples and seed to calibrate for.
        limit: number of images of each set.
        progress: called after each image of a set, stage "calibrate".

    Returns:
        What was found: figures of every choice, for the model card.
    """
    from ..backbone import load

    file = folder / "textseg.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    if record.pop("native_size", None):
        file.write_text(json.dumps(record, indent=1) + "\n")
    model = load(folder)
    trained = model.native_size
    best: tuple[float, int, list[list[Question]]] | None = None
    by_side: dict[int, float] = {}
    for place, factor in enumerate(SIDES):
        side = round(trained * factor)
        model.native_size = side
        asked = [
            ask(model, images, annotations, options, limit=limit, absent=ABSENT, progress=progress)
            for images, annotations in sets
        ]
        by_side[side] = fit_threshold(list(chain(*asked)))[2]
        if best is None or by_side[side] - SIDE_GAIN * place > best[0]:
            best = by_side[side] - SIDE_GAIN * place, side, asked
    assert best is not None
    _, side, asked = best
    by_naming: dict[float, Any] = {}
    for naming in NAMINGS if any(q.names for q in chain(*asked)) else (0.0,):
        weighed = [[q.weighed(naming) for q in some] for some in asked]
        questions = list(chain(*weighed))
        fitted = fit_threshold(questions)
        refined, by_refinement = fit_refinement(
            [q for some in weighed for q in _spread(some, REFINED)], fitted[0], fitted[1]
        )
        value = max(value for _, value in by_refinement)
        by_naming[naming] = value, questions, fitted, refined, by_refinement
    naming = max(by_naming, key=lambda n: by_naming[n][0])
    _, questions, (strengths, _, value, by_level), refined, by_refinement = by_naming[naming]
    presence, accuracy, least = fit_presence(questions, strengths)
    contrast = replace(options, strength=strengths, naming=naming, batch_size=options.samples)
    record |= {
        "native_size": side,
        "contrast": asdict(contrast),
        "refine": asdict(replace(refined, min_presence=round(least, 3))),
        "presence": presence,
    }
    file.write_text(json.dumps(record, indent=1) + "\n")
    return {
        "questions": len(questions),
        "strength": list(strengths),
        "mean_iou": value,
        "mean_iou_by_strength": by_level,
        "mean_iou_by_side": by_side,
        "refined_mean_iou_by_naming": {n: found[0] for n, found in by_naming.items()},
        "mean_iou_by_refinement": [{**c, "mean_iou": v} for c, v in by_refinement],
        "presence_balanced_accuracy": accuracy,
        "min_presence": least,
    }
