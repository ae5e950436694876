"""Outpainting: what is kept, where each part comes from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fake_backbone import FakeBackbone

from textseg import CancelledError, Edit, EditOptions, InputError, Segmenter, edit, outpaint
from textseg.editing import UNUSED_PROMPT
from textseg.filling import extend


def _picture(height: int = 48, width: int = 36) -> np.ndarray:
    """Smooth colours."""
    drawn = np.random.default_rng(3).uniform(40, 220, (6, 5, 3)).astype(np.float32)
    return (
        cv2.resize(drawn, (width, height), interpolation=cv2.INTER_CUBIC)
        .clip(0, 255)
        .astype(np.uint8)
    )


def test_a_border_is_mirrored_without_a_seam_and_never_the_same_twice() -> None:
    picture = _picture(200, 160)
    wide = extend(picture, left=70, top=10, right=90, bottom=30)
    assert wide.shape == (240, 320, 3)
    np.testing.assert_array_equal(wide[10:210, 70:230], picture)
    mirror = np.pad(picture, ((10, 30), (70, 90), (0, 0)), mode="symmetric")
    # The first pixels beyond the border are blurred by an eighth of a pixel.
    np.testing.assert_allclose(wide[10:210, 230].astype(int), mirror[10:210, 230], atol=2)
    np.testing.assert_allclose(wide[9, 70:230].astype(int), mirror[9, 70:230], atol=2)
    # From 48 pixels on the blur is that of a Gaussian of 3 % of the longer side.
    soft = [cv2.GaussianBlur(mirror, (0, 0), sigma).astype(float) for sigma in (4, 8)]
    expected = soft[0] + (6 - 4) / (8 - 4) * (soft[1] - soft[0])
    np.testing.assert_allclose(wide[10:210, 282:], expected[10:210, 282:], atol=2)


def test_one_colour_goes_on_and_nothing_to_add_changes_nothing() -> None:
    flat = np.full((20, 13, 3), (30, 120, 200), np.uint8)
    np.testing.assert_array_equal(extend(flat, 50, 3, 7, 90), np.full((113, 70, 3), flat[0, 0]))
    np.testing.assert_array_equal(extend(_picture()), _picture())


def test_without_a_painting_model_the_new_part_is_filled() -> None:
    picture = _picture()
    done = outpaint(picture, left=8, right="25%", top="50 %")
    assert done.method == "fill"
    assert done.extended == (8, 24, 9, 0)
    np.testing.assert_array_equal(done.image, extend(picture, 8, 24, 9, 0))
    assert not done.trained
    assert done.source is not None
    inside = np.s_[24:, 8:44]
    np.testing.assert_array_equal(done.source[inside], picture)
    assert (done.source[done.mask] == 255).all()
    expected = np.ones((72, 53), bool)
    expected[inside] = False
    np.testing.assert_array_equal(done.mask, expected)


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_one_round_is_an_edit_of_the_strip(side: str, eps_backbone: Any) -> None:
    picture = _picture(30, 40)
    options = EditOptions(encode_ratio=0.6, steps=5, seam=2)
    pads: dict[str, Any] = {side: 8}
    done = outpaint(picture, "a dog", model=eps_backbone, options=options, **pads)
    along = {"left": np.s_[:, :30], "right": np.s_[:, -30:]}.get(side, np.s_[:])
    near = picture[along]
    start = extend(near, **pads)
    mask = extend(np.zeros_like(near), **pads)[..., 0] > 0
    strip = {"left": np.s_[:, :8], "right": np.s_[:, -8:], "top": np.s_[:8], "bottom": np.s_[-8:]}
    mask[strip[side]] = True
    same = edit(start, None, "a dog", model=eps_backbone, mask=mask, options=options)
    np.testing.assert_array_equal(done.image[strip[side]], same.image[strip[side]])
    np.testing.assert_array_equal(done.image[~done.mask].reshape(30, 40, 3), picture)
    assert done.model == same.model
    assert done.trained


def test_wide_extensions_take_rounds_and_keep_every_pixel(eps_backbone: Any) -> None:
    picture, seen = _picture(150, 100), []

    def progress(done: int, total: int, stage: str) -> None:
        seen.append(stage)

    done = outpaint(
        picture, "a dog", left=200, bottom=175, model=eps_backbone, steps=4, progress=progress
    )
    # 200 pixels along a border of 150 are three rounds, 175 along 300 are two.
    names = list(dict.fromkeys(stage.partition(":")[0] for stage in seen))
    assert names == [f"round {n} of 5" for n in range(1, 6)]
    assert done.image.shape == (325, 300, 3)
    np.testing.assert_array_equal(done.image[:150, 200:], picture)
    assert done.options.encode_ratio == 0.8
    assert done.options.seam == round(0.02 * 325)
    again = outpaint(picture, "a dog", left=200, bottom=175, model=eps_backbone, steps=4)
    np.testing.assert_array_equal(done.image, again.image)


def test_progress_can_stop_it(eps_backbone: Any) -> None:
    with pytest.raises(CancelledError):
        outpaint(_picture(), "a dog", left=9, model=eps_backbone, progress=lambda *_: False)


def test_an_inpainting_checkpoint_paints_the_new_part(make_pipeline: Any, tmp_path: Path) -> None:
    make_pipeline(in_channels=9).save_pretrained(tmp_path / "tiny")
    picture = _picture()
    done = outpaint(
        picture, "a dog", right=12, model=str(tmp_path / "tiny"), method="inpaint", steps=2
    )
    np.testing.assert_array_equal(done.image[:, :36], picture)
    assert done.image.shape == (48, 48, 3)
    assert not np.array_equal(done.image, extend(picture, right=12))


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    done = outpaint(_picture(), left=5)
    done.save(tmp_path / "wide.npz")
    kept = Edit.load(tmp_path / "wide.npz")
    assert kept.extended == (5, 0, 0, 0)
    np.testing.assert_array_equal(kept.image, done.image)
    assert kept.describe()["extended"] == [5, 0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "left, right, top or bottom must add a pixel or more, got left=0, "),
        ({"left": "0.1%"}, "must add a pixel or more, got left='0.1%', "),
        ({"left": "-5%"}, "left must be a whole number of pixels .* got '-5%'"),
        ({"left": "9" * 5000}, "left must be a whole number .{0,200}$"),
        ({"left": -1}, "left must be a whole number of pixels"),
        ({"top": 1.5}, "top must be a whole number of pixels"),
        ({"top": True}, "top must be a whole number of pixels"),
        ({"right": "wide"}, "right must be a whole number of pixels"),
        ({"right": "-3%"}, "right must be a whole number of pixels"),
        ({"right": "nan%"}, "right must be a whole number of pixels"),
        ({"bottom": "inf%"}, "bottom must be a whole number of pixels"),
        ({"bottom": 10**9}, "extended picture must have at most"),
        (
            {"left": 3, "method": "poisson"},
            "method must be one of diffedit, .*, fill, got 'poisson'",
        ),
        ({"left": 3, "method": "magic"}, "method must be one of"),
        ({"left": 3000}, "extension must take at most 32 rounds, got 47"),
        ({"left": 3, "grow": 0.1}, "option must be one of encode_ratio, [^']*, got 'grow'$"),
        ({"left": 3, "options": 5}, "options must be of class EditOptions, got int"),
        ({"left": 3, "steps": 0}, "steps must be"),
        ({"left": 3, "prompt": 7}, "prompt must be"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        outpaint(_picture(), model=FakeBackbone({}), **arguments)


def test_a_filled_extension_says_that_it_used_no_prompt() -> None:
    done = outpaint(_picture(), "a stormy sky", left=np.int64(8), method="fill")  # type: ignore[arg-type]
    assert done.prompt == ""
    assert done.notes == (UNUSED_PROMPT,)
    assert outpaint(_picture(), left=8).notes == ()


def test_a_segmenter_is_taken_as_a_model() -> None:
    fake = FakeBackbone({}, calibration={"paints": False})
    assert outpaint(_picture(), left=3, model=Segmenter(fake)).method == "fill"
