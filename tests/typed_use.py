# pyright: strict
"""Every public name, as an editor in strict mode sees it: `make lint` reads this file, nothing runs
it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.Image import Image
from typing_extensions import assert_type

import textseg
from textseg import (
    CancelledError,
    Client,
    ContrastOptions,
    Edit,
    EditOptions,
    GenerateOptions,
    ImageError,
    ImageWarning,
    InputError,
    Measurement,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    Outcome,
    OutputError,
    RefineOptions,
    Segmentation,
    Segmenter,
    ServerError,
    TextsegError,
    assess,
    caption,
    correct,
    cut,
    edit,
    generate,
    load,
    outpaint,
    segment,
)
from textseg.backbone.base import Backbone
from textseg.captioning import Caption
from textseg.generation import Generation

ERRORS: list[type[TextsegError]] = [
    CancelledError, ImageError, InputError, MissingDependencyError, ModelError, ModelNotFoundError,
    OutputError, ServerError,
]  # fmt: skip


def report(done: int, total: int, stage: str) -> bool:
    return done < total and stage != ""


def masks(picture: Image, pixels: np.ndarray) -> None:
    for image in ("park.jpg", Path("park.jpg"), b"", picture, pixels):
        assert_type(segment(image, "the dog"), Segmentation)
    several = segment(
        "park.jpg", ["the dog", "the tree"], model="mini", contrast=ContrastOptions(samples=4),
        refine=RefineOptions(crf=False), caption="a dog", exclusive=True, progress=report,
        threshold=0.4, strength=(0.3, 0.5), seed=3, min_area=0.01,
    )  # fmt: skip
    assert_type(several, list[Segmentation])
    one = several[0]
    assert_type(one.query, str)
    assert_type(one.presence, float)
    area: int = int(one.mask.sum()) + int(one.score.size)
    one.save(Path(f"{area}.png"))
    assert_type(Segmentation.from_bytes(one.to_bytes(".npz")), Segmentation)
    one.save("look.jpg", "overlay")
    assert_type(one.to_pil("cutout"), Image)
    one.show()


def steps(pixels: np.ndarray) -> None:
    model = load("mini", device="cpu")
    assert_type(model, Backbone)
    segmenter = Segmenter(model, contrast=ContrastOptions(), refine=RefineOptions())
    assert_type(segmenter.set_image(pixels).query("the dog", samples=2), Segmentation)
    measured = segmenter.measure(["the dog"])
    assert_type(measured, list[Measurement])
    assert_type(cut(measured[0], pixels, refine=segmenter.refine), Segmentation)
    assert_type(correct(measured[0], pixels, [(3, 4, 1)], [(0, 0, 9, 9)]), Segmentation)
    assert_type(segment(pixels, "the dog", points=[(3, 4, 1)]), Segmentation)
    assert_type(segmenter.model.native_size, int)


def pictures(pixels: np.ndarray) -> None:
    done = edit(pixels, "the dog", "a cat", options=EditOptions(steps=20), encode_ratio=0.4, seed=1)
    assert_type(done, Edit)
    assert_type(assess(done, model="mini"), Outcome)
    assert_type(outpaint(pixels, "a beach", left=64, right="25%", steps=20), Edit)
    assert_type(generate("a dog", options=GenerateOptions(), seed=2), Generation)
    assert_type(done.to_pil(), Image)
    assert_type(generate(["a dog", "a cat"]), list[Generation])
    assert_type(generate("a dog").to_pil(), Image)
    assert_type(caption(pixels), Caption)
    assert_type(caption(pixels).text, str)


def elsewhere() -> None:
    client = Client("http://127.0.0.1:8300", token=None)
    assert_type(client.segment("park.jpg", "the dog", threshold="otsu"), Segmentation)
    assert_type(client.segment("park.jpg", ["the dog"]), list[Segmentation])
    assert_type(client.edit("park.jpg", "the dog", "a cat"), Edit)
    assert_type(client.generate("a dog"), Generation)
    assert_type(client.caption("park.jpg"), Caption)
    try:
        client.models()
    except ServerError as error:
        assert_type(error.status, int)
        assert_type(error.retry_after, float)


VERSION: str = textseg.__version__
WARNING: type[Warning] = ImageWarning
