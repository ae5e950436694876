"""Single-file checkpoints in their original layouts are the folders they were made from."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import original_layouts
import pytest
import torch
from conftest import one_line
from tiny_models import Tiny, predicted, write_gguf
from transformer_layouts import TRANSFORMERS

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.latent import LatentModel
from textseg.backbone.loading import reads_whole_file_of
from textseg.cli import main
from textseg.errors import InputError, ModelError, ModelNotFoundError

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
WIDTHS = {
    "convert_flux_transformer_checkpoint_to_diffusers": (3072,),
    "convert_chroma_transformer_checkpoint_to_diffusers": (3072,),
    "convert_lumina2_to_diffusers": (2304, 768),
}
"""diffusers' conversions -> the widths that they take for granted."""


def narrowed(code: CodeType, widths: tuple[int, ...]) -> CodeType:
    """A function's code, with the functions inside it, for tiny transformers of width 32."""
    return code.replace(co_consts=tuple(
        narrowed(value, widths) if isinstance(value, CodeType) else 32 if value in widths else value
        for value in code.co_consts
    ))  # fmt: skip


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' conversions, for tiny transformers."""
    from diffusers.loaders import single_file_utils

    for name, widths in WIDTHS.items():
        convert: Any = getattr(single_file_utils, name)
        code = narrowed(convert.__code__, widths)
        assert code != convert.__code__
        monkeypatch.setattr(convert, "__code__", code)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder, and an empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("TEXTSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home" / "models"


@pytest.fixture
def file(tiny: Callable[[str], Tiny], tmp_path: Path) -> Callable[[str], Path]:
    """file(family) -> its weights in one file of the original layout."""
    from safetensors.torch import save_file

    def make(family: str) -> Path:
        path = tmp_path / f"{family}.safetensors"
        save_file(original_layouts.checkpoint(family, tiny(family)[0]), path)
        return path

    return make


def test_check_tells_what_a_file_is_like_and_what_it_lacks(
    file: Callable[[str], Path],
    folders: Callable[[str], Path],
    nowhere: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, like = file("latent-unet"), "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert main(["models", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"a single file like {like}, whose configurations are missing" in said
    assert f"`textseg models download {like} --configs`" in said and "F32" in said
    shutil.copytree(folders("latent-unet"), nowhere / like.replace("/", "--"))
    assert main(["models", "check", str(path)]) == 0
    assert f"whose configurations are in {nowhere}" in capsys.readouterr().out


def test_pickles_and_strangers_are_refused(tmp_path: Path) -> None:
    for name in ("model.ckpt", "model.bin", "model.pt", "model.pth"):
        (tmp_path / name).write_bytes(b"\x80\x02")
        with pytest.raises(ModelError, match="is a pickle, which can run code when loaded"):
            textseg.load(tmp_path / name)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="give it as transformer= beside a pipeline folder"):
        textseg.load(tmp_path / "model.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        textseg.load(tmp_path / "model.safetensors")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "family",
    ["latent-unet", "sd2", "sdxl", "sd3", "sd3-without-t5", "sd3.5", "flux", "flux-schnell",
     "chroma"],
)  # fmt: skip
def test_a_file_is_the_folder_it_was_made_from(
    family: str,
    file: Callable[[str], Path],
    folders: Callable[[str], Path],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, folder = file(family), folders(family)
    capfd.readouterr()
    loaded: Any = textseg.load(path, config=folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    expected: Any = textseg.load(folder, device="cpu")
    assert (type(loaded), loaded.family) == (type(expected), expected.family)
    assert loaded.name == str(path)
    for prompt in ("the dog", ""):
        torch.testing.assert_close(
            loaded.embed([prompt]), expected.embed([prompt]), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(predicted(loaded), predicted(expected), rtol=1e-4, atol=1e-5)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    latents = expected.encode(image)
    torch.testing.assert_close(loaded.encode(image), latents)
    assert np.array_equal(loaded.decode(latents), expected.decode(latents))
    found = textseg.segment(image, "the dog", model=loaded, samples=1)
    assert found.mask.shape == (48, 64)


ALONE = ("latent-unet", "sdxl", *TRANSFORMERS)
"""Families of `tiny_models` whose denoiser diffusers reads from a file in the original layout."""
PREFIXED = ("sdxl", "flux2", "lumina2", "z-image", "qwen-image", "qwen-image-2.1",
            "ernie-image", "hidream")  # fmt: skip
"""Those tested with the prefix that ComfyUI's files have."""


def denoiser_weights(family: str, pipe: Any) -> dict[str, torch.Tensor]:
    """A denoiser's weights as its publishers give them out."""
    unet = getattr(pipe, "unet", None)
    weights = (
        original_layouts.unet(unet) if unet is not None else TRANSFORMERS[family](pipe.transformer)
    )
    prefix = "model.diffusion_model." if family in PREFIXED else ""
    return {prefix + name: value for name, value in weights.items()}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("family", ALONE)
def test_a_denoisers_own_file_in_the_original_layout(
    family: str, tiny: Callable[[str], Tiny], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "alone.safetensors"
    weights = denoiser_weights(family, tiny(family)[0])
    save_file({k: (0.9 * v).contiguous() for k, v in weights.items()}, path)
    beside: Any = textseg.load(folders(family), device="cpu", transformer=path)
    changed: Any = textseg.load(folders(family), device="cpu")
    assert not torch.allclose(predicted(beside), predicted(changed), atol=1e-5)
    for value in changed.unet.state_dict().values():
        value *= 0.9
    torch.testing.assert_close(predicted(beside), predicted(changed), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match=r"give it as transformer= beside a pipeline folder"):
        textseg.load(path, config=folders(family), device="cpu")


@pytest.mark.parametrize("family", ["lcm", "sana-sprint"])
def test_what_a_conversion_leaves_out_is_missed(
    family: str, tiny: Callable[[str], Tiny], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    pipe = tiny(family)[0]
    if family == "lcm":
        weights = original_layouts.unet(pipe.unet)
        told = weights.pop("time_embedding.cond_proj.weight")
        weights["time_embed.cond_proj.weight"] = told
    else:
        weights = TRANSFORMERS["sana"](pipe.transformer)
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "alone.safetensors")
    with pytest.raises(ModelError, match=r"alone\.safetensors does not fit .* missing$") as error:
        textseg.load(folders(family), device="cpu", transformer=tmp_path / "alone.safetensors")
    assert one_line(error)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("family", ALONE)
def test_a_gguf_file_in_the_original_layout(
    family: str, tiny: Callable[[str], Tiny], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    pytest.importorskip("accelerate", reason="GGUF needs the extra 'models'")
    pipe, exact = tiny(family)
    weights = denoiser_weights(family, pipe)
    file = write_gguf(weights, tmp_path / "q8.gguf", family)
    quantised: Any = textseg.load(folders(family), device="cpu", transformer=file)
    expected, near = predicted(exact), predicted(quantised)
    assert 1e-6 < float((near - expected).norm() / expected.norm()) < 0.05


def test_configurations_are_found_on_this_machine(
    file: Callable[[str], Path], folders: Callable[[str], Path], nowhere: Path
) -> None:
    path = file("latent-unet")
    with pytest.raises(ModelNotFoundError, match=r"textseg models download .* --configs") as error:
        textseg.load(path, device="cpu")
    assert one_line(error)
    shutil.copytree(
        folders("latent-unet"), nowhere / "stable-diffusion-v1-5--stable-diffusion-v1-5"
    )
    loaded = textseg.load(path, device="cpu")
    expected = textseg.load(path, config=folders("latent-unet"), device="cpu")
    assert torch.equal(predicted(loaded), predicted(expected))
    assert isinstance(textseg.Segmenter(str(path)).model, LatentModel)


def hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of the real shapes in half precision, without its bytes on disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)
    return path


SD3_KEY = "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias"
FLUX_KEY = "double_blocks.0.img_attn.norm.key_norm.scale"
LAYOUTS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sd1": (
        {"model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1)},
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "sd2": (
        {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight":
         (320, 1024)},
        "stabilityai/stable-diffusion-2-1",
    ),
    "sdxl": (
        {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,)},
        "stabilityai/stable-diffusion-xl-base-1.0",
    ),
    "sd3": (
        {SD3_KEY: (9216,), "model.diffusion_model.pos_embed": (1, 36864, 1536)},
        "stabilityai/stable-diffusion-3-medium-diffusers",
    ),
    "sd3.5 medium": (
        {SD3_KEY: (9216,), "model.diffusion_model.pos_embed": (1, 147456, 1536)},
        "stabilityai/stable-diffusion-3.5-medium",
    ),
    "sd3.5 large": (
        {"model.diffusion_model.joint_blocks.37.x_block.mlp.fc1.weight": (9728, 2432)},
        "stabilityai/stable-diffusion-3.5-large",
    ),
    "flux dev": (
        {FLUX_KEY: (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 64)},
        "black-forest-labs/FLUX.1-dev",
    ),
    "flux schnell": ({FLUX_KEY: (128,)}, "black-forest-labs/FLUX.1-schnell"),
}  # fmt: skip


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_tells_whose_configurations_are_needed(layout: str, tmp_path: Path) -> None:
    shapes, model = LAYOUTS[layout]
    with pytest.raises(ModelNotFoundError) as error:
        textseg.load(hollow(tmp_path / "x.safetensors", shapes), device="cpu")
    assert f"textseg models download {model} --configs" in one_line(error)


def test_the_page_says_what_diffusers_reads_from_one_file() -> None:
    import diffusers
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    lines = [x.strip("| ").split(" | ") for x in PAGE.read_text().splitlines() if x[:2] == "| "]
    said = {
        cells[0]: set(re.findall(r"`([\w.-]+)`", cells[1])) for cells in lines if len(cells) > 1
    }
    whole, original, own, folder = (
        said[key] for key in ("all of a model", "the denoiser, original layout",
                              "the denoiser, diffusers' layout only", "folders only")
    )  # fmt: skip
    read = {f.name for f in ALL if f.networks[f.denoiser] in SINGLE_FILE_LOADABLE_CLASSES}
    assert (original | own, folder) == (read, {f.name for f in ALL} - read)
    assert not original & own and whole <= original
    assert whole == {f.name for f in ALL if reads_whole_file_of(f)} - own
    assert all(hasattr(getattr(diffusers, f.pipeline), "from_single_file") for f in ALL
               if f.name in whole)  # fmt: skip
    assert set(ALONE) - {"sd3.5"} == original


def test_a_file_of_no_known_layout_is_not_said_to_be_stable_diffusion(
    tiny: Callable[[str], Tiny], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "alone.safetensors"
    save_file(denoiser_weights("qwen-image", tiny("qwen-image")[0]), path)
    with pytest.raises(ModelError, match="laid out like no model that diffusers knows") as error:
        textseg.load(path, device="cpu")
    assert "give it as transformer=" in one_line(error)
    for name in ("x.lora_A.weight", "lora_unet_x.lora_down.weight", "x.to_q_lora.up.weight"):
        save_file({name: torch.ones(1, 2)}, path)
        with pytest.raises(ModelError, match="holds a LoRA; give it as lora= beside"):
            textseg.load(path, device="cpu")
    save_file(denoiser_weights("z-image", tiny("z-image")[0]), path)
    assert main(["models", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "the denoiser alone of a model like Tongyi-MAI/Z-Image-Turbo: give it as --tr" in said


@pytest.mark.parametrize("family", ["qwen-image", "z-image", "kandinsky5"])
def test_families_that_no_whole_file_holds(
    family: str, file: Callable[[str], Path], folders: Callable[[str], Path]
) -> None:
    with pytest.raises(ModelError, match=r"is no file that diffusers reads a whole") as error:
        textseg.load(file("sd3"), config=folders(family), device="cpu")
    assert ("give it as transformer=" in one_line(error)) == (family != "kandinsky5")


def test_what_cannot_be_beside_a_single_file(
    file: Callable[[str], Path], folders: Callable[[str], Path]
) -> None:
    path, folder = file("latent-unet"), folders("latent-unet")
    with pytest.raises(InputError, match="transformer must be left out for a single file, got"):
        textseg.load(path, config=folder, transformer=path)
    with pytest.raises(ModelError) as error:
        textseg.load(path, config=folders("sd3"), device="cpu")
    assert str(path) in one_line(error)
