"""What is loaded beside a model, each against the plain model changed by hand."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MAX_TOKENS, one_line
from tiny_models import Tiny, predicted, write_gguf

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.folders import find_family
from textseg.backbone.loading import loads_lora_into
from textseg.errors import InputError, MissingDependencyError, ModelError

WITH_LORA = ("kolors", "bria-fibo", "bria-fibo-2", "flux2-klein-kv", "z-image-omni",
             "latent-unet", "sdxl", "sd3", "flux", "flux2-klein", "chroma", "aura-flow", "cogview4",
             "qwen-image", "z-image", "ernie-image", "lumina2", "sana", "krea2",
             "qwen-image-2.1", "hidream", "lcm", "flux2", "sana-sprint", "kandinsky5")  # fmt: skip
WITH_GGUF = ("lcm", "sana-sprint", "kolors", "sd3", "flux", "flux2-klein", "chroma", "aura-flow",
             "qwen-image", "z-image", "ernie-image", "lumina2", "sana", "krea2",
             "qwen-image-2.1", "hidream")  # fmt: skip


@pytest.mark.parametrize("family", WITH_LORA)
def test_lora_is_its_product_added_to_the_weights(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    plain: Any = textseg.load(folders(family), device="cpu")
    network = find_family(folders(family)).denoiser
    name = next(n for n, _ in plain.unet.named_modules() if n.endswith(("to_q", "to_query")))
    weight = plain.unet.get_submodule(name).weight
    torch.manual_seed(5)
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    file = tmp_path / "style.safetensors"
    save_file(
        {f"{network}.{name}.lora_A.weight": down, f"{network}.{name}.lora_B.weight": up}, file
    )
    before = predicted(plain)
    tuned: Any = textseg.load(folders(family), device="cpu", lora=[(file, 0.5)])
    assert "lora style x 0.5" in tuned.name
    assert not torch.allclose(predicted(tuned), before, atol=1e-5)
    weight += 0.5 * up @ down
    torch.testing.assert_close(predicted(tuned), predicted(plain), rtol=1e-3, atol=1e-4)


def test_bad_loras_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    folder = folders("latent-unet")
    (tmp_path / "style.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"style\.bin is a pickle, which can run code"):
        textseg.load(folder, lora=tmp_path / "style.bin")
    with pytest.raises(ModelError, match="missing"):
        textseg.load(folder, lora=tmp_path / "none.safetensors")
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit the model") as error:
        textseg.load(folder, device="cpu", lora=tmp_path / "other.safetensors")
    assert one_line(error)
    with pytest.raises(InputError, match="lora must have a scale"):
        textseg.load(folder, lora=[(tmp_path / "other.safetensors", "much")])  # type: ignore[list-item]


def test_what_diffusers_does_not_load_is_refused_before_the_model_is_loaded(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    assert {f.name for f in ALL if loads_lora_into(f)} == set(WITH_LORA)
    page = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    said = page.partition("diffusers loads no LoRAs into ")[2].partition(" Tested on ")[0]
    assert set(re.findall("`(.+?)`", said)) == {f.name for f in ALL} - set(WITH_LORA)
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    for family, option in (("prx", "lora"), ("dreamlite", "lora"), ("z-image", "embedding")):
        given: dict[str, Any] = {option: tmp_path / "a.safetensors"}
        with pytest.raises(InputError, match=f"{option} must be left out for a .* model") as error:
            textseg.load(folders(family), device="cpu", **given)
        assert one_line(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [("lora", ("a.safetensors", 0.5)), ("lora", {"a.safetensors": 0.5}), ("lora", 5),
     ("lora", [("a", 1, 2)]), ("transformer", torch.nn.Linear(1, 1)), ("embedding", [7])],
)  # fmt: skip
def test_what_is_no_path_is_refused(option: str, value: Any, tmp_path: Path) -> None:
    if isinstance(value, tuple):
        value = (tmp_path, 0.5)
        (tmp_path / "a.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match=f"{option} must be ") as error:
        textseg.load("mini", **{option: value})
    assert one_line(error)


def test_files_that_are_no_gguf_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"no such thing")
    with pytest.raises(ModelError, match=r"a\.gguf is not a GGUF file"):
        textseg.load("mini", transformer=tmp_path / "a.gguf")
    with pytest.raises(ModelError, match="is a folder; a file of weights was expected"):
        textseg.load("mini", transformer=tmp_path)


def test_a_gguf_file_that_is_cut_is_said_to_be_damaged(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(ModelError, match="it is damaged or half-downloaded") as error:
        textseg.load(folders("flux"), device="cpu", transformer=tmp_path / "a.gguf")
    assert one_line(error)


def test_a_reason_that_lists_every_layer_is_cut(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    layers = {f"transformer.far.{i}.to_q.lora_{ab}.weight": torch.ones(2, 2)
              for i in range(100) for ab in "AB"}  # fmt: skip
    save_file(layers, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="does not fit the model") as error:
        textseg.load(folders("z-image"), device="cpu", lora=tmp_path / "other.safetensors")
    assert len(one_line(error)) < 500 + len(str(tmp_path))


def test_learned_words(folders: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    vectors = torch.randn(2, 16)
    save_file({"<mydog>": vectors}, tmp_path / "mydog.safetensors")
    taught: Any = textseg.load(
        folders("latent-unet"), device="cpu", embedding=tmp_path / "mydog.safetensors"
    )
    encoder, tokenizer = taught.text_encoder, taught.tokenizer
    ids = tokenizer("a <mydog> <mydog>_1", padding="max_length", max_length=MAX_TOKENS,
                    return_tensors="pt").input_ids  # fmt: skip
    rows = encoder.get_input_embeddings().weight[ids[0, 2:4]]
    torch.testing.assert_close(rows, vectors)
    torch.testing.assert_close(taught.embed(["a <mydog>"])[0], encoder(ids)[0][0])
    (tmp_path / "mydog.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        textseg.load(folders("latent-unet"), embedding=tmp_path / "mydog.pt")
    save_file({"<wide>": torch.randn(1, 99)}, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match=r"wide\.safetensors does not fit the model"):
        textseg.load(folders("latent-unet"), embedding=tmp_path / "wide.safetensors")


def test_words_learned_for_both_of_sdxls_encoders(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(
        {"clip_l": torch.randn(1, 16), "clip_g": torch.randn(1, 24)}, tmp_path / "cat2.safetensors"
    )
    taught: Any = textseg.load(
        folders("sdxl"), device="cpu", embedding=tmp_path / "cat2.safetensors"
    )
    for words in (taught.pipe.tokenizer, taught.pipe.tokenizer_2):
        assert "cat2" in words.get_added_vocab()
    assert torch.isfinite(taught.embed(["a cat2"])).all()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_transformer_from_a_file_of_its_own(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders(family), tmp_path / "m")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    changed = {k: v * 0.9 for k, v in load_file(weights).items()}
    save_file(changed, tmp_path / "tuned.safetensors")
    beside = textseg.load(folder, device="cpu", transformer=tmp_path / "tuned.safetensors")
    assert not torch.allclose(predicted(beside), predicted(textseg.load(folder, device="cpu")))
    save_file(changed, weights)
    expected = predicted(textseg.load(folder, device="cpu"))
    torch.testing.assert_close(predicted(beside), expected, rtol=1e-4, atol=1e-5)
    weights.unlink()
    assert textseg.load(folder, device="cpu", transformer=tmp_path / "tuned.safetensors")


@pytest.mark.parametrize("family", WITH_GGUF)
def test_a_gguf_transformer(family: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    pytest.importorskip("accelerate", reason="GGUF needs the extra 'models'")
    folder = folders(family)
    plain: Any = textseg.load(folder, device="cpu")
    file = write_gguf(plain.unet.state_dict(), tmp_path / "q8.gguf", family)
    quantised: Any = textseg.load(folder, device="cpu", transformer=file)
    exact, near = predicted(plain), predicted(quantised)
    error = float((near - exact).norm() / exact.norm())
    assert 1e-6 < error < 0.05
    found = textseg.segment(np.zeros((48, 80, 3), np.uint8), "the dog", model=quantised, samples=1)
    assert found.mask.shape == (48, 80) and "q8.gguf" in found.model


def test_a_gguf_file_of_many_quantisations_is_its_numbers(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    gguf: Any = pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    pytest.importorskip("accelerate", reason="GGUF needs the extra 'models'")
    names = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16")
    kinds = itertools.cycle(gguf.GGMLQuantizationType[name] for name in names)
    plain: Any = textseg.load(folders("flux"), device="cpu")
    writer = gguf.GGUFWriter(tmp_path / "mixed.gguf", "flux")
    exact, used = predicted(plain), set()
    for name, value in plain.unet.state_dict().items():
        array = value.numpy()
        if name.endswith("weight") and array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = next(kinds)
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
            value.copy_(torch.from_numpy(np.array(gguf.quants.dequantize(packed, kind))))
            used.add(kind)
        else:
            writer.add_tensor(name, array)
    assert len(used) == len(names)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read: Any = textseg.load(folders("flux"), device="cpu", transformer=tmp_path / "mixed.gguf")
    near, expected = predicted(read), predicted(plain)
    # diffusers multiplies scales in 16 bits; the quantisation itself is 4 to 16 bits.
    assert (near - expected).norm() < 0.002 * expected.norm() < 0.1 * (near - exact).norm()


def rows_near_whole_numbers(count: int, width: int, unit: float) -> tuple[torch.Tensor, Any]:
    """Rows of numbers 0.3 of a unit above whole ones from -126 to 126, but for a first of 127."""
    whole = torch.randint(-126, 127, (count, width)).float()
    rows = (whole + 0.3) * unit
    whole[:, 0], rows[:, 0] = 127, 127 * unit
    return rows, whole


def test_eight_bits_are_llm_int8() -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    from textseg.backbone.extras import to_eight_bit

    torch.manual_seed(0)
    layer = torch.nn.Linear(24, 40).requires_grad_(False)
    layer.weight[:], weights = rows_near_whole_numbers(40, 24, 1 / 512)
    x, inputs = rows_near_whole_numbers(6, 24, 1 / 32)
    x[2, 5] = 9.0
    inputs[:, 5] = 0
    network: Any = torch.nn.Sequential(layer, torch.nn.Conv1d(1, 1, 1))
    to_eight_bit(network, torch.device("cpu"))
    assert torch.equal(network[0].weight, weights.to(torch.int8))
    assert network[1].weight.dtype == torch.float32
    expected = inputs / 32 @ weights.T / 512 + x[:, [5]] @ weights[:, [5]].T / 512 + layer.bias
    torch.testing.assert_close(network[0](x), expected, rtol=1e-3, atol=1e-3)
    assert (layer(x) - expected).abs().mean() > 0.005


@pytest.mark.parametrize("family", [family.name for family in ALL])
def test_an_eight_bit_denoiser(
    family: str,
    folders: Callable[[str], Path],
    tiny: Callable[[str], Tiny],
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    plain: Any = tiny(family)[1]
    capfd.readouterr()
    quantised: Any = textseg.load(folders(family), device="cpu", quantize="8bit")
    linear = {n: m for n, m in quantised.unet.named_modules() if isinstance(m, torch.nn.Linear)}
    plainly = {n for n, m in linear.items() if m.weight.dtype != torch.int8}
    # HunyuanDiT pools text by a function that is given the weights.
    assert len(linear) > len(plainly) and all(".pooler." in n for n in plainly)
    assert bool(plainly) == (family == "hunyuan-dit")
    owner = getattr(quantised, "pipe", quantised)
    for part in {*quantised.kind.networks} - {quantised.kind.denoiser}:
        network = getattr(owner, part, quantised.vae)
        assert all(p.dtype == torch.float32 for p in network.parameters()), part
    exact, near = predicted(plain), predicted(quantised)
    error = float((near - exact).norm() / exact.norm())
    assert 1e-6 < error < 0.05
    found = textseg.segment(np.zeros((48, 80, 3), np.uint8), "the dog", model=quantised, samples=1)
    assert found.mask.shape == (48, 80) and found.model.endswith("+ 8bit")
    assert capfd.readouterr().err == ""


def test_a_lora_is_fused_before_the_weights_are_quantised(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    plain: Any = textseg.load(folders("sd3"), device="cpu")
    name = "transformer_blocks.0.attn.to_q"
    width = plain.unet.get_submodule(name).weight.shape[0]
    save_file(
        {f"transformer.{name}.lora_A.weight": torch.randn(2, width),
         f"transformer.{name}.lora_B.weight": torch.randn(width, 2)},
        tmp_path / "style.safetensors",
    )  # fmt: skip
    tuned: Any = textseg.load(folders("sd3"), device="cpu", lora=tmp_path / "style.safetensors")
    both: Any = textseg.load(
        folders("sd3"), device="cpu", lora=tmp_path / "style.safetensors", quantize="8bit"
    )
    difference = (predicted(both) - predicted(tuned)).norm()
    assert difference < 0.2 * (predicted(plain) - predicted(tuned)).norm()


def test_options_that_cannot_be(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("sdxl")
    for how in ("model", "layer"):
        with pytest.raises(InputError, match="offload must be 'disk' on the cpu"):
            textseg.load(folder, device="cpu", offload=how)
    with pytest.raises(InputError, match="offload must be model or layer or disk, got 'cloud'"):
        textseg.load(folder, offload="cloud")
    with pytest.raises(InputError, match="quantize must be 8bit, got '4bit'"):
        textseg.load(folder, quantize="4bit")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        InputError, match="quantize must be left out beside a GGUF file, got '8bit'"
    ):
        textseg.load(folder, transformer=tmp_path / "x.gguf", quantize="8bit")
    with pytest.raises(InputError, match="config must be left out for a folder"):
        textseg.load(folder, config="someone/else")
    (tmp_path / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="transformer must be left out for a PixArt"):
        textseg.load(folders("pixart-sigma"), transformer=tmp_path / "x.safetensors")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"must be a \.safetensors or \.gguf file"):
        textseg.load(folder, transformer=tmp_path / "x.onnx")


def test_missing_extras_are_named(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from safetensors.torch import save_file

    find = importlib.util.find_spec
    gone = {"peft", "gguf", "accelerate", "bitsandbytes"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a)
    )
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    options: tuple[dict[str, Any], ...] = (
        {"lora": tmp_path / "a.safetensors"}, {"transformer": tmp_path / "a.gguf"},
        {"offload": "disk"},
    )  # fmt: skip
    for option in options:
        with pytest.raises(MissingDependencyError, match=r"pip install 'textseg\[models\]'"):
            textseg.load(folders("sd3"), device="cpu", **option)
    with pytest.raises(MissingDependencyError, match="pip install bitsandbytes"):
        textseg.load(folders("sd3"), device="cpu", quantize="8bit")
