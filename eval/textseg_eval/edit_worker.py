"""One image edited in every setting of a run, measured and pictured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from textseg.errors import InputError
from textseg.faults import Guard
from textseg.workers import Threads

from .datasets import Example
from .edit_metrics import (
    Clip,
    Scripted,
    background_lpips,
    background_psnr,
    background_ssim,
    change_inside,
    evidence_inside,
)
from .edit_plan import MASKED, SHIPPED, EditRun, Setting
from .records import Record

if TYPE_CHECKING:
    from textseg.backbone.base import Backbone

BEFORE, MASK = "before", "mask"
"""Pictures of the report that no method made."""
SIDE = 256
"""Longer side of the report's pictures, in pixels."""
FOUND, ANNOTATED = (230, 57, 70), (29, 126, 214)
"""Colours of the region that is edited and of the outline of the annotated one."""


@dataclass(frozen=True)
class Judges:
    """Measures that need weights of their own; left out where None."""

    lpips: Scripted | None = None
    clip: Clip | None = None
    inception: Scripted | None = None


@dataclass(frozen=True)
class JudgeFiles:
    """Where the weights of `Judges` lie; travels to worker processes."""

    lpips: Path | None = None
    clip: Path | None = None
    inception: Path | None = None

    def load(self) -> Judges:
        return Judges(
            Scripted(self.lpips, resize_images=False, return_lpips=True) if self.lpips else None,
            Clip(self.clip) if self.clip else None,
            Scripted(self.inception, return_features=True) if self.inception else None,
        )


@dataclass(frozen=True)
class EditJob:
    """What every worker does, the same for all images.

    Attributes:
        run: what to edit and how.
        folder: of the results.
        model, device, dtype: as in `textseg.load`.
        judges: files of the measures that need weights.
        threads: threads of each worker.
    """

    run: EditRun
    folder: Path
    model: str
    device: str | None
    dtype: str | None
    judges: JudgeFiles
    threads: int


def editor(job: EditJob) -> Callable[[Example], Record]:
    """What one worker process does."""
    from textseg.backbone import load

    threads = Threads(job.threads)
    backbone = load(job.model, device=job.device, dtype=job.dtype)
    judges = job.judges.load()

    def edit(example: Example) -> Record:
        threads.hold()
        return record_of(job.run, backbone, example, job.folder, judges)

    return edit


def record_of(
    run: EditRun, backbone: Backbone, example: Example, folder: Path, judges: Judges
) -> Record:
    """The record of one image; of a failure, with a `Fault`'s fields. Leaves the pictures of the
    report in the folder, and every edited image where the run saves them or an FID is asked for."""
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
        shown, pictured_mask = run.shown(), None
        for setting, edited, mask in _edits(run, backbone, image, region, category, prompt):
            guard.at("save")
            if run.save_images or judges.inception is not None:
                _save(image_path(folder, setting, example.image_id), edited)
            if setting in shown:
                pictured_mask = mask if mask is not None else pictured_mask
                _save_small(picture_path(folder, setting.method, example.image_id), edited)
            guard.at("score")
            figures = _figures(backbone, image, edited, region, category, prompt, run, judges)
            rows.append(setting._asdict() | figures)
            guard.at("edit")
        guard.at("save")
        _save_small(picture_path(folder, BEFORE, example.image_id), image)
        drawn = _with_regions(image, pictured_mask, region)
        _save_small(picture_path(folder, MASK, example.image_id), drawn)
        return head | {"category": category, "prompt": prompt, "rows": rows}
    return head | guard.fault.record()


def _edits(
    run: EditRun,
    backbone: Backbone,
    image: np.ndarray,
    region: np.ndarray,
    category: str,
    prompt: str,
) -> Iterator[tuple[Setting, np.ndarray, np.ndarray | None]]:
    """The image edited in every setting, (H, W, 3) uint8, and the region that was edited, (H, W)
    bool, where the method has one; encoded once for all settings."""
    import torch

    from textseg.cutting import remask
    from textseg.edit_methods import EDIT_METHODS, LatentTask
    from textseg.editing import composite, latent_mask, removal_prompt
    from textseg.filling import grow_region
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
    for setting in sorted(run.settings(), key=_beside_its_twin):
        method, ratio, level, scale = setting
        if ratio is None or scale is None:
            yield setting, resize_image(backbone.decode(latents), size), None
            continue
        plain = "diffedit" if method == SHIPPED else method
        grow = run.options.grow if method == SHIPPED and found is not None else 0.0
        options = replace(run.options, encode_ratio=ratio, guidance_scale=scale)
        task, mask = replace(base, options=options), None
        if plain in MASKED:
            mask = region
            if found is not None:
                mask = found.mask if level is None else remask(found, level=level).mask
            mask = grow_region(mask, grow)
            cells = latent_mask(mask, (latents.shape[-2], latents.shape[-1]), options.feather)
            task = replace(task, mask=torch.from_numpy(cells)[None].to(latents))
        same = plain, ratio, level, scale, grow
        if last is not None and last[0] == same:
            edited = last[1]
        else:
            edited = resize_image(backbone.decode(EDIT_METHODS[plain].run(task)), size)
        last = same, edited
        if method == SHIPPED and mask is not None:
            edited = composite(image, edited, mask, options.seam)
        yield setting, edited, mask


def _beside_its_twin(setting: Setting) -> tuple[Any, ...]:
    """Sorts the composited edit right after the same edit without compositing."""
    method, ratio, level, scale = setting
    plain = "diffedit" if method == SHIPPED else method
    return ratio or 0, level or 0, scale or 0, plain, method == SHIPPED


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


def image_path(folder: Path, setting: Setting, image_id: int | str) -> Path:
    """Where an edited image is kept."""
    place = "-".join(str(part) for part in setting if part is not None)
    return folder / "images" / place / f"{quote(str(image_id), safe=' ')}.png"


def picture_path(folder: Path, what: str, image_id: int | str) -> Path:
    """Where a picture of the report is kept: `BEFORE`, `MASK` or a method's."""
    return folder / "pictures" / what / f"{quote(str(image_id), safe=' ')}.jpg"


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _save_small(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=85)


def _with_regions(image: np.ndarray, mask: np.ndarray | None, region: np.ndarray) -> np.ndarray:
    """The image with the edited region tinted and the annotated one outlined."""
    import cv2

    from textseg.drawing import tint

    drawn = image.copy() if mask is None else tint(image, mask, FOUND, 0.5)
    lines, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(region.shape) / 128))
    return np.asarray(cv2.drawContours(drawn, lines, -1, ANNOTATED, width))
