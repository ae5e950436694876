"""The table of pipelines in docs/models.md against the diffusers that is installed."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest

from textseg.backbone.families import ALL, BY_PIPELINE

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
OTHER_INPUTS = {"num_frames", "frames", "video", "video_length", "audio_duration"}


def section() -> str:
    page = PAGE.read_text()
    return page.partition("\n## Every text-to-image pipeline\n")[2].partition("\n## ")[0]


def other_tasks() -> list[str]:
    """Words of a class's name, as the page lists them."""
    return re.split(r",\s+", section().partition("another task: ")[2].partition(";")[0])


def exported() -> dict[str, Any]:
    """Every pipeline class of diffusers; stand-ins for those whose packages are missing, too."""
    with warnings.catch_warnings():  # of modules that are deprecated, wherever they come in
        warnings.simplefilter("ignore")
        found = {name: getattr(diffusers, name) for name in dir(diffusers) if "Pipeline" in name}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type)
        and kind is not diffusers.DiffusionPipeline
        and (issubclass(kind, diffusers.DiffusionPipeline) or name.endswith("Pipeline"))
    }


def makes_pictures_of_text(name: str, kind: Any) -> bool:
    """The rule of the page."""
    if re.search(f"({'|'.join(other_tasks())}|Modular|Onnx)(?![a-z])", name):
        return False
    if not issubclass(kind, diffusers.DiffusionPipeline):
        return not name.startswith("Spectrogram")
    taken = inspect.signature(kind.__call__).parameters
    needed = {k for k, v in taken.items() if v.default is v.empty}
    pictures = any(re.search("(image|images|video)$", k) for k in needed)
    return "prompt" in taken and not pictures and not OTHER_INPUTS & set(taken)


def table() -> dict[str, str]:
    """Pipeline -> what the page says of it."""
    said: dict[str, str] = {}
    for line in section().splitlines():
        if not line.startswith("| `"):
            continue
        pipelines, verdict = line.strip("| ").split(" | ", 1)
        for name in re.findall(r"`(\w+)`", pipelines):
            assert name not in said, f"{name} is told of twice"
            said[name] = verdict
    return said


def test_every_text_to_image_pipeline_is_in_the_table() -> None:
    asked = {name for name, kind in exported().items() if makes_pictures_of_text(name, kind)}
    assert asked == set(table())


def test_the_table_says_what_textseg_does() -> None:
    said = table()
    works = {name for name, verdict in said.items() if verdict.startswith("segments and edits")}
    assert works == set(said) & set(BY_PIPELINE)
    assert all(said[name].startswith("no: ") for name in set(said) - works)


def test_the_table_of_guidance_is_what_each_family_starts_from() -> None:
    rows = re.findall(r"^  \| (none|[\d.]+) \| (`.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    said = {name: scale for scale, names in rows for name in re.findall("`(.+?)`", names)}
    assert said == {f.name: "none" if f.guidance == 1 else f"{f.guidance:g}" for f in ALL}


@pytest.mark.parametrize(
    ("name", "asked"),
    [("StableDiffusionPipeline", True), ("OmniGenPipeline", True), ("KandinskyPipeline", True),
     ("StableDiffusionPipelineSafe", True), ("FluxFillPipeline", False), ("WanPipeline", False),
     ("BlipDiffusionPipeline", False), ("DiTPipeline", False), ("MarigoldDepthPipeline", False),
     ("FluxModularPipeline", False)],
)  # fmt: skip
def test_the_rule_tells_tasks_apart(name: str, asked: bool) -> None:
    assert makes_pictures_of_text(name, getattr(diffusers, name)) == asked
