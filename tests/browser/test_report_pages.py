"""Reports of `textseg eval` in a real browser: they fit windows and paper, and load nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from textseg.cli import main

NAMES = {1: "stegosaurus", 2: "a rather long name of a thing", 3: "cat"}
A4 = round((210 - 2 * 12) / 25.4 * 96)
"""Pixels between the margins of a sheet."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four methods on six images."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, marks = [], []
    for n in range(1, 7):
        name = f"{n:012d}_a_long_name_of_a_file.png"
        Image.fromarray(rng.integers(0, 255, (90, 60, 3), np.uint8)).save(folder / "images" / name)
        images.append({"id": n, "file_name": name, "height": 90, "width": 60})
        for key in (1, 2):
            box = [10 * key, 5 * n, 10 * key + 25, 5 * n, 10 * key + 25, 5 * n + 40]
            marks.append({"id": len(marks) + 1, "image_id": n, "category_id": key, "iscrowd": 0,
                          "segmentation": [[*box, 10 * key, 5 * n + 40]]})  # fmt: skip
    categories = [{"id": key, "name": name} for key, name in NAMES.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": marks, "categories": categories}))
    words = ["eval", "coco", "--images", str(folder / "images"), "--annotations", str(path),
             "--method", "everything,truth,centre-box,grabcut", "--fixed-threshold", "own",
             "--replicates", "50", "--quiet", "-o", str(folder / "runs")]  # fmt: skip
    assert main(words) == 0
    return folder / "runs"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


@pytest.mark.parametrize("name", ["report.html", "truth/report.html"])
@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (A4, "print")])
def test_fits(name: str, width: int, media: str, folder: Path, page: Any) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(media=media)
    page.goto((folder / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # On a phone wide tables scroll within themselves.
    too_wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(e => e.scrollWidth > e.clientWidth).length"
    )
    assert width == 390 or too_wide == 0
    cut = """[...document.querySelectorAll('svg[role=img]')].filter(svg => {
        const all = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('text')].some(text => {
            const box = text.getBoundingClientRect();
            return box.left < all.left - 1 || box.right > all.right + 1
                || box.top < all.top - 1 || box.bottom > all.bottom + 1; }); }).length"""
    assert page.evaluate(cut) == 0
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_prints_on_a4_in_ink_on_white(folder: Path, browser: Any) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((folder / "report.html").as_uri())
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print", color_scheme="dark")
    white = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark, white) == ("rgb(18, 22, 29)", "rgb(255, 255, 255)")
    sheet = page.pdf(prefer_css_page_size=True)
    assert b"/MediaBox [0 0 594.95996 841.91998]" in sheet
    page.close()
