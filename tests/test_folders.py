"""What is refused of a pipeline folder, and why; whole folders load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import one_line
from tiny_models import Tiny

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.folders import check_model, find_family
from textseg.errors import ModelError


def test_unsupported_pipelines_get_one_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("KolorsPipeline", "FluxFillPipeline", "WanPipeline", None, ["x"]):
        (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ModelError) as error:
            textseg.load(folder)
        assert all(family.pipeline in one_line(error) for family in ALL)


def test_the_refiner_is_refused_with_a_reason(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "refiner")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None],
              "requires_aesthetics_score": True}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="SDXL refiner, which only finishes images"):
        textseg.load(folder)


def test_networks_that_want_more_than_text_are_refused(tiny: Callable[[str], Tiny]) -> None:
    import copy

    from diffusers import DDIMScheduler
    from tiny_models import unet

    pipe = copy.copy(tiny("flux")[0])
    pipe.transformer = copy.deepcopy(pipe.transformer)
    pipe.transformer.register_to_config(in_channels=96)
    with pytest.raises(ModelError, match="96 input channels where its latents have 16"):
        type(tiny("flux")[1])(pipe)
    pipe = copy.copy(tiny("sd3")[0])
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="needs a FlowMatch scheduler"):
        type(tiny("sd3")[1])(pipe)
    pipe = copy.copy(tiny("sdxl")[0])
    pipe.unet = unet(cross_attention_dim=40)
    with pytest.raises(ModelError, match="addition_embed_type None"):
        type(tiny("sdxl")[1])(pipe)
    pipe = copy.copy(tiny("pixart-sigma")[0])
    pipe.text_encoder = None
    with pytest.raises(ModelError, match="must have a text_encoder"):
        type(tiny("pixart-sigma")[1])(pipe)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart-sigma"])
def test_every_missing_or_cut_file_is_named(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = folders(family)
    kind = find_family(whole)
    files = [f"{part}/{stem}.safetensors" for part, stem in kind.weights.items()]
    files += [f"{part}/config.json" for part in kind.networks]
    files += [f"{part}/tokenizer.json" for part in kind.tokenizers]
    files += ["scheduler/scheduler_config.json"]
    folder = shutil.copytree(whole, tmp_path / "m")
    for name in files:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ModelError) as error:
            textseg.load(folder)
        assert str((folder / name).parent) in one_line(error) and "missing" in one_line(error)
        if name.endswith(".safetensors"):
            (folder / name).write_bytes(kept[:-9])
            with pytest.raises(ModelError, match=r"safetensors is damaged"):
                textseg.load(folder)
        (folder / name).write_bytes(kept)
    assert check_model(folder) == dict.fromkeys(kind.weights)


def test_a_text_encoder_that_the_index_names_must_be_there(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("sd3"), tmp_path / "m")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(ModelError, match="text_encoder_3"):
        textseg.load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert textseg.load(folder, device="cpu").family == "sd3"


def test_tampered_folders_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "m")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"auto_map": {"x": "evil.Y"}}))
    with pytest.raises(ModelError, match="asks for code of its own, which is never run"):
        textseg.load(folder)
    (folder / "unet/config.json").write_text(json.dumps(config))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    for outside in ("../../other.safetensors", "/etc/passwd", "evil.bin"):
        (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": outside}})
        )
        with pytest.raises(ModelError, match="which is no file of weights"):
            textseg.load(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").unlink()
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        textseg.load(folder)


def test_half_precision_files_alone_load(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "m")
    for part, stem in find_family(folder).weights.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    assert set(check_model(folder).values()) == {"fp16"}
    assert textseg.load(folder, device="cpu").family == "sdxl"
