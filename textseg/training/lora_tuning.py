"""LoRA tuning from a data set to a file: held-out figures before and after, and what to save."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ..errors import InputError, OutputError
from ..options import ContrastOptions
from ..progress import Progress, report
from ..saving import write_atomic
from .calibrate import Question, ask, fit_presence, fit_threshold, mean_iou
from .captions import PROMPTS
from .lora import WEIGHTS_FILE, LoraTrainer, make_accelerator, run_steps, save_lora
from .lora_data import AnnotatedImages
from .lora_options import LoraOptions

if TYPE_CHECKING:
    from ..backbone.latent_unet import LatentUNet

REFERENCES = ("null", "absent")
"""The pairings measured before and after: the query against nothing, as DiffEdit does, and nothing
against the query's absence, which the tuning teaches."""


@dataclass(frozen=True)
class Figures:
    """Contrast on the held-out images, without refinement.

    Attributes:
        queries: how many (image, noun) pairs.
        everything: mean IoU of marking the whole image.
        before, after: mean IoU by pairing.
    """

    queries: int
    everything: float
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class TuneJob:
    """What is tuned on what, and what is made of it.

    Attributes:
        init: what `load` takes: a model of the Stable Diffusion 1 and 2 class.
        images, annotations: a COCO-format instance set.
        out: written: `pytorch_lora_weights.safetensors`, and `textseg.json` with the nouns and, if
            some images are held out, the calibration found on them.
        work: checkpoints, log and the held-out set; `out` if None. The same job again goes on where
            the last one stopped.
        validate: images to hold out, for the figures.
        samples: noise draws of the figures.
        merge: also write the tuned model as a pipeline folder of its own.
        device: as for `load`.
    """

    init: str | os.PathLike[str]
    images: Path
    annotations: Path
    out: Path
    work: Path | None = None
    validate: int = 0
    samples: int = 2
    merge: Path | None = None
    device: str | None = None


def tune(job: TuneJob, options: LoraOptions, progress: Progress | None = None) -> Figures | None:
    """Tunes a model on an annotated set.

    Args:
        progress: called with stage "before", "tune" or "after".

    Returns:
        The figures, in the main process, where images are held out; also in `work/figures.json`.

    Raises:
        InputError: a bad set, another family of model, or other options than the run began with.
        MissingDependencyError: the extra `train` is not installed.
    """
    if job.merge is not None and job.merge.exists() and any(job.merge.iterdir()):
        raise InputError(f"merge must be a new or empty folder, got {str(job.merge)!r}")
    source = AnnotatedImages(job.images, job.annotations)
    if not source.records:
        raise InputError(
            f"annotations must hold annotated images, got none in {str(job.annotations)!r}"
        )
    accelerator = make_accelerator(options, job.device)
    work = job.work or job.out
    held_out = work / "held-out.json"
    if job.validate:
        source.hold_out(job.validate, options.seed, held_out)
    loaded = _load_base(job, options, accelerator)
    record = vocabulary(loaded.calibration, source.nouns)
    model = with_calibration(loaded, loaded.calibration | record)
    main = accelerator.is_main_process
    progress = progress if main else None
    if main:
        work.mkdir(parents=True, exist_ok=True)
        _write_json(work / "options.json", asdict(options))
    trainer = LoraTrainer(model, options, accelerator, work)
    before: dict[str, float] = {}
    if job.validate and main:
        file = work / "figures-before.json"
        if not file.exists():
            with without_adapter(trainer):
                asked = measure_held_out(
                    model, job.images, held_out, job.samples, progress, "before"
                )
            _write_json(file, {name: cross_iou(found) for name, found in asked.items()}, None)
        before = json.loads(file.read_text())
    accelerator.wait_for_everyone()
    run_steps(trainer, source, progress)
    if not main:
        return None
    figures = None
    if job.validate:
        with evaluating(trainer):
            after = measure_held_out(model, job.images, held_out, job.samples, progress, "after")
        there = [q.truth for q in after["absent"] if q.truth is not None]
        everything = float(np.mean([truth.mean() for truth in there]))
        figures = Figures(
            len(there), everything, before, {name: cross_iou(q) for name, q in after.items()}
        )
        _write_json(work / "figures.json", asdict(figures))
        record |= calibration_of(after["absent"], job.samples)
    record["lora"] = {"base": os.fspath(job.init), "rank": options.rank, "steps": trainer.step}
    save_lora(job.out, trainer.state(), options.scale)
    write_atomic(job.out / "textseg.json", (json.dumps(record, indent=1) + "\n").encode())
    if job.merge is not None:
        merge_lora(job.init, job.out, job.merge)
    return figures


def _load_base(job: TuneJob, options: LoraOptions, accelerator: Any) -> LatentUNet:
    from ..backbone import load

    place = job.device
    if place is None or accelerator.num_processes > 1:
        place = str(accelerator.device)
    dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(options.mixed_precision, "float32")
    loaded = load(job.init, device=place, dtype=dtype)
    if not loaded.lora_trainable:
        raise InputError(
            f"init must be a model of the Stable Diffusion 1 or 2 class, got {str(job.init)!r} of "
            f"family {loaded.family!r}"
        )
    return cast("LatentUNet", loaded)


def _write_json(file: Path, value: Any, indent: int | None = 1) -> None:
    write_atomic(file, json.dumps(value, indent=indent).encode())


