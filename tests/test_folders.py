"""What is refused of a pipeline folder, and why; whole folders load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import one_line
from tiny_models import Tiny

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.folders import check_model, find_family, weigh_model
from textseg.cli import main
from textseg.errors import ModelError


def test_unsupported_pipelines_get_one_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("OmniGenPipeline", "FluxFillPipeline", "WanPipeline", None, ["x"]):
        (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ModelError) as error:
            textseg.load(folder)
        assert all(family.title in one_line(error) for family in ALL)


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


def test_parts_of_two_families_do_not_fit_together(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("qwen-image"), tmp_path / "m")
    shutil.rmtree(folder / "vae")
    shutil.copytree(folders("sana") / "vae", folder / "vae")
    with pytest.raises(ModelError, match="m has parts that do not fit together") as error:
        textseg.load(folder, device="cpu")
    assert one_line(error)


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


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart-sigma", "kolors"])
def test_every_missing_or_cut_file_is_named(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = folders(family)
    kind = find_family(whole)
    files = [f"{part}/{stem}.safetensors" for part, stem in kind.weights.items()]
    files += [f"{part}/config.json" for part in kind.networks]
    words = "tokenizer.model" if family == "kolors" else "tokenizer.json"
    files += [f"{part}/{words}" for part in kind.tokenizers]
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
    # ChatGLM3's own configuration does, and is read by diffusers' class all the same.
    told = shutil.copytree(folders("kolors"), tmp_path / "k") / "text_encoder/config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"auto_map": {"x": "evil.Y"}}))
    assert textseg.load(told.parent.parent, device="cpu").family == "kolors"
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


def told_by_check(name: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["models", "check", str(name)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("family", ["sd3", "kandinsky5"])
def test_check_tells_numbers_and_memory(
    family: str,
    folders: Callable[[str], Path],
    tiny: Callable[[str], Tiny],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe, backbone = tiny(family)
    folder = folders(family)
    half = full = 0
    weights = weigh_model(folder)
    for part, numbers in weights.items():
        state = {t.data_ptr(): t for t in getattr(pipe, part).state_dict().values()}
        assert numbers == {"F32": sum(t.numel() for t in state.values())}, part
        half += numbers.total() * (4 if part == "vae" else 2)
        full += numbers.total() * 4
    code, said, _ = told_by_check(folder, capsys)
    assert code == 0
    assert f"{folder}: {backbone.kind.name} ({backbone.kind.title}), complete" in said
    assert all(f"  {part} " in said for part in weights)
    assert said.splitlines()[-1].split(": ")[1] == (
        f"{half / 1000:.0f} KB in 16 bits (the default on cuda), {full / 1000:.0f} KB in float32"
    )


def test_check_tells_everything_that_is_missing(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "m")
    gone = ["unet/config.json", "vae/diffusion_pytorch_model.safetensors",
            "tokenizer_2/tokenizer.json"]  # fmt: skip
    for name in gone:
        (folder / name).unlink()
    code, said, error = told_by_check(folder, capsys)
    assert code == 2 and len(error.splitlines()) == 1
    assert all(str((folder / name).parent) in said + error for name in gone)
    assert "complete;" not in said


def test_checking_loads_nothing_heavy(folders: Callable[[str], Path]) -> None:
    code = (
        "import sys; from textseg.cli import main; main(['models', 'check', sys.argv[1]]);"
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, folders("sd3")], capture_output=True)
    assert done.returncode == 0, done.stderr
