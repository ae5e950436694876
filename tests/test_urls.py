"""URLs: every function that takes an image takes one, if it is told to."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

from textseg import Client, ImageError, Segmenter, ServerError, caption, edit, fetching, segment
from textseg.cutting import remask
from textseg.masks import overlay_many

URL = "https://example.org/a.png"


def test_every_public_function_that_takes_an_image_takes_a_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    height, width = 18, 25
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    data = buffer.getvalue()
    monkeypatch.setattr(fetching, "fetch", lambda asked: {URL: data}[asked])
    model: Any = FakeBackbone({"dog": (0.2, 0.2, 0.8, 0.8)}, calibration={"nouns": ["dog", "ball"]})
    region = np.zeros((height, width), bool)
    region[: height // 2] = True
    found = replace(segment(rgb, "dog", model=model), image=None)
    client = Client("http://127.0.0.1:9")
    sent: list[bytes] = []

    def send(path: str, fields: Any, files: dict[str, bytes], *_: Any) -> None:
        sent.extend(files.values())
        raise ServerError("sent")

    monkeypatch.setattr(client, "_submit", send)
    edits: dict[str, Any] = {"prompt": "a cat", "mask": region, "steps": 2}
    calls: list[Any] = [
        lambda **k: segment(k.pop("image", URL), "dog", model=model, **k).mask,
        lambda **k: edit(k.pop("image", URL), model=model, **edits, **k).image,
        lambda **k: edit(rgb, model=model, mask=region, method="poisson",
                         patch=k.pop("image", URL), **k).image,
        lambda **k: caption(k.pop("image", URL), model=model, **k).text,
        lambda **k: remask(found, image=k.pop("image", URL), **k).mask,
        lambda **k: overlay_many(k.pop("image", URL), [found], **k),
        lambda **k: Segmenter(model).set_image(k.pop("image", URL), **k).image,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ImageError, match="fetched only with allow_url=True, got 'https:"):
            call()
        np.testing.assert_array_equal(call(allow_url=True), call(image=data))
    for call in (
        lambda **k: client.segment(URL, "dog", **k),
        lambda **k: client.edit(URL, "dog", "cat", patch=URL, **k),
        lambda **k: client.caption(URL, **k),
    ):
        with pytest.raises(ImageError, match="allow_url=True"):
            call()
        assert not sent
        with pytest.raises(ServerError, match="sent"):
            call(allow_url=True)
        assert set(sent) == {data}
        sent.clear()
