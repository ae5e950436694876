"""The whole recipe, stage by stage; each leaves a file in the work folder, is gone on with where it
was cut short, and is skipped where it is done."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..._version import __version__
from ...backbone.latent import pick_device
from ...backbone.quiet import quietly
from ...english import with_article
from ...errors import InputError
from ...saving import encode_picture, write_atomic
from .. import runs
from ..mini.export import CAVEATS, export_pipeline, keep_in_eight_bits
from .autoencoder import build_autoencoder, encode_pool, train_autoencoder
from .denoiser import DenoiserRun
from .drawings import Drawings, prepare
from .options import PainterOptions

# Pictures that the autoencoder is trained on, at most.
_SEEN = 4000
_SHEET_COLUMNS = 10
_SHEET_PROMPTS = ("a drawing of {a}", "a drawing of {a}", "a photo of {a}")
_TOLD: dict[str, Any] = {
    "edit": {"guidance_scale": 5.0, "encode_ratio": 0.9, "steps": 25, "crop": 0.2},
    "generate": {"guidance_scale": 3.0, "steps": 25},
    "caveats": {"paint": CAVEATS["paint"]},
}

Progress = Callable[[str, runs.Row], object]


@dataclass(frozen=True)
class PainterSources:
    """Training material; none is needed where the work folder holds `drawings.npz`.

    Attributes:
        packages: a `node_modules` folder with some of the npm packages of `mini.sprites.STYLES`.
        drawings: folders of drawn cutouts `FOLDER/NOUN/*.png`, one a style, which captions call by
            the folder's name.
        backgrounds: folders of photographs; the last 15 % of each, by name, are held out.
    """

    packages: Path | None = None
    drawings: Sequence[Path] = ()
    backgrounds: Sequence[Path] = ()


def _autoencoder(
    drawings: Drawings, work: Path, o: PainterOptions, device: torch.device, report: runs.Report
) -> Any:
    """The one in `work`, or one that is trained now."""
    file = work / "autoencoder.pt"
    vae = build_autoencoder(sample_size=o.side)
    if not file.exists():
        trained = train_autoencoder(
            drawings, work / "autoencoder-state.pt", device, 60 * o.autoencoder_minutes, report,
            o.save_every, o.seed, min(o.pool, _SEEN),
        )  # fmt: skip
        runs.save_state(file, trained.cpu().half().state_dict())
    vae.load_state_dict(torch.load(file, weights_only=True))
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def _pool(
    vae: Any, drawings: Drawings, work: Path, o: PainterOptions, device: torch.device,
    report: runs.Report,
) -> dict[str, torch.Tensor]:  # fmt: skip
    file = work / "pool.pt"
    if file.exists():
        kept = torch.load(file, weights_only=True)
        if len(kept["latents"]) == o.pool:
            return kept
    made = encode_pool(
        vae, drawings, o.pool, o.seed, device, lambda done: report({"step": done, "seconds": 0})
    )
    runs.save_state(file, made)
    return made


def _draw_sheet(run: DenoiserRun, vae: Any, nouns: Sequence[str], folder: Path) -> None:
    """Rows of painted pictures, to look at: `samples-SCENES.png`."""
    count = len(_SHEET_PROMPTS) * _SHEET_COLUMNS
    named = [nouns[i * len(nouns) // count] for i in range(count)]
    texts = [_SHEET_PROMPTS[i // _SHEET_COLUMNS].format(a=with_article(n))
             for i, n in enumerate(named)]  # fmt: skip
    with torch.no_grad():
        pixels = vae.decode(run.paint(texts, 0)).sample.clamp(-1, 1)
    images = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(images[i : i + _SHEET_COLUMNS], 1)
            for i in range(0, count, _SHEET_COLUMNS)]  # fmt: skip
    note = {"textseg": __version__, "prompts": texts, "scenes": run.scenes}
    picture = encode_picture(np.concatenate(rows), ".png", note)
    write_atomic(folder / f"samples-{run.scenes:08d}.png", picture)


def _export(run: DenoiserRun, vae: Any, nouns: Sequence[str], out: Path) -> None:
    """Writes the model as it is now; what was there before stays until it is whole."""
    unet, text, decoder = (copy.deepcopy(part).cpu() for part in (*run.averaged, vae))
    new, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir(parents=True)
    with quietly():
        export_pipeline(
            new, unet=unet, text_encoder=text, vae=decoder, tokenizer=run.tokenizer,
            words=run.words, nouns=nouns, told=_TOLD,
        )  # fmt: skip
    for part in ("unet", "vae"):
        keep_in_eight_bits(new / part / "diffusion_pytorch_model.safetensors")
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def train_painter(
    sources: PainterSources,
    work: Path,
    out: Path,
    options: PainterOptions,
    *,
    device: str | None = None,
    prepare_only: bool = False,
    progress: Progress = lambda stage, row: None,
    **changed: Any,
) -> None:
    """Trains a small text-to-image model that paints, and writes its pipeline folder, at each
    checkpoint anew.

    Args:
        sources: see `PainterSources`.
        work: checkpoints, logs and sheets of samples; a second call with the same folder goes on
            where it stopped.
        out: the pipeline folder.
        options: see `PainterOptions`.
        device: "cpu", "cuda", ...; the best there is if None.
        prepare_only: stop when `work` holds `drawings.npz` and `autoencoder.pt`, from which the
            rest can be trained on a machine that has nothing else.
        progress: called with a stage's name, "autoencoder", "pool" or "denoiser", and a row of its
            log.
        changed: entries of `painter.json`'s "unet" to replace.

    Raises:
        InputError: no drawings, or a side that is no multiple of 32 or not that of `work`.
    """
    if options.side % 32:
        raise InputError(f"side must be a multiple of 32, got {options.side}")
    work.mkdir(parents=True, exist_ok=True)
    where = pick_device(device)

    def report(stage: str, row: runs.Row) -> None:
        runs.log_row(work / f"{stage}.jsonl", row)
        progress(stage, row)

    drawings = prepare(
        sources.packages, sources.drawings, sources.backgrounds, work / "drawings.npz", options.side
    )
    vae = _autoencoder(drawings, work, options, where, partial(report, "autoencoder"))
    if prepare_only:
        return
    pool = _pool(vae, drawings, work, options, where, partial(progress, "pool"))
    run = DenoiserRun(
        pool, drawings.noun_names, drawings.style_words, options, work / "denoiser.pt", where,
        **changed,
    )  # fmt: skip

    def save() -> None:
        run.save()
        _draw_sheet(run, vae, drawings.noun_names, work)
        _export(run, vae, drawings.noun_names, out)

    def count(row: runs.Row) -> None:
        speed = run.scenes / max(run.elapsed, 1e-9)
        report("denoiser", {**row, "scenes": run.scenes, "scenes_per_second": round(speed, 1)})

    runs.run_for(run, 3600 * options.hours, count, save, options.save_every, run.used)
