"""Filling, growing and recolouring against brute force and closed forms."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_backbone import FakeBackbone

from textseg.editing import edit
from textseg.errors import InputError
from textseg.filling import grow_region, push_pull
from textseg.segmenter import Segmenter
from textseg.style import match_statistics, transport_colors


def _picture(seed: int, height: int = 40, width: int = 64) -> np.ndarray:
    """Smooth colours of middle lightness."""
    drawn = np.random.default_rng(seed).uniform(90, 160, (5, 8, 3)).astype(np.float32)
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def _region() -> np.ndarray:
    mask = np.zeros((40, 64), bool)
    mask[10:24, 20:50] = True
    return mask


def _lab(colors: np.ndarray) -> np.ndarray:
    scaled = colors.reshape(1, -1, 3).astype(np.float32) / 255
    return cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab)[0].astype(float)


@pytest.mark.parametrize("grow", [0.0, 0.02, 0.05, 0.2])
def test_a_region_grows_by_a_distance(grow: float) -> None:
    mask = _region() & (np.indices((40, 64)).sum(0) % 7 == 0)
    rows, columns = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    nearest = np.hypot(y[..., None] - rows, x[..., None] - columns).min(-1)
    np.testing.assert_array_equal(grow_region(mask, grow), nearest <= grow * 64)


def test_filling_keeps_the_outside_and_forgets_the_inside() -> None:
    image, mask = _picture(0), _region()
    spoilt = np.where(mask[..., None], np.uint8(255), image)
    filled = push_pull(spoilt, mask)
    np.testing.assert_array_equal(filled[~mask], image[~mask])
    np.testing.assert_array_equal(filled, push_pull(image, mask))


def test_filling_restores_one_colour_and_stays_within_what_surrounds_it() -> None:
    flat, mask = np.full((41, 67, 3), (30, 120, 200), np.uint8), np.zeros((41, 67), bool)
    mask[3:30, 10:67] = True
    spoilt = np.where(mask[..., None], np.uint8(255), flat)
    np.testing.assert_array_equal(push_pull(spoilt, mask), flat)
    image = _picture(1)
    filled = push_pull(image, _region())
    known = image[~_region()]
    assert (filled >= known.min(0)).all() and (filled <= known.max(0)).all()


def test_filling_comes_near_a_smooth_truth() -> None:
    ramp = np.linspace(0, 200, 64)[None, :, None] + np.linspace(0, 40, 40)[:, None, None]
    image = np.repeat(ramp, 3, 2).astype(np.uint8)
    error = np.abs(push_pull(image, _region()).astype(int) - image)[_region()]
    constant = np.abs(image[~_region()].mean() - image[_region()]).mean()
    assert error.mean() < 0.4 * constant


def test_reinhard_gives_the_references_mean_and_spread() -> None:
    image, mask, reference = _picture(2), _region(), _picture(3, 30, 44)
    done = match_statistics(image, mask, reference)
    np.testing.assert_array_equal(done[~mask], image[~mask])
    got, wanted = _lab(done[mask]), _lab(reference)
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=0.3)
    np.testing.assert_allclose(got.std(0), wanted.std(0), atol=0.3)


def test_transport_gives_the_references_covariance_by_a_symmetric_map() -> None:
    image, mask, reference = _picture(4), _region(), _picture(5, 30, 44)
    done = transport_colors(image, mask, reference)
    np.testing.assert_array_equal(done[~mask], image[~mask])
    before, got, wanted = _lab(image[mask]), _lab(done[mask]), _lab(reference)
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=0.3)
    np.testing.assert_allclose(np.cov(got.T), np.cov(wanted.T), rtol=0.04)
    # The optimal map of one Gaussian to another is a symmetric positive matrix.
    line, *_ = np.linalg.lstsq(before - before.mean(0), got - got.mean(0), rcond=None)
    np.testing.assert_allclose(line, line.T, atol=0.05)
    assert (np.linalg.eigvalsh((line + line.T) / 2) > 0).all()


def test_colours_of_one_grey_do_not_break_it() -> None:
    grey = np.full((40, 64, 3), 128, np.uint8)
    for way in (match_statistics, transport_colors):
        assert way(grey, _region(), _picture(6))[_region()].std(0).max() < 1


@pytest.fixture
def fake() -> FakeBackbone:
    return FakeBackbone({"dog": (0.25, 0.2, 0.75, 0.6)})


def test_a_model_that_does_not_paint_removes_by_filling(fake: FakeBackbone) -> None:
    image = np.random.default_rng(5).integers(0, 256, (50, 83, 3), dtype=np.uint8)
    assert edit(image, "the dog", model=fake, steps=2).method == "diffedit"
    fake.calibration["paints"] = False
    done = edit(image, "the dog", model=fake, seam=0)
    assert (done.method, done.trained) == ("fill", False)
    np.testing.assert_array_equal(done.image, push_pull(image, done.mask))
    assert edit(image, "the dog", "a cat", model=fake, steps=2).method == "diffedit"
    assert edit(image, "the dog", model=fake, steps=2, method="sdedit").method == "sdedit"


def test_a_found_region_grows_and_a_given_one_only_if_asked(fake: FakeBackbone) -> None:
    image = np.random.default_rng(5).integers(0, 256, (50, 83, 3), dtype=np.uint8)
    found = Segmenter(fake).set_image(image).query("the dog")
    ask = {"model": fake, "method": "fill"}
    grown = grow_region(found.mask, 0.015)
    assert grown.sum() > found.mask.sum()
    np.testing.assert_array_equal(edit(image, mask=found, **ask).mask, grown)
    np.testing.assert_array_equal(edit(image, mask=found.mask, **ask).mask, found.mask)
    wider = edit(image, mask=found.mask, grow=0.1, **ask).mask
    np.testing.assert_array_equal(wider, grow_region(found.mask, 0.1))
    other = edit(image, mask=found, invert_mask=True, **ask).mask
    np.testing.assert_array_equal(other, ~found.mask)


def test_a_style_recolours_the_whole_or_a_region_that_does_not_grow(fake: FakeBackbone) -> None:
    image, reference = _picture(7, 50, 83), _picture(8)
    whole = edit(image, style=reference, model=fake)
    assert whole.mask.all() and whole.method == "transport"
    np.testing.assert_array_equal(
        whole.image, transport_colors(image, np.ones((50, 83), bool), reference)
    )
    part = edit(image, "the dog", style=reference, method="reinhard", model=fake)
    assert part.segmentation is not None
    np.testing.assert_array_equal(part.mask, part.segmentation.mask)


def test_a_prompt_without_a_query_changes_the_whole(fake: FakeBackbone) -> None:
    image = _picture(9, 50, 83)
    done = edit(image, prompt="a cat", model=fake, steps=4)
    assert done.mask.all()
    full = np.ones((50, 83), bool)
    same = edit(image, prompt="a cat", model=fake, steps=4, mask=full, method="encode-decode")
    np.testing.assert_array_equal(done.image, same.image)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": "a cat"}, "style must be given without a prompt"),
        ({"method": "diffedit"}, "method must be one of reinhard, transport with a style"),
    ],
)
def test_a_style_stands_alone(arguments: dict[str, str], words: str, fake: FakeBackbone) -> None:
    with pytest.raises(InputError, match=words):
        edit(_picture(0), style=_picture(1), model=fake, **arguments)  # pyright: ignore


def test_mini_says_that_it_does_not_paint() -> None:
    folder = Path(__file__).parent.parent / "textseg/models/mini/textseg.json"
    assert '"paints": false' in folder.read_text()
