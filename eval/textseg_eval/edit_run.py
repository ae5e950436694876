"""Trade-off curves of editing: methods, encoding ratios and mask thresholds on one data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textseg.checks import FRACTIONS, SEED, SHARE, one_of, option, several, validate, whole
from textseg.errors import InputError
from textseg.faults import Guard
from textseg.options import EditOptions

from . import counters
from .counters import image_hash, replicate_weights
from .datasets import Dataset, Example
from .edit_metrics import (
    Clip,
    Scripted,
    background_lpips,
    background_psnr,
    background_ssim,
    change_inside,
    evidence_inside,
    frechet_distance,
)
from .records import Record, RecordFile, keep, write_json
from .run import MOST_FAILURES, RECORDS, RESULTS, versions

if TYPE_CHECKING:
    from textseg.backbone.base import Backbone

FORMAT = 1
ABLATION = ("sdedit", "encode-decode", "diffedit-no-encoding", "diffedit")
"""The rows of DiffEdit's ablation."""
MASKED = ("diffedit-no-encoding", "diffedit")
RECONSTRUCT, SHIPPED = "reconstruct", "diffedit-composited"
"""Rows of our own: the autoencoder alone, and `textseg.edit` as it is by default."""
METHODS = (RECONSTRUCT, *ABLATION, SHIPPED)
FIGURES = ("took", "margin", "presence", "psnr", "ssim", "lpips", "change", "clip")
RATIOS, LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9), (0.25, 0.5, 0.75)


_METHODS = several(one_of(*METHODS), f"of {', '.join(METHODS)}")


@dataclass(frozen=True)
class EditRun:
    """What to edit and how.

    Attributes:
        dataset: images with annotated regions.
        pairs: category name -> what it is turned into.
        methods: of `METHODS`.
        ratios: encoding ratios r.
        levels: mask thresholds, for the methods with a mask.
        options: the rest of the settings; its `encode_ratio` is not used.
        truth_mask: edit the annotated region instead of the one the model finds, so that the
            editing is measured alone.
        draws: noise draws for the evidence.
        seed: chooses one pair for an image that has several.
        save_images: keep the edited images under images/METHOD.../ID.png; FID needs them.
    """

    dataset: Dataset
    pairs: Mapping[str, str]
    methods: Sequence[str] = option(METHODS, _METHODS)
    ratios: Sequence[float] = option(RATIOS, FRACTIONS)
    levels: Sequence[float] = option(LEVELS, several(SHARE, "one or more numbers in [0, 1]"))
    options: EditOptions = EditOptions()
    truth_mask: bool = False
    draws: int = option(4, whole(1, 1000))
    seed: int = option(0, SEED)
    save_images: bool = False

    def __post_init__(self) -> None:
        validate(self)
        if not self.pairs:
            raise InputError("pairs must hold at least one 'category=prompt', got none")
        names = set(self.dataset.categories.values())
        missing = sorted(set(self.pairs) - names)
        if missing:
            raise InputError(f"pairs must name categories of the data set, got {missing[0]!r}")

    def choose(self, example: Example) -> tuple[int, str, str] | None:
        """The category id, its name and the prompt for an image; None if no pair fits it."""
        present, _ = example.truth.keys()
        names = self.dataset.categories
        fitting = sorted(k for k in present if names.get(k) in self.pairs)
        if not fitting:
            return None
        key = fitting[image_hash("pair", self.seed, example.image_id) % len(fitting)]
        return key, names[key], self.pairs[names[key]]

    def fits(self, example: Example) -> bool:
        """Whether a pair fits an image; also where its annotations cannot be read, which is told
        when its turn comes."""
        with Guard(example.file_name):
            return self.choose(example) is not None
        return True

    def settings(self) -> Iterator[tuple[str, float | None, float | None]]:
        """Every (method, ratio, level); None where a method has no such setting."""
        for method in self.methods:
            if method == RECONSTRUCT:
                yield method, None, None
                continue
            masked = method in (*MASKED, SHIPPED)
            for ratio in self.ratios:
                for level in self.levels if masked and not self.truth_mask else (None,):
                    yield method, ratio, level

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "dataset": {"name": self.dataset.name, "fingerprint": self.dataset.fingerprint},
            "pairs": dict(self.pairs),
            "methods": list(self.methods),
            "ratios": list(self.ratios),
            "levels": list(self.levels),
            "options": asdict(self.options),
            "truth_mask": self.truth_mask,
            "draws": self.draws,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Judges:
    """Measures that need weights of their own; left out where None."""

    lpips: Scripted | None = None
    clip: Clip | None = None
    inception: Scripted | None = None


