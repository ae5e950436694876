"""Finding, listing, checking and removing models; no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from textseg.backbone import load, registry
from textseg.backbone.folders import check_model, verify_model
from textseg.errors import InputError, ModelError, ModelNotFoundError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder and an empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("TEXTSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(registry, "EMBEDDED", tmp_path / "package")
    return tmp_path


@pytest.fixture
def broken(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "broken")


def put_in_cache(home: Path, name: str, folder: Path, revision: str = "abc123") -> Path:
    """A model laid out as the hub client does: blobs, and links to them in a snapshot."""
    entry = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = entry / "snapshots" / revision
    (entry / "blobs").mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(revision)
    for i, source in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        blob = entry / "blobs" / f"{i:040x}"
        shutil.copy(source, blob)
        link = snapshot / source.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_models_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEXTSEG_HOME", str(tmp_path))
    assert registry.models_folder() == tmp_path / "models"
    monkeypatch.delenv("TEXTSEG_HOME")
    monkeypatch.setattr(registry.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert registry.models_folder() == tmp_path / "textseg" / "models"
    monkeypatch.setattr(registry.sys, "platform", "darwin")
    assert registry.models_folder().parts[-4:] == (
        "Library", "Application Support", "textseg", "models",
    )  # fmt: skip


def test_find_in_each_place(home: Path, tiny_folder: Path) -> None:
    assert registry.find_model(tiny_folder) == tiny_folder
    assert registry.find_model(str(tiny_folder)) == tiny_folder
    snapshot = put_in_cache(home, "someone/tiny", tiny_folder)
    assert registry.find_model("someone/tiny") == snapshot
    own = home / "home" / "models" / "someone--tiny"
    shutil.copytree(tiny_folder, own)
    assert registry.find_model("someone/tiny") == own
    shutil.copytree(tiny_folder, home / "package" / "mini")
    assert registry.find_model("mini") == home / "package" / "mini"


def test_a_cached_model_loads(home: Path, tiny_folder: Path) -> None:
    put_in_cache(home, "someone/tiny", tiny_folder)
    assert load("someone/tiny", device="cpu").name == "someone/tiny"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("someone/else", "textseg models download someone/else"),
        ("mini", "install the textseg package again"),
        ("nothing", "textseg models download OWNER/NAME"),
        ("/no/such/folder", "give a folder"),
        ("../mini", "give a folder"),
    ],
)
def test_what_is_not_here_says_how_to_get_it(home: Path, name: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        load(name)
    assert hint in one_line(error) and repr(name) in one_line(error)


def test_bad_names(home: Path, tmp_path: Path) -> None:
    for name in ("", " ", "a\0b"):
        with pytest.raises(InputError, match="model must be a name"):
            registry.find_model(name)
    with pytest.raises(InputError, match="model must be a name or a folder, got None"):
        load(None)  # type: ignore[arg-type]
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="single file"):
        registry.find_model(tmp_path / "model.safetensors")


def test_other_families_are_refused(broken: Path) -> None:
    index = broken / "model_index.json"
    index.write_text(json.dumps({"_class_name": "OmniGenPipeline"}))
    with pytest.raises(ModelError, match="OmniGenPipeline; supported families: Stable Diffusion"):
        load(broken)
    index.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load(broken)
    index.write_text("[]")
    with pytest.raises(ModelError, match="must hold a JSON object"):
        load(broken)
    index.unlink()
    with pytest.raises(ModelError, match="not a diffusers pipeline"):
        load(broken)


@pytest.mark.parametrize(
    "name",
    [
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
        "text_encoder/model.safetensors", "scheduler/scheduler_config.json",
    ],
)  # fmt: skip
def test_missing_files_are_named(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(ModelError) as error:
        load(broken)
    assert str(broken / name) in one_line(error) and "missing" in str(error.value)


def test_missing_tokenizer(broken: Path) -> None:
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(ModelError, match=r"tokenizer is missing; the model is incomplete"):
        load(broken)


def test_damaged_weights_are_named(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for damage, message in [
        (whole[:-1], "is damaged"),
        (whole[: len(whole) // 2], "is damaged"),
        (whole + b"x", "is damaged"),
        (whole[:5], "is damaged"),
        (b"", "is damaged"),
        (b"\xff" * 100, "is not a safetensors file"),
        (b"GGUF" + whole, "is a GGUF file; rename it to .gguf and give it as transformer="),
        ((9).to_bytes(8, "little") + b"not json!" + whole, "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ]:
        weights.write_bytes(damage)
        with pytest.raises(ModelError) as error:
            load(broken)
        assert str(weights) in one_line(error) and message in str(error.value)


def test_half_finished_downloads(broken: Path) -> None:
    (broken / "vae" / "diffusion_pytorch_model.safetensors.incomplete").write_bytes(b"x")
    with pytest.raises(ModelError, match="half-finished download"):
        load(broken)


def test_half_downloaded_cache_entry(home: Path, tiny_folder: Path) -> None:
    snapshot = put_in_cache(home, "someone/tiny", tiny_folder)
    link = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    link.resolve().unlink()
    with pytest.raises(ModelError, match="is missing; the model is incomplete, fetch it again"):
        load("someone/tiny")
    [info] = registry.list_models()
    assert not info.complete and "is missing" in info.problem


def test_pickles_are_refused(broken: Path) -> None:
    folder = broken / "unet"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"\.bin is a pickle, which can run code"):
        load(broken)


def test_half_precision_files_alone_are_found(broken: Path) -> None:
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        folder = broken / part
        (folder / f"{stem}.safetensors").rename(folder / f"{stem}.fp16.safetensors")
    assert check_model(broken) == {"unet": "fp16", "vae": None, "text_encoder": "fp16"}
    assert load(broken, device="cpu").native_size == 64


def test_a_missing_shard_is_named(broken: Path) -> None:
    folder = broken / "unet"
    first = folder / "diffusion_pytorch_model-00001-of-00002.safetensors"
    (folder / "diffusion_pytorch_model.safetensors").rename(first)
    shards = {"a": first.name, "b": first.name.replace("00001", "00002")}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": shards})
    )
    with pytest.raises(ModelError, match=r"00002-of-00002\.safetensors is missing"):
        load(broken)


def test_list_models(home: Path, tiny_folder: Path, broken: Path) -> None:
    assert registry.list_models() == []
    shutil.copytree(tiny_folder, home / "package" / "mini")
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "OmniGenPipeline"}))
    shutil.move(broken, home / "home" / "models" / "big--omni")
    put_in_cache(home, "someone/tiny", tiny_folder)
    (home / "hub" / "models--someone--bert" / "snapshots" / "x").mkdir(parents=True)
    mini, omni, tiny = registry.list_models()
    assert (mini.name, mini.family, mini.complete, mini.problem) == (
        "mini", "latent-unet", True, "",
    )  # fmt: skip
    assert mini.size == sum(p.stat().st_size for p in tiny_folder.rglob("*") if p.is_file())
    assert (omni.name, omni.family, omni.complete) == ("big/omni", "OmniGenPipeline", False)
    assert (tiny.name, tiny.complete, tiny.size) == ("someone/tiny", True, mini.size)


def test_remove_model(home: Path, tiny_folder: Path) -> None:
    size = sum(p.stat().st_size for p in tiny_folder.rglob("*") if p.is_file())
    own = home / "home" / "models" / "someone--tiny"
    shutil.copytree(tiny_folder, own)
    put_in_cache(home, "someone/tiny", tiny_folder)
    assert registry.remove_model("someone/tiny") == size
    assert not own.exists() and registry.find_model("someone/tiny")
    assert registry.remove_model("someone/tiny") >= size
    with pytest.raises(ModelNotFoundError, match="no model 'someone/tiny'"):
        registry.remove_model("someone/tiny")


def test_remove_refuses_everything_else(home: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, home / "package" / "mini")
    with pytest.raises(InputError, match="part of the package"):
        registry.remove_model("mini")
    for name in (str(tiny_folder), "..", "../tiny", "a/../b", "a/b/c", "", ".", "~"):
        with pytest.raises(InputError, match="folders are not removed"):
            registry.remove_model(name)
    (home / "home" / "models").mkdir(parents=True)
    (home / "home" / "models" / "linked").symlink_to(tiny_folder)
    with pytest.raises(InputError, match="must lie inside"):
        registry.remove_model("linked")
    assert (tiny_folder / "model_index.json").is_file()


def test_download_asks_for_what_is_needed_only(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_folder)

    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: str(tiny_folder / "model_index.json")
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert registry.download_model("someone/tiny", variant="fp16") == tiny_folder
    assert asked["name"] == "someone/tiny"
    from fnmatch import fnmatch

    def wanted(path: str) -> bool:
        return any(fnmatch(path, p) for p in asked["allow_patterns"]) and not any(
            fnmatch(path, p) for p in asked["ignore_patterns"]
        )

    assert wanted("unet/diffusion_pytorch_model.fp16.safetensors")
    assert wanted("model_index.json") and wanted("tokenizer/vocab.json")
    assert wanted("scheduler/scheduler_config.json") and wanted("text_encoder/config.json")
    for path in ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors",
                 "safety_checker/config.json", "v1-5-pruned.ckpt", "v1-5.safetensors"):  # fmt: skip
        assert not wanted(path)


def test_download_errors_are_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: Any, **options: Any) -> str:
        raise OSError("no network\nlong story")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError) as error:
        registry.download_model("someone/tiny")
    assert one_line(error) == "'someone/tiny' could not be downloaded: no network"
    for name in ("mini", "/tmp", "a/b/c"):
        with pytest.raises(InputError, match="hub id like OWNER/NAME"):
            registry.download_model(name)


def test_digests_of_cached_files_are_compared(home: Path, tiny_folder: Path) -> None:
    import hashlib

    snapshot = put_in_cache(home, "someone/tiny", tiny_folder)
    weights = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    count = 0
    for link in sorted(p for p in snapshot.rglob("*") if p.is_symlink()):
        data = link.read_bytes()
        if link.suffix == ".safetensors":
            name = hashlib.sha256(data).hexdigest()
        else:
            name = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        blob = link.resolve().rename(link.resolve().with_name(name))
        link.unlink()
        link.symlink_to(blob)
        count += 1
    assert verify_model(snapshot) == count
    assert verify_model(tiny_folder) == 0
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1  # as long as before: only the digest tells
    weights.resolve().write_bytes(damaged)
    check_model(snapshot)
    with pytest.raises(ModelError, match=r"is not what was published") as error:
        verify_model(snapshot)
    assert str(weights) in one_line(error)


def test_configurations_alone_can_be_downloaded(
    home: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    bare = shutil.copytree(
        tiny_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
    )
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *a, **k: str(bare / "model_index.json")
    )
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **k: (asked.update(k), str(bare))[1]
    )
    assert registry.download_model("someone/tiny", configs_only=True) == bare
    assert not any("safetensors" in pattern for pattern in asked["allow_patterns"])
    with pytest.raises(ModelError, match="is missing"):
        registry.download_model("someone/tiny")
