"""Mask-guided decoding against the paper's equations, and what `edit` promises about pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone

from textseg.edit_methods import (
    EDIT_METHODS,
    LatentTask,
    diffedit,
    diffedit_no_encoding,
    encode_decode,
    opencv_inpaint,
    poisson,
    sdedit,
)
from textseg.editing import UNUSED_PROMPT, Steps, composite, crop_box, edit, latent_mask
from textseg.errors import CancelledError, InputError, ModelError
from textseg.generation import generate
from textseg.options import EditOptions
from textseg.segmenter import Segmenter

LATENT_METHODS = {name: way.run for name, way in EDIT_METHODS.items() if way.over == "latents"}
BACKBONES = ("eps_backbone", "v_backbone")
OPTIONS = EditOptions(encode_ratio=0.6, steps=10, guidance_scale=3.0, negative_prompt="the cat")


def _draw(seed: int) -> torch.Tensor:
    return torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(seed))


def _task(backbone: Any, mask: torch.Tensor | float, options: EditOptions = OPTIONS) -> LatentTask:
    region = mask if isinstance(mask, torch.Tensor) else torch.full((1, 6, 10), mask)
    return LatentTask(backbone, _draw(0), region, _draw(1), "a dog", options)


def _half() -> torch.Tensor:
    mask = torch.zeros(1, 6, 10)
    mask[:, 1:5, 2:7] = 1
    mask[:, 1, 2:7] = 0.25
    return mask


class Plain:
    """DiffEdit's steps 2 and 3 as the paper writes them, on lists indexed by the level."""

    def __init__(self, backbone: Any, options: EditOptions) -> None:
        stride = 1000 // options.steps
        count = round(options.encode_ratio * options.steps)
        self.t = [-1] + [stride * (i + 1) - 1 for i in range(count)]
        self.a = [backbone.alpha_bar(t) for t in self.t]
        self.backbone, self.options = backbone, options

    def eps(self, x: torch.Tensor, t: int, prompt: str) -> torch.Tensor:
        return self.backbone.predict(x.float()[None], t, self.backbone.embed([prompt])[0])[
            0
        ].double()

    def moved(self, x: torch.Tensor, eps: torch.Tensor, here: float, there: float) -> torch.Tensor:
        x0 = (x.double() - math.sqrt(1 - here) * eps) / math.sqrt(here)
        return math.sqrt(there) * x0 + math.sqrt(1 - there) * eps

    def encoded(self, x0: torch.Tensor) -> list[torch.Tensor]:
        """x_0 ... x_r, with the network told the level it goes to."""
        x = [x0.double()]
        for i in range(1, len(self.t)):
            eps = self.eps(x[-1], self.t[i], "")
            if self.backbone.prediction_type == "v_prediction":
                # The network gave v; as noise it has to be read at the level x is at.
                high, low = self.a[i], self.a[i - 1]
                v = (eps - math.sqrt(1 - high) * x[-1]) / math.sqrt(high)
                eps = math.sqrt(low) * v + math.sqrt(1 - low) * x[-1]
            x.append(self.moved(x[-1], eps, self.a[i - 1], self.a[i]))
        return x

    def noised(self, x0: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        pure = [math.sqrt(a) * x0.double() + math.sqrt(1 - a) * noise for a in self.a[1:]]
        return [x0.double(), *pure]

    def decoded(self, x: list[torch.Tensor], mask: torch.Tensor | None) -> torch.Tensor:
        g = self.options.guidance_scale
        y = x[-1]
        for i in range(len(x) - 1, 0, -1):
            without = self.eps(y, self.t[i], self.options.negative_prompt)
            eps = without + g * (self.eps(y, self.t[i], "a dog") - without)
            y = self.moved(y, eps, self.a[i], self.a[i - 1])
            if mask is not None:
                y = mask * y + (1 - mask) * x[i - 1]
        return y.float()


@pytest.mark.parametrize("name", BACKBONES)
def test_methods_equal_the_papers_equations(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    plain, mask = Plain(backbone, OPTIONS), _half()
    encoded, noised = plain.encoded(_draw(0)), plain.noised(_draw(0), _draw(1))
    task = _task(backbone, mask)
    for method, expected in (
        (diffedit, plain.decoded(encoded, mask)),
        (encode_decode, plain.decoded(encoded, None)),
        (diffedit_no_encoding, plain.decoded(noised, mask)),
        (sdedit, plain.decoded(noised, None)),
    ):
        torch.testing.assert_close(method(task), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_an_empty_mask_gives_the_input_and_a_full_one_encode_decode(
    name: str, request: pytest.FixtureRequest
) -> None:
    backbone = request.getfixturevalue(name)
    assert torch.equal(diffedit(_task(backbone, 0.0)), _draw(0))
    assert torch.equal(diffedit_no_encoding(_task(backbone, 0.0)), _draw(0))
    full = _task(backbone, 1.0)
    assert torch.equal(diffedit(full), encode_decode(full))
    assert torch.equal(diffedit_no_encoding(full), sdedit(full))


def test_latents_outside_a_hard_mask_are_the_inputs_own(eps_backbone: Any) -> None:
    mask = (_half() == 1).float()
    for method in (diffedit, diffedit_no_encoding):
        edited = method(_task(eps_backbone, mask))
        outside = (mask == 0).expand_as(edited)
        assert torch.equal(edited[outside], _draw(0)[outside])
        assert not torch.equal(edited[~outside], _draw(0)[~outside])


def test_only_the_methods_that_draw_noise_depend_on_it(eps_backbone: Any) -> None:
    task = _task(eps_backbone, _half())
    other = replace(task, noise=_draw(2))
    same = {name: torch.equal(m(task), m(other)) for name, m in LATENT_METHODS.items()}
    assert same == {
        "sdedit": False,
        "encode-decode": True,
        "diffedit-no-encoding": False,
        "diffedit": True,
    }


def test_guidance_of_one_and_zero(eps_backbone: Any) -> None:
    plain = replace(OPTIONS, guidance_scale=1.0)
    unguided = encode_decode(_task(eps_backbone, 1.0, plain))
    other = replace(plain, negative_prompt="a red ball")
    assert torch.equal(unguided, encode_decode(_task(eps_backbone, 1.0, other)))
    negative_only = replace(plain, guidance_scale=0.0)
    expected = Plain(eps_backbone, negative_only)
    torch.testing.assert_close(
        encode_decode(_task(eps_backbone, 1.0, negative_only)),
        expected.decoded(expected.encoded(_draw(0)), None),
        rtol=1e-3,
        atol=1e-3,
    )


def test_latent_mask_counts_area() -> None:
    mask = np.zeros((48, 80), bool)
    mask[5:30, 11:50] = True
    cells = mask.reshape(6, 8, 10, 8).mean((1, 3))
    hard = latent_mask(mask, (6, 10))
    assert hard.dtype == np.float32
    np.testing.assert_array_equal(hard, cells >= 0.5)
    soft = latent_mask(mask, (6, 10), feather=1.0)
    assert soft.shape == (6, 10)
    assert ((soft > 0) & (soft < 1)).sum() > ((hard > 0) & (hard < 1)).sum()
    assert soft.mean() == pytest.approx(mask.mean(), abs=0.02)


def test_latent_mask_keeps_small_regions_and_the_extremes() -> None:
    dot = np.zeros((48, 80), bool)
    dot[17, 42] = True
    expected = np.zeros((6, 10), np.float32)
    expected[2, 5] = 1
    np.testing.assert_array_equal(latent_mask(dot, (6, 10)), expected)
    assert latent_mask(np.zeros((48, 80), bool), (6, 10)).max() == 0
    assert latent_mask(np.ones((48, 80), bool), (6, 10)).min() == 1
    assert latent_mask(np.ones((48, 80), bool), (6, 10), feather=2).min() == pytest.approx(1)


def _pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image, edited = rng.integers(0, 256, (2, 40, 64, 3), dtype=np.uint8)
    mask = np.zeros((40, 64), bool)
    mask[8:32, 0:30] = True
    return image, edited, mask


@pytest.mark.parametrize("seam", [0, 1, 3, 50])
def test_composite_leaves_the_outside_alone(seam: int) -> None:
    image, edited, mask = _pictures()
    done = composite(image, edited, mask, seam)
    assert done.dtype == np.uint8
    np.testing.assert_array_equal(done[~mask], image[~mask])


def test_composite_blends_over_the_seam() -> None:
    image, edited, mask = _pictures()
    done = composite(image, edited, mask, 3)
    # Row 20 is far from the region's top and bottom; its right edge is at column 30.
    for depth, column in ((1, 29), (2, 28), (3, 27)):
        expected = image[20, column] + depth / 4 * (
            edited[20, column].astype(float) - image[20, column]
        )
        np.testing.assert_allclose(done[20, column], expected, atol=0.51)
    # The image's border is no edge: the region touches it at column 0.
    np.testing.assert_array_equal(done[20, :26], edited[20, :26])
    np.testing.assert_array_equal(composite(image, edited, mask, 0)[mask], edited[mask])


def test_composite_of_full_and_empty_masks() -> None:
    image, edited, mask = _pictures()
    np.testing.assert_array_equal(composite(image, edited, np.ones_like(mask), 3), edited)
    np.testing.assert_array_equal(composite(image, edited, np.zeros_like(mask), 3), image)


def test_inpainting_without_a_model_fills_from_the_surroundings() -> None:
    image = np.full((40, 64, 3), (30, 120, 200), np.uint8)
    mask = np.zeros((40, 64), bool)
    mask[10:20, 30:64] = True
    spoilt = np.where(mask[..., None], np.uint8(255), image)
    np.testing.assert_allclose(opencv_inpaint(spoilt, mask, None), image, atol=4)


def test_poisson_keeps_the_gradients_of_the_patch_and_the_level_of_the_image() -> None:
    image = np.full((40, 64, 3), 60, np.uint8)
    mask = np.zeros((40, 64), bool)
    mask[8:32, 12:40] = True
    patch = np.full((24, 28, 3), 180, np.uint8)
    patch[8:16, 10:18] = 220
    done = poisson(image, mask, patch).astype(int)
    assert done.shape == image.shape
    # A flat patch of another level vanishes; its brighter block stays brighter by as much.
    assert done[10, 14].mean() == pytest.approx(60, abs=6)
    assert done[20, 26].mean() - done[28, 14].mean() == pytest.approx(40, abs=12)


def test_poisson_reaches_the_images_border() -> None:
    image = np.full((40, 64, 3), 60, np.uint8)
    mask = np.zeros((40, 64), bool)
    mask[:20, :30] = True
    patch = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert poisson(image, mask, patch)[:19, :29].std() > 20


def test_poisson_needs_a_patch() -> None:
    image, _, mask = _pictures()
    with pytest.raises(InputError, match="patch must be an image for method 'poisson', got None"):
        poisson(image, mask, None)


# ---------------------------------------------------------------------------
# edit()


@pytest.fixture
def fake() -> FakeBackbone:
    return FakeBackbone({"dog": (0.25, 0.2, 0.75, 0.6)})


def _image() -> np.ndarray:
    """(50, 83, 3): neither square nor a size the model takes."""
    return np.random.default_rng(5).integers(0, 256, (50, 83, 3), dtype=np.uint8)


def _region() -> np.ndarray:
    mask = np.zeros((50, 83), bool)
    mask[10:40, 20:60] = True
    return mask


@pytest.mark.parametrize("method", [m for m in EDIT_METHODS if m != "inpaint"])
def test_edit_changes_the_mask_only(method: str, fake: FakeBackbone) -> None:
    image, mask = _image(), _region()
    way = EDIT_METHODS[method]
    patch = image if way.recolours or method == "poisson" else None
    done = edit(image, None, "a cat", model=fake, mask=mask, method=method, steps=4, patch=patch)
    assert done.image.shape == image.shape
    np.testing.assert_array_equal(done.image[~mask], image[~mask])
    assert (done.image[mask] != image[mask]).mean() > 0.3
    np.testing.assert_array_equal(done.source, image)
    assert (done.method, done.query) == (method, "")
    assert (done.prompt, done.notes) == (("", (UNUSED_PROMPT,)) if way.fills else ("a cat", ()))


@pytest.mark.parametrize("method", ["fill", "opencv-inpaint"])
def test_nothing_is_filled_from_nothing(method: str, fake: FakeBackbone) -> None:
    for arguments in ({"mask": np.ones((50, 83), bool)}, {"prompt": "an oil painting"}):
        given: dict[str, Any] = arguments
        with pytest.raises(InputError, match="region must leave a part of the picture for method"):
            edit(_image(), model=fake, method=method, **given)


def test_a_model_that_does_not_paint_finds_and_the_one_it_names_paints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boxes = {"dog": (0.3, 0.9, 0.2, 0.7)}
    painter = FakeBackbone(boxes, calibration={"edit": {"steps": 4, "crop": 0.2}})
    painter.name, painter.native_size = "painter", 32
    finder = FakeBackbone(boxes, calibration={"paints": False, "painter": "the painter"})
    loaded = []

    def load(name: str, **where: Any) -> FakeBackbone:
        loaded.append((name, where))
        return painter

    monkeypatch.setattr("textseg.backbone.load", load)
    image = _image()
    done = edit(image, "the dog", "a cat", model=finder)
    found = Segmenter(finder).set_image(image).query("the dog")
    expected = edit(image, "the dog", "a cat", mask=found, model=painter)
    np.testing.assert_array_equal(done.image, expected.image)
    assert (done.model, done.options.steps, done.options.crop) == ("painter", 4, 0.2)
    assert done.segmentation is not None and done.segmentation.model == "fake"
    again = generate("a cat", model=finder, steps=2)
    assert again.model == "painter"
    np.testing.assert_array_equal(again.image, generate("a cat", model=painter, steps=2).image)
    assert loaded == [("the painter", {"device": finder.device, "dtype": finder.dtype})]
    # What is removed is filled, without it.
    assert edit(image, "the dog", model=finder).method == "fill"
    assert finder.painter == "the painter" and painter.painter is None


@pytest.mark.parametrize("crop", [0.05, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("box", [(10, 20, 8, 38), (0, 30, 2, 12), (25, 40, 30, 61), (7, 8, 7, 8)])
def test_a_crop_is_the_squarest_part_around_a_region(
    box: tuple[int, int, int, int], crop: float
) -> None:
    top, bottom, left, right = box
    mask = np.zeros((40, 61), bool)
    mask[top, left] = mask[bottom - 1, right - 1] = True
    rows, columns = crop_box(mask, crop)
    side = math.ceil((1 + 2 * crop) * max(bottom - top, right - left))
    for part, start, end, length in ((rows, top, bottom, 40), (columns, left, right, 61)):
        size = part.stop - part.start
        assert size == min(side, length)
        assert 0 <= part.start <= start and end <= part.stop <= length
        # In the middle, unless a border is nearer.
        before, after = start - part.start, part.stop - end
        assert abs(before - after) <= 1 or part.start == 0 or part.stop == length
    assert crop_box(mask, 0) == (slice(0, 40), slice(0, 61))


@pytest.mark.parametrize("composited", [True, False])
def test_with_a_crop_the_part_is_edited_as_a_picture_of_its_own(
    fake: FakeBackbone, composited: bool
) -> None:
    image = np.random.default_rng(3).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    mask = np.zeros((70, 90), bool)
    mask[31:41, 50:58] = True
    how: dict[str, Any] = {"steps": 4, "composite": composited, "model": fake}
    steps = Steps()
    done = edit(image, mask=mask, prompt="a cat", crop=0.5, keep=steps, **how)
    part = crop_box(mask, 0.5)
    alone = edit(np.ascontiguousarray(image[part]), mask=mask[part], prompt="a cat", **how)
    expected = image.copy()
    expected[part] = alone.image
    np.testing.assert_array_equal(done.image, expected)
    np.testing.assert_array_equal(done.mask, mask)
    whole = edit(image, mask=mask, prompt="a cat", **how)
    assert not np.array_equal(whole.image, done.image)
    assert steps.decoded is not None
    assert steps.decoded.shape[:2] == fake.fit_size(20, 20) != fake.fit_size(70, 90)


def test_a_patch_is_blended_in_and_never_ignored(fake: FakeBackbone) -> None:
    image, mask = _image(), _region()
    done = edit(image, mask=mask, patch=image[::-1], model=fake)
    assert done.method == "poisson"
    with pytest.raises(
        InputError, match="method must be one of poisson, reinhard, transport with a patch"
    ):
        edit(image, mask=mask, patch=image, method="fill", model=fake)


def test_a_prompt_of_spaces_is_an_empty_one(fake: FakeBackbone) -> None:
    image, mask = _image(), _region()
    blank = edit(image, mask=mask, prompt="  ", model=fake, steps=2)
    np.testing.assert_array_equal(blank.image, edit(image, mask=mask, model=fake, steps=2).image)
    assert blank.prompt == ""


def test_edit_finds_the_region_by_its_name(fake: FakeBackbone) -> None:
    image = _image()
    done = edit(image, "the dog", "a cat", model=fake, steps=4)
    found = Segmenter(fake).set_image(image).query("the dog")
    away = np.hypot(*np.mgrid[-1:2, -1:2]) <= 0.015 * 83
    grown = np.pad(found.mask, 1)
    grown = np.any(
        [np.roll(grown, (y - 1, x - 1), (0, 1)) for y, x in zip(*np.nonzero(away), strict=True)], 0
    )
    np.testing.assert_array_equal(done.mask, grown[1:-1, 1:-1])
    assert done.segmentation is not None
    assert done.segmentation.query == done.query == "the dog"
    assert done.mask.any() and not done.mask.all()
    np.testing.assert_array_equal(done.image[~done.mask], image[~done.mask])


def test_edit_takes_an_approved_segmentation_and_a_segmenter(fake: FakeBackbone) -> None:
    image = _image()
    segmenter = Segmenter(fake)
    found = segmenter.set_image(image).query("the dog")
    done = edit(image, prompt="a cat", model=segmenter, mask=found, steps=4)
    same = edit(image, "the dog", "a cat", model=fake, steps=4)
    np.testing.assert_array_equal(done.image, same.image)
    assert done.query == "the dog"


def test_edit_is_the_same_every_time(v_backbone: Any, tiny_image: np.ndarray) -> None:
    mask = np.zeros(tiny_image.shape[:2], bool)
    mask[16:32, 40:64] = True
    for method in LATENT_METHODS:
        once, again = (
            edit(
                tiny_image, "the ball", "a dog", model=v_backbone, mask=mask, method=method, steps=5
            )
            for _ in range(2)
        )
        np.testing.assert_array_equal(once.image, again.image)


def test_edit_of_the_background(fake: FakeBackbone) -> None:
    image, mask = _image(), _region()
    done = edit(image, None, "a boat", model=fake, mask=mask, steps=4, invert_mask=True)
    np.testing.assert_array_equal(done.mask, ~mask)
    np.testing.assert_array_equal(done.image[mask], image[mask])


def test_edit_without_compositing_changes_pixels_everywhere(fake: FakeBackbone) -> None:
    image, mask = _image(), _region()
    done = edit(image, None, "a cat", model=fake, mask=mask, steps=4, composite=False)
    assert (done.image[~mask] != image[~mask]).mean() > 0.3


def test_edit_of_an_empty_region_is_the_input_and_runs_nothing(fake: FakeBackbone) -> None:
    image = _image()
    done = edit(image, None, "a cat", model=fake, mask=np.zeros((50, 83), bool))
    np.testing.assert_array_equal(done.image, image)
    assert done.notes == ("the region is empty: the image is unchanged",)
    assert fake.calls == []


def test_edit_of_everything_is_encode_decode(fake: FakeBackbone) -> None:
    image, full = _image(), np.ones((50, 83), bool)
    done = edit(image, None, "a cat", model=fake, mask=full, steps=4)
    other = edit(image, None, "a cat", model=fake, mask=full, steps=4, method="encode-decode")
    np.testing.assert_array_equal(done.image, other.image)


def test_removal_says_without_where_the_model_knows_it(
    fake: FakeBackbone, v_backbone: Any, tiny_image: np.ndarray
) -> None:
    mask = np.zeros(tiny_image.shape[:2], bool)
    mask[16:32, 40:64] = True
    assert edit(tiny_image, "the dog", model=v_backbone, mask=mask, steps=2).prompt == (
        "a photo without a dog"
    )
    assert edit(tiny_image, model=v_backbone, mask=mask, steps=2).prompt == ""
    assert edit(_image(), "the dog", model=fake, mask=_region(), steps=2).prompt == ""


def test_edit_uses_the_options_a_model_brings(fake: FakeBackbone) -> None:
    fake.calibration["edit"] = {"steps": 6, "guidance_scale": 2.0}
    done = edit(_image(), None, "a cat", model=fake, mask=_region(), encode_ratio=0.5)
    assert (done.options.steps, done.options.guidance_scale) == (6, 2.0)
    # Three levels each way: one image a call going up, two coming down.
    assert [n for n, _ in fake.calls] == [1, 1, 1, 2, 2, 2]
    given = edit(_image(), None, "a cat", model=fake, mask=_region(), options=EditOptions(steps=2))
    assert given.options == EditOptions(steps=2)


def test_edit_reports_and_can_be_stopped(fake: FakeBackbone) -> None:
    seen: list[tuple[int, int, str]] = []
    edit(
        _image(),
        None,
        "a cat",
        model=fake,
        mask=_region(),
        steps=4,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(1, 2, "encoding"), (2, 2, "encoding"), (1, 2, "decoding"), (2, 2, "decoding")]
    with pytest.raises(CancelledError):
        edit(
            _image(),
            None,
            "a cat",
            model=fake,
            mask=_region(),
            steps=4,
            progress=lambda done, total, stage: stage != "decoding",
        )


def test_edit_keeps_its_steps(fake: FakeBackbone) -> None:
    steps = Steps()
    edit(_image(), None, "a cat", model=fake, mask=_region(), steps=4, keep=steps)
    size = fake.fit_size(50, 83)
    assert steps.encoded is not None and steps.encoded.shape == (*size, 3)
    assert steps.decoded is not None and steps.decoded.shape == (*size, 3)
    assert steps.latent_mask is not None
    assert steps.latent_mask.shape == (size[0] // fake.factor, size[1] // fake.factor)


def test_edit_warns_of_a_prompt_that_is_cut_and_notes_unknown_words(fake: FakeBackbone) -> None:
    long = "a cat and a dog and a ball and a cat and a boat and a dog"
    with pytest.warns(UserWarning, match="left out: 'a boat and a dog'"):
        done = edit(_image(), None, long, model=fake, mask=_region(), steps=2)
    assert any("left out" in note for note in done.notes)
    done = edit(_image(), None, "a zebra", model=fake, mask=_region(), steps=2)
    assert done.notes == ("words the model does not know: zebra",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"mask": np.zeros((83, 50), bool)},
            "mask must have the image's size (50, 83), got (83, 50)",
        ),
        (
            {"mask": np.arange(50 * 83).reshape(50, 83)},
            "mask must be bool, or 0 and one other value",
        ),
        (
            {"mask": _region(), "encode_ratio": 0.0},
            "encode_ratio must be a number in (0, 1], got 0.0",
        ),
        ({"mask": _region(), "encode_ratio": 1.5}, "encode_ratio"),
        ({"mask": _region(), "steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
        (
            {"mask": _region(), "method": "magic"},
            "method must be one of diffedit, diffedit-no-encoding",
        ),
        ({"mask": _region(), "threshold": "otsu"}, "got 'threshold'"),
        ({"mask": _region(), "prompt": None}, "prompt must be a text, got a NoneType"),
        ({"mask": _region(), "method": "poisson"}, "patch must be an image"),
        ({"mask": np.full((50, 83), 0.3)}, "mask must be bool, or 0 and 1, got 0.3 to 0.3"),
        ({"mask": np.full((50, 83), np.nan)}, "mask must be bool, or 0 and 1, got nan to nan"),
        ({"query": ["a dog"]}, "query must be a text, got a list"),
        ({"query": "a dog", "options": 5}, "options must be of class EditOptions, got int"),
        ({"mask": _region(), "method": "inpaint"}, "method 'inpaint' must be given the folder"),
        ({"prompt": ""}, "query must name what to edit when no mask is given, got none"),
        ({"query": "a dog", "method": "inpaint"}, "mask must be given for method 'inpaint'"),
    ],
)
def test_edit_refuses(arguments: dict[str, Any], words: str, fake: FakeBackbone) -> None:
    with pytest.raises((InputError, ModelError)) as caught:
        edit(_image(), **({"prompt": "a cat", "model": fake} | arguments))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_of_0_and_255_is_a_mask(fake: FakeBackbone) -> None:
    grey = _region().astype(np.uint8) * 255
    done = edit(_image(), None, "a cat", model=fake, mask=grey, steps=2)
    np.testing.assert_array_equal(done.mask, _region())


def test_inpainting_checkpoints(
    make_pipeline: Any, tiny_image: np.ndarray, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "inpainting"
    make_pipeline(in_channels=9).save_pretrained(folder)
    mask = np.zeros(tiny_image.shape[:2], bool)
    mask[16:32, 40:64] = True
    arguments: Any = {"mask": mask, "method": "inpaint", "steps": 3, "guidance_scale": 2.0}
    seen: list[tuple[int, int, str]] = []
    done = edit(
        tiny_image,
        prompt="a dog",
        model=str(folder),
        **arguments,
        progress=lambda *step: seen.append(step),
    )
    np.testing.assert_array_equal(done.image[~mask], tiny_image[~mask])
    assert (done.image[mask] != tiny_image[mask]).mean() > 0.3
    assert done.model == str(folder)
    assert seen == [(1, 3, "inpaint"), (2, 3, "inpaint"), (3, 3, "inpaint")]
    with pytest.raises(ModelError, match="must be an inpainting checkpoint"):
        edit(tiny_image, prompt="a dog", model=str(tiny_folder), **arguments)
    with pytest.raises(ModelError, match="inpainting"):
        edit(tiny_image, prompt="a dog", model=str(folder), mask=mask)


def test_an_edit_encodes_its_image_once() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (50, 83, 3), dtype=np.uint8)
    model = FakeBackbone({"dog": (0.25, 0.2, 0.75, 0.6)})
    found = edit(pixels, "dog", "a cat", model=model, steps=4)
    assert found.mask.any() and model.encoded == 1

    segmenter = Segmenter(model).set_image(pixels)
    mask = segmenter.query("dog")
    again = edit(pixels, "dog", "a cat", model=segmenter, mask=mask, steps=4)
    assert model.encoded == 2
    np.testing.assert_array_equal(again.image, found.image)


def test_a_given_mask_leaves_the_segmenters_image_alone() -> None:
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 256, (50, 83, 3), dtype=np.uint8) for _ in range(2))
    model = FakeBackbone({"dog": (0.25, 0.2, 0.75, 0.6)})
    segmenter = Segmenter(model).set_image(first)
    mask = np.zeros((50, 83), bool)
    mask[10:30, 20:60] = True
    done = edit(second, prompt="a cat", model=segmenter, mask=mask, steps=4)
    assert model.encoded == 2
    np.testing.assert_array_equal(segmenter.image, first)
    alone = edit(second, prompt="a cat", model=model, mask=mask, steps=4)
    np.testing.assert_array_equal(done.image, alone.image)
