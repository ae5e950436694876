"""What the package's second model, the painter, paints, alone and for `mini`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg
from textseg.backbone.quiet import quietly

REPO = Path(__file__).parents[1]
MODELS = Path(textseg.__file__).parent / "models"
PARK = REPO / "data" / "samples" / "park.jpg"


def _hue(pixels: np.ndarray) -> float:
    """The mean hue in degrees of the strongest quarter of the colours, (N, 3) uint8."""
    import cv2

    h, s, v = cv2.cvtColor(pixels.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[0].astype(float).T
    strong = s * v >= np.quantile(s * v, 0.75)
    return float(np.degrees(np.angle(np.exp(2j * np.pi * h[strong] / 180).mean())) % 360)


@pytest.mark.parametrize(("noun", "low", "high"), [("strawberry", -20, 15), ("banana", 30, 65)])
def test_generate_paints_by_default_what_it_is_asked_for(noun: str, low: int, high: int) -> None:
    made = textseg.generate(f"a drawing of a {noun}", count=3)
    assert {one.model for one in made} == {"painter"} and not any(one.notes for one in made)
    hues = [_hue(one.image[24:-24, 24:-24].reshape(-1, 3)) for one in made]
    assert all(low < (hue + 180) % 360 - 180 < high for hue in hues), hues


def test_mini_finds_and_the_painter_paints() -> None:
    segmenter = textseg.Segmenter("mini")
    done = textseg.edit(PARK, "the ball", "a strawberry", model=segmenter)
    assert (done.model, done.method) == ("painter", "diffedit")
    before = segmenter.image
    np.testing.assert_array_equal(done.image[~done.mask], before[~done.mask])
    blue, red = _hue(before[done.mask]), (_hue(done.image[done.mask]) + 180) % 360 - 180
    assert 180 < blue < 260 and -30 < red < 25


def test_diffusers_loads_it() -> None:
    from diffusers import StableDiffusionPipeline

    with quietly():
        pipe: Any = StableDiffusionPipeline.from_pretrained(MODELS / "painter").to(torch.float32)
    ours: Any = textseg.load("painter")
    for name, value in pipe.unet.state_dict().items():
        assert torch.equal(value, ours.unet.state_dict()[name])


def test_both_models_take_at_most_45_mb_of_a_wheel() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in MODELS.rglob("*"):
            wheel.write(file, file.relative_to(MODELS))
    assert packed.tell() < 45e6
