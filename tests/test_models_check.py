"""`textseg models check` as a newcomer meets it: what is wrong with a folder is one clear line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from textseg.backbone.folders import find_family
from textseg.backbone.installed import has_class
from textseg.cli import main

NEWCOMERS = ("latent-unet", "sdxl", "sd3", "flux", "flux2-klein", "z-image", "qwen-image", "sana",
             "kandinsky5", "pixart-sigma")  # fmt: skip


def write(path: Path, text: str) -> None:
    path.unlink()  # its contents are shared with other folders
    path.write_text(text)


def change(path: Path, **fields: Any) -> None:
    write(path, json.dumps(json.loads(path.read_text()) | fields))


def wrongs(folder: Path) -> Iterator[tuple[Callable[[], Any], str]]:
    """What is done to a whole folder, and what must then be said of it."""
    kind, index = find_family(folder), folder / "model_index.json"
    parts = [*kind.networks, *kind.tokenizers, "scheduler"]
    for part in parts:
        yield lambda part=part: shutil.rmtree(folder / part), f"{folder / part}"
    for part in {kind.denoiser, "scheduler"}:
        yield (
            lambda part=part: change(index, **{part: ["diffusers", "NoSuch"]}),
            (f"{index} names a NoSuch as {part}, which the installed diffusers"),
        )
    encoder = ["transformers", "NoSuchModel"]
    yield lambda: change(index, text_encoder=encoder), f"{index} names a NoSuchModel as text_en"
    yield lambda: change(index, _class_name="NoSuchPipeline"), f"{folder} holds a NoSuchPipeline"
    yield (
        lambda: change(folder / "vae/config.json", _class_name="NoSuchVae"),
        (f"{folder / 'vae'} is a NoSuchVae; supported are AutoencoderKL"),
    )
    config = folder / kind.denoiser / "config.json"
    yield lambda: change(config, _class_name="NoSuch"), f"{config} names a NoSuch as"
    schedule = folder / "scheduler/scheduler_config.json"
    yield lambda: change(schedule, _class_name="NoSuchScheduler"), f"{schedule} names a NoSuchSc"
    yield lambda: change(schedule, _class_name="UNet2DModel"), f"{schedule} names no scheduler"
    yield lambda: write(index, "{"), f"{index} cannot be read"


def told(name: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a check ends with."""
    code = main(["models", "check", str(name)])
    said = capsys.readouterr()
    assert code == 2 and said.out == ""
    [line] = said.err.splitlines()
    return line


@pytest.mark.parametrize("family", NEWCOMERS)
def test_every_wrong_is_one_line(
    family: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, folder = folders(family), tmp_path / "m"
    count = len(list(wrongs(whole)))
    for i in range(count):
        shutil.copytree(whole, folder, copy_function=os.link)
        spoil, expected = list(wrongs(folder))[i]
        spoil()
        assert told(folder, capsys).startswith(f"textseg: error: {expected}"), expected
        shutil.rmtree(folder)
    assert main(["models", "check", str(whole)]) == 0


def test_a_folder_near_a_model_leads_to_it(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shutil.copytree(folders("sd3"), tmp_path / "around" / "sd3")
    assert told(whole / "transformer", capsys).endswith(f"but a part of one; give {whole}")
    assert told(whole.parent, capsys).endswith(f"not a diffusers pipeline; give {whole}")
    shutil.copytree(whole, whole.parent / "other")
    assert told(whole.parent, capsys).endswith("not a diffusers pipeline")
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "x.safetensors").write_bytes(b"x")
    assert told(lone, capsys).endswith(f"a model in a single file: give {lone / 'x.safetensors'}")


def test_a_part_that_published_folders_lack_is_asked_for_by_name(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(folders("hidream"), tmp_path / "m")
    shutil.rmtree(folder / "text_encoder_4")
    assert "lacks it; put Llama 3.1 8B Instruct there" in told(folder, capsys)


def test_classes_are_found_without_importing_them() -> None:
    import diffusers
    import transformers

    for name in ("Qwen2_5_VLForConditionalGeneration", "Mistral3Model", "GlmModel", "Gemma2Model"):
        config = getattr(transformers, name).config_class
        assert has_class("transformers", name, config.model_type)
    assert all(has_class("transformers", "BertModel", told) for told in ("nowhere", "../.."))
    assert not has_class("transformers", "Qwen2_5_VL", "qwen2_5_vl")
    assert has_class("diffusers", diffusers.DDIMScheduler.__name__)
    assert not has_class("diffusers", "DDIM")