def vocabulary(calibration: Mapping[str, Any], nouns: Sequence[str]) -> dict[str, Any]:
    """What a model knows after it was tuned on `nouns`: the keys of `textseg.json` that change.

    Words and nouns only for models whose vocabulary is closed, which else would refuse the new
    ones.
    """
    record: dict[str, Any] = {
        "prompts": dict(calibration.get("prompts") or PROMPTS),
        "contrast": {**calibration.get("contrast", {}), "reference": "absent"},
    }
    record["prompts"].setdefault("absent", PROMPTS["absent"])
    lowered = [noun.lower() for noun in nouns]
    if calibration.get("nouns"):
        record["nouns"] = list(dict.fromkeys([*calibration["nouns"], *lowered]))
    if calibration.get("words"):
        words = [w for noun in lowered for w in noun.split()]
        record["words"] = sorted({*calibration["words"], *words})
    return record


def with_calibration(model: LatentUNet, calibration: dict[str, Any]) -> LatentUNet:
    """The same networks with another `textseg.json`."""
    return type(model)(model.pipe, model.name, calibration)


@contextlib.contextmanager
def evaluating(trainer: LoraTrainer) -> Iterator[None]:
    """The UNet as it is used, not as it is trained."""
    unet = trainer.model.unet
    mode = unet.training
    unet.eval()
    try:
        yield
    finally:
        unet.train(mode)


@contextlib.contextmanager
def without_adapter(trainer: LoraTrainer) -> Iterator[None]:
    """The model as it was before tuning."""
    unet = trainer.model.unet
    unet.disable_adapters()
    try:
        with evaluating(trainer):
            yield
    finally:
        unet.enable_adapters()


def measure_held_out(
    model: LatentUNet,
    images: Path,
    held_out: Path,
    samples: int,
    progress: Progress | None = None,
    stage: str = "measure",
) -> dict[str, list[Question]]:
    """The held-out queries by pairing, at the noise levels of `calibrate`."""
    found = {}
    for number, reference in enumerate(REFERENCES):
        options = ContrastOptions(reference=reference, samples=samples, batch_size=samples)

        def step(done: int, total: int, _: str, number: int = number) -> None:
            report(progress, number * total + done, len(REFERENCES) * total, stage)

        found[reference] = ask(model, images, held_out, options, progress=step)
    return found


def cross_iou(questions: Sequence[Question]) -> float:
    """Mean IoU of the thresholded contrast, without refinement.

    Noise level and threshold for the queries of one half of the images are those that are best on
    the other half, so that a figure is not flattered by what was fitted to it. With one image,
    they are fitted to it.
    """
    images = list(dict.fromkeys(id(q.image) for q in questions if q.truth is not None))
    if not images:
        raise InputError("the held-out images must hold objects to ask for, got none")
    if len(images) == 1:
        return fit_threshold(questions)[2]
    chosen = set(images[::2])
    halves = [[q for q in questions if (id(q.image) in chosen) == side] for side in (True, False)]
    total = count = 0.0
    for fitted, scored in (halves, halves[::-1]):
        strengths, options, _, _ = fit_threshold(fitted)
        there = sum(q.truth is not None for q in scored)
        total, count = total + there * mean_iou(scored, strengths, options), count + there
    return total / count


def calibration_of(questions: Sequence[Question], samples: int) -> dict[str, Any]:
    """Noise level, threshold and presence for `textseg.json`, fitted to the held-out queries."""
    strengths, options, _, _ = fit_threshold(questions)
    contrast = ContrastOptions(
        reference="absent", strength=strengths, samples=max(samples, 4), batch_size=max(samples, 4)
    )
    record: dict[str, Any] = {"contrast": asdict(contrast)}
    least = 0.0
    if any(q.truth is None for q in questions):
        record["presence"], _, least = fit_presence(questions, strengths)
    refined = replace(
        options, crf=True, min_area=0.001, max_hole=0.001, min_presence=round(least, 3)
    )
    return record | {"refine": asdict(refined)}


def merge_lora(init: str | os.PathLike[str], lora: Path, out: Path) -> None:
    """Writes a pipeline folder whose UNet has the LoRA added in; textseg and diffusers load it.

    The weights keep the precision of the model they come from.

    Raises:
        OutputError: `out` is there already.
    """
    from diffusers import UNet2DConditionModel
    from safetensors import safe_open
    from safetensors.torch import load_file

    from ..backbone.registry import check_model, find_model, read_json

    base = find_model(init)
    variant = check_model(base)["unet"]
    unet: Any = UNet2DConditionModel.from_pretrained(
        base / "unet", variant=variant, local_files_only=True, use_safetensors=True,
        low_cpu_mem_usage=False,
    )  # fmt: skip
    first = next((base / "unet").glob("*.safetensors"))
    with safe_open(first, framework="pt") as weights:
        dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    unet.float().load_lora_adapter(load_file(lora / WEIGHTS_FILE), prefix="unet")
    unet.fuse_lora()
    unet.unload_lora()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.parent / f".textseg-{secrets.token_hex(8)}.tmp"
    try:
        shutil.copytree(base, temporary, ignore=_unet_weights(base / "unet"))
        # diffusers' own `to` logs a warning that does not apply here.
        torch.nn.Module.to(unet, dtype)
        unet.save_pretrained(temporary / "unet", safe_serialization=True)
        record = read_json(base / "textseg.json", base) if (base / "textseg.json").is_file() else {}
        record |= read_json(lora / "textseg.json", lora)
        (temporary / "textseg.json").write_text(json.dumps(record, indent=1) + "\n")
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    except OSError as error:
        raise OutputError(f"cannot write {str(out)!r}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unet_weights(unet: Path) -> Any:
    def ignored(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if Path(folder) == unet and n != "config.json"]

    return ignored
