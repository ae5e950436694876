"""The whole recipe, stage by stage; each stage leaves a file and is skipped when it lies there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ...english import with_article
from ...errors import InputError
from ...saving import encode_picture, write_atomic
from .. import runs
from .analysis import analysis_of, fit_analysis, to_pixels
from .autoencoder import build_autoencoder, train_decoder
from .export import export_pipeline
from .mixture import Mixture, scene_batches
from .nouns import NOUNS
from .options import TrainOptions
from .photos import cut_out, read_photos
from .scenes import SceneOptions, crop_photo, load_backgrounds, split_backgrounds
from .semantics import Semantics, fit_semantics, tune_semantics
from .sprites import STYLES, build_drawings, load_sprites, split_cutouts
from .subjects import cut_subjects
from .trainer import Trainer

SIZES: tuple[tuple[int, int], ...] = ((192, 192), (192, 192), (160, 224), (224, 160))
SPRITE_SIDE = 160
SEMANTIC_SCENES = 4000
# New scenes of a step in tuning the classifier.
TUNING_SCENES = 6
SCENES: dict[str, Any] = {"scale": (0.22, 0.8), "blend": 0.4, "degrade": 0.6, "restyle": 0.4}
# The others are for calibration and evaluation.
TRAINED_STYLES = tuple(s for s in STYLES if s not in ("openmoji", "emojione-v1"))


@dataclass(frozen=True)
class Sources:
    """Training material.

    Attributes:
        packages: a `node_modules` folder with some of the npm packages of `sprites.STYLES`.
        drawings: folders of drawn cutouts, `FOLDER/NOUN/*.png`.
        cutouts: folders of photographed cutouts, the same; every fifth file of a noun, in the order
            of names, is held out for validation.
        backgrounds: folders of photographs; the last 15 % of each, by name, are held out.
        coco: pairs of image folder and COCO instance file.
        photos: folders of photographs of one main object, `FOLDER/NOUN/*.jpg`; its mask is found
            (`subjects.subject_mask`), and it serves whole and as a cutout.
        skip: a text file of photographs to leave out, `NOUN/NAME` a line.
    """

    packages: Path | None = None
    drawings: Sequence[Path] = ()
    cutouts: Sequence[Path] = ()
    backgrounds: Sequence[Path] = ()
    coco: Sequence[tuple[Path, Path]] = ()
    photos: Sequence[Path] = ()
    skip: Path | None = None


def load_mixture(sources: Sources, work: Path) -> Mixture:
    """Reads all sources into memory; drawings of npm packages are sorted into `work/drawings`."""
    drawings = list(sources.drawings)
    if sources.packages is not None:
        built = work / "drawings"
        if not built.exists():
            here = [s for s in TRAINED_STYLES if (sources.packages / STYLES[s][0]).is_dir()]
            build_drawings(sources.packages, built, here, SPRITE_SIDE)
        drawings += [folder for folder in sorted(built.iterdir()) if folder.is_dir()]
    photographed, _ = split_cutouts(load_sprites(sources.cutouts, SPRITE_SIDE))
    sets = [read_photos(images, file) for images, file in sources.coco]
    for photos in sets:
        for noun, found in cut_out(photos).items():
            if noun in NOUNS:
                photographed.setdefault(noun, []).extend(found)
    skip = frozenset(sources.skip.read_text().split("\n") if sources.skip else ())
    portraits = list(cut_subjects(sources.photos, skip, work / "subjects"))
    for noun, found in cut_out(portraits).items():
        photographed.setdefault(noun, []).extend(found)
    backgrounds: list[np.ndarray] = []
    for folder in sources.backgrounds:
        backgrounds += split_backgrounds(load_backgrounds(folder))[0]
    drawn = load_sprites(drawings, SPRITE_SIDE)
    if not drawn and not photographed and not sets:
        raise InputError("sources must hold drawings, cutouts, photos or a COCO set, got none")
    return Mixture(
        drawn, photographed, backgrounds, sets, portraits, options=SceneOptions(**SCENES)
    )


class _Stream(torch.utils.data.IterableDataset):
    def __init__(self, mixture: Mixture, batch: int, seed: int) -> None:
        self.mixture, self.batch, self.seed = mixture, batch, seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from scene_batches(self.mixture, NOUNS, SIZES, self.batch, self.seed)


def _batches(mixture: Mixture, batch: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    # OpenCV's threads do not survive the fork, and a child that then asks for them waits for ever.
    cv2.setNumThreads(1)
    yield from torch.utils.data.DataLoader(
        _Stream(mixture, batch, seed), batch_size=None, num_workers=1, prefetch_factor=4
    )


def _decoder_images(mixture: Mixture, seed: int) -> Iterator[torch.Tensor]:
    for batch in _batches(mixture, 16, seed):
        whole = to_pixels(batch["images"][:, 0])
        y, x = (int(v) for v in torch.randint(0, (whole.shape[2] - 128) // 8 + 1, (2,)) * 8)
        yield whole[:, :, y : y + 128, x : x + 128]


@dataclass(frozen=True)
class _Stages:
    """The parts of the autoencoder: each is what lies in `work`, or that of the autoencoder
    `given`, or made now."""

    mixture: Mixture
    work: Path
    given: Any | None
    progress: Callable[[str, runs.Row], object]

    def analysis(self) -> torch.nn.Conv2d:
        file = self.work / "analysis.pt"
        if file.exists():
            return analysis_of(*torch.load(file, weights_only=True))
        if self.given is not None:
            return self.given.analysis.float().requires_grad_(False)
        rng = np.random.default_rng(3)
        images = [self.mixture.sample(rng, SIZES[0]).image for _ in range(500)]
        grounds = self.mixture.backgrounds
        for _ in range(200 if len(grounds) else 0):
            images.append(crop_photo(rng, grounds[int(rng.integers(len(grounds)))], *SIZES[0]))
        analysis = fit_analysis(np.stack(images))
        torch.save(tuple(analysis.state_dict().values()), file)
        return analysis

    def semantics(self, minutes: float) -> Semantics:
        """The view of the classifier, which is tuned for some minutes."""
        file = self.work / "semantics.pt"
        if file.exists():
            return Semantics.given(torch.load(file, weights_only=True))
        if self.given is not None:
            found = Semantics.of(self.given)
        else:
            found = fit_semantics(_batches(self.mixture, 16, 500), len(NOUNS), SEMANTIC_SCENES)
        if minutes > 0:
            batches = _batches(self.mixture, TUNING_SCENES, 600)
            found = tune_semantics(
                found, batches, len(NOUNS), 60 * minutes, self.work / "tuning.pt",
                progress=self._report("features"),
            )  # fmt: skip
        torch.save(found.state, file)
        return found

    def autoencoder(self, analysis: torch.nn.Conv2d, semantics: Semantics, minutes: float) -> Any:
        """The whole of it, the decoder trained for some minutes."""
        file = self.work / "decoder.pt"
        vae = build_autoencoder(analysis, semantics)
        if file.exists():
            vae.decoder.load_state_dict(torch.load(file, weights_only=True))
        elif self.given is not None:
            vae.decoder.load_state_dict(self.given.decoder.float().state_dict())
        else:
            (self.work / "decoder.jsonl").unlink(missing_ok=True)
            images = _decoder_images(self.mixture, 7)
            train_decoder(vae, analysis, images, 60 * minutes, self._report("decoder"))
            torch.save(vae.decoder.state_dict(), file)
        return vae

    def _report(self, stage: str) -> runs.Report:
        def report(row: runs.Row) -> None:
            runs.log_row(self.work / f"{stage}.jsonl", row)
            self.progress(stage, row)

        return report


def _given_autoencoder(folder: Path) -> Any:
    from ...backbone.semantic_autoencoder import SemanticAutoencoder

    return SemanticAutoencoder.from_pretrained(folder / "vae", local_files_only=True)


def train_model(
    sources: Sources,
    work: Path,
    out: Path,
    options: TrainOptions,
    *,
    feature_minutes: float = 30.0,
    decoder_minutes: float = 20.0,
    init: Path | None = None,
    progress: Callable[[str, runs.Row], object] = lambda stage, row: None,
) -> None:
    """Trains the embedded model and writes its pipeline folder.

    Args:
        sources: see `Sources`.
        work: checkpoints and logs; a second call with the same folder goes on where it stopped.
        out: the pipeline folder.
        options: see `TrainOptions`.
        feature_minutes: training time of the latents' classifier; 0 leaves it as it is.
        decoder_minutes: training time of the autoencoder's decoder; with `init` it is kept.
        init: a folder written by this function to start from.
        progress: called with a stage's name and a row of its log.
    """
    work.mkdir(parents=True, exist_ok=True)
    mixture = load_mixture(sources, work)
    given = None if init is None else _given_autoencoder(init)
    stages = _Stages(mixture, work, given, progress)
    analysis, semantics = stages.analysis(), stages.semantics(feature_minutes)
    trainer = Trainer(work, analysis, semantics, NOUNS, options, init)
    if trainer.elapsed < options.hours * 3600:
        batches = _batches(mixture, options.fresh, 1000 + trainer.step)
        trainer.run(batches, partial(progress, "unet"))
    vae = stages.autoencoder(analysis, semantics, decoder_minutes)
    unet, text = trainer.averaged
    export_pipeline(
        out, unet=unet, text_encoder=text, vae=vae, tokenizer=trainer.tokenizer,
        words=trainer.words, nouns=NOUNS,
    )  # fmt: skip
    _draw_samples(out, work / "samples.png")


def _draw_samples(folder: Path, file: Path) -> None:
    """Two rows of four generated images, to look at."""
    from ...backbone import load
    from ...generation import generate

    prompts = [f"a photo of {with_article(n)}" for n in ("dog", "car", "apple", "tree")]
    made = generate(prompts, count=2, model=load(folder), steps=25, guidance_scale=3.0)
    rows = [np.concatenate([g.image for g in made[i::2]], axis=1) for i in (0, 1)]
    note = {"prompts": prompts, "model": str(folder)}
    write_atomic(file, encode_picture(np.concatenate(rows), ".png", note))