def evaluate_edits(
    run: EditRun,
    backbone: Backbone,
    folder: Path,
    judges: Judges | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Edit every image that has a pair, in every setting; taken up again where it was stopped.

    Writes per_image.jsonl, results.json and edit.html into the folder. Images that failed are left
    out of the figures, counted, and tried again by the next run.

    Returns:
        the results, as in results.json.
    """
    from .edit_report import write_report

    judges = judges or Judges()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [e for e in run.dataset.examples if run.fits(e)]
    if not chosen:
        raise InputError("images must hold a category of the pairs, got none that does")
    identity = run.describe() | {"model": backbone.name}
    _same_run(folder / "run.json", identity)
    started, before = time.monotonic(), 0
    with RecordFile(folder / RECORDS) as records:
        records.forget_failed()
        before = len(records)
        for example in chosen:
            if example.image_id not in records:
                keep(records, _record(run, backbone, example, folder, judges))
            if progress is not None:
                progress(len(records), len(chosen))
        done = len(records) - before
        failures = [record for record in records.records() if "error" in record]
        results = {
            "format": FORMAT,
            "kind": "edit",
            "run": identity,
            "versions": versions(),
            "images": len(records) - records.failed,
            "failed": len(failures),
            "failures": failures[:MOST_FAILURES],
            "seconds_per_image": (time.monotonic() - started) / done if done else None,
            "rows": _rows(run, list(records.records("test")), folder, judges),
        }
    write_json(folder / RESULTS, results)
    write_report(folder / "edit.html", results)
    return results


def _same_run(path: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to mix the records of two different runs."""
    import json

    if path.exists():
        if json.loads(path.read_text()) != json.loads(json.dumps(identity)):
            raise InputError(f"output must be empty or hold this same run, got {path.parent}")
        return
    write_json(path, identity)


def _record(
    run: EditRun, backbone: Backbone, example: Example, folder: Path, judges: Judges
) -> Record:
    from textseg.image import load_image

    head = {"image_id": example.image_id, "file_name": example.file_name, "part": "test"}
    with Guard(example.file_name) as guard:
        guard.at("decode")
        picked = run.choose(example)
        assert picked is not None
        key, category, prompt = picked
        image = load_image(example.path)
        region, _ = example.truth.region(key)
        if region.shape != image.shape[:2]:
            raise InputError(f"image must be of its annotations' size, got {image.shape[:2]}")
        guard.at("edit")
        rows = []
        for setting, edited in _edits(run, backbone, image, region, category, prompt):
            if run.save_images or judges.inception is not None:
                guard.at("save")
                _save(folder, setting, example.image_id, edited)
            guard.at("score")
            figures = _figures(backbone, image, edited, region, category, prompt, run, judges)
            method, ratio, level = setting
            rows.append({"method": method, "ratio": ratio, "level": level} | figures)
            guard.at("edit")
        return head | {"category": category, "prompt": prompt, "rows": rows}
    return head | guard.fault.record()


def _edits(
    run: EditRun,
    backbone: Backbone,
    image: np.ndarray,
    region: np.ndarray,
    category: str,
    prompt: str,
) -> Iterator[tuple[tuple[str, float | None, float | None], np.ndarray]]:
    """The image edited in every setting, (H, W, 3) uint8; encoded once for all ratios."""
    import torch

    from textseg.cutting import remask
    from textseg.edit_methods import EDIT_METHODS, LatentTask
    from textseg.editing import composite, latent_mask, removal_prompt
    from textseg.image import image_identity, resize_image
    from textseg.predictions import draw_noise
    from textseg.segmenter import Segmenter

    size = image.shape[:2]
    segmenter = Segmenter(backbone).set_image(image)
    found = None if run.truth_mask else segmenter.query(category)
    fitted = resize_image(image, backbone.fit_size(size[0], size[1]))
    latents = backbone.encode(fitted)
    base = LatentTask(
        backbone=backbone,
        latents=latents,
        mask=torch.ones(1, *latents.shape[-2:]).to(latents),
        noise=draw_noise(latents.shape, run.options.seed, image_identity(image), -1, 0).to(latents),
        prompt=prompt or removal_prompt(backbone, category),
        options=replace(run.options, encode_ratio=max(run.ratios)),
    )
    encodes = {"encode-decode", "diffedit", SHIPPED} & set(run.methods)
    base = replace(base, encoded=base.encode() if encodes else None)
    last: tuple[Any, np.ndarray] | None = None
    for method, ratio, level in sorted(run.settings(), key=_beside_its_twin):
        if ratio is None:
            yield (method, ratio, level), resize_image(backbone.decode(latents), size)
            continue
        mask = region
        if found is not None:
            mask = found.mask if level is None else remask(found, level=level).mask
        options = replace(run.options, encode_ratio=ratio)
        task = replace(base, options=options)
        plain = "diffedit" if method == SHIPPED else method
        if plain in MASKED:
            cells = latent_mask(mask, (latents.shape[-2], latents.shape[-1]), options.feather)
            task = replace(task, mask=torch.from_numpy(cells)[None].to(latents))
        if last is not None and last[0] == (plain, ratio, level):
            edited = last[1]
        else:
            edited = resize_image(backbone.decode(EDIT_METHODS[plain].run(task)), size)
        last = (plain, ratio, level), edited
        if method == SHIPPED:
            edited = composite(image, edited, mask, options.seam)
        yield (method, ratio, level), edited


def _beside_its_twin(setting: tuple[str, float | None, float | None]) -> tuple[Any, ...]:
    """Sorts the composited edit right after the same edit without compositing."""
    method, ratio, level = setting
    plain = "diffedit" if method == SHIPPED else method
    return ratio or 0, level or 0, plain, method == SHIPPED


def _figures(
    backbone: Backbone,
    image: np.ndarray,
    edited: np.ndarray,
    region: np.ndarray,
    category: str,
    prompt: str,
    run: EditRun,
    judges: Judges,
) -> dict[str, float | None]:
    from textseg.editing import removal_prompt
    from textseg.prompts import pair_for

    source = pair_for(backbone, category, "null").query
    if prompt:
        target = pair_for(backbone, prompt, "null").query
    else:
        target = removal_prompt(backbone, category)
    figures: dict[str, float | None] = {
        "psnr": background_psnr(image, edited, region),
        "ssim": background_ssim(image, edited, region),
        "change": change_inside(image, edited, region),
    }
    figures |= evidence_inside(backbone, edited, region, source, target, draws=run.draws)
    if judges.lpips is not None:
        figures["lpips"] = background_lpips(judges.lpips, image, edited, region)
    if judges.clip is not None:
        figures["clip"] = judges.clip.score(edited, prompt or target)
    return figures


def _folder(folder: Path, setting: tuple[str, float | None, float | None]) -> Path:
    return folder / "images" / "-".join(str(part) for part in setting if part is not None)


def _save(folder: Path, setting: Any, image_id: int | str, edited: np.ndarray) -> None:
    from PIL import Image

    place = _folder(folder, setting)
    place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(edited).save(place / f"{image_id}.png")


def _rows(
    run: EditRun, records: Sequence[Record], folder: Path, judges: Judges
) -> list[dict[str, Any]]:
    """Means over images with 95 % intervals (bootstrap over images), one row per setting."""
    good = [r for r in records if "error" not in r]
    if not good:
        return []
    weights = np.stack([replicate_weights(r["image_id"], 0, 1000) for r in good]).astype(float)
    inputs: np.ndarray | None = None
    table = []
    for setting in run.settings():
        keyed = dict(zip(("method", "ratio", "level"), setting, strict=True))
        rows = [next(row for row in r["rows"] if {k: row[k] for k in keyed} == keyed) for r in good]
        line: dict[str, Any] = {**keyed}
        for name in FIGURES:
            values = np.array([np.nan if row.get(name) is None else row[name] for row in rows])
            if np.isnan(values).all():
                continue
            there = ~np.isnan(values)
            # A replicate that drew none of these images says nothing of them.
            means = counters.ratio(weights[there].T @ values[there], weights[there].sum(0))
            low, high = np.nanpercentile(means[1:], [2.5, 97.5])
            line[name] = {"mean": float(means[0]), "low": float(low), "high": float(high)}
        if judges.inception is not None:
            if inputs is None:
                inputs = _features(judges.inception, [_path(run, r["image_id"]) for r in good])
            made = [_folder(folder, setting) / f"{r['image_id']}.png" for r in good]
            line["fid"] = frechet_distance(inputs, _features(judges.inception, made))
        table.append(line)
    return table


def _path(run: EditRun, image_id: int | str) -> Path:
    return Path(next(e.path for e in run.dataset.examples if e.image_id == image_id))


def _features(network: Scripted, paths: Sequence[Path]) -> np.ndarray:
    from textseg.image import load_image

    return np.stack([network.features(load_image(path)).numpy() for path in paths])
