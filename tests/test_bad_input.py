"""Whatever is wrong takes one line that says what, and leaves nothing half-done."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

from textseg import ImageError, InputError, segment
from textseg.cli import main

TESTS = Path(__file__).parent


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    backbone = FakeBackbone({"dog": (0.25, 0.1, 0.75, 0.4)})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: backbone)
    return backbone


@pytest.fixture
def park(tmp_path: Path, tiny_image: np.ndarray) -> Path:
    path = tmp_path / "park.png"
    Image.fromarray(tiny_image).save(path)
    return path


def fails(words: list[Any], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one line on standard error with which a command line fails."""
    assert main([str(word) for word in words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("textseg")
    return captured.err


def missing(folder: Path) -> Path:
    return folder / "missing.jpg"


def a_folder(folder: Path) -> Path:
    return folder


def truncated_jpeg(folder: Path) -> Path:
    path = folder / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def text_file(folder: Path) -> Path:
    path = folder / "notes.png"
    path.write_text("not a picture\n")
    return path


def empty_file(folder: Path) -> Path:
    path = folder / "empty.png"
    path.touch()
    return path


def huge_header(folder: Path) -> Path:
    """A PNG of 30,000 x 30,000 pixels by its header, with hardly a byte behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path = folder / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")))
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "must be an existing file"),
        (a_folder, "must be a file, got the folder"),
        (truncated_jpeg, "cannot be decoded"),
        (text_file, "in no known"),
        (empty_file, "empty (0 bytes)"),
        (huge_header, "must have at most"),
    ],
)
def test_bad_files(
    make: Any, message: str, model: FakeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    line = fails(["segment", path, "-q", "dog", "-o", tmp_path / "out"], capsys)
    assert message in line
    assert path.name in line
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ImageError):
        segment(path, "dog", model=model)


def test_one_bad_file_does_not_stop_the_others(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [text_file(tmp_path), park, missing(tmp_path)]
    code = main(["segment", *map(str, images), "-q", "dog", "-o", str(tmp_path / "out")])
    assert code == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert len(captured.err.splitlines()) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["park.dog.mask.png"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes_work(
    eps_backbone: Any, height: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: eps_backbone)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "thin.png")
    words = ["segment", "thin.png", "-q", "dog", "--samples", "1", "-o", "out", "--format"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "mask,score,overlay,cutout,rle,polygon,coco"]) == 0
    with Image.open(tmp_path / "out" / "thin.dog.mask.png") as mask:
        assert mask.size == (width, height)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 12), np.nan), "must be finite, got NaN"),
        (np.full((8, 12, 3), np.inf, np.float32), "must be finite"),
        (np.full((8, 12, 3), 3.0), r"must lie in \[0, 1\], got 3 to 3"),
        (np.zeros((2, 8, 12, 3), np.uint8), r"got \(2, 8, 12, 3\)"),
        (np.zeros((3, 8, 12), np.uint8), r"channels last, got \(3, 8, 12\)"),
        (np.zeros(12, np.uint8), r"got \(12,\)"),
        (np.zeros((0, 12, 3), np.uint8), "must not be empty"),
        (np.zeros((8, 12, 3), np.int32), "got int32"),
        (np.full((8, 12), "dog"), "must be bool, uint8, uint16 or float"),
        (None, "got NoneType"),
        (b"", "empty"),
        ("http://example.org/a.png", "allow_url=True"),
    ],
)
def test_bad_arrays(image: Any, message: str, model: FakeBackbone) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        segment(image, "dog", model=model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["segment", "edit", "caption", "batch"])
def test_a_url_is_refused_by_the_flag_s_name(
    command: str, model: FakeBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "segment": ["-q", "dog", "-o", str(tmp_path)],
        "edit": ["-q", "dog", "-p", "cat", "-o", str(tmp_path / "out.png")],
        "caption": ["--nouns", "dog"],
        "batch": ["-q", "dog", "-o", str(tmp_path / "out"), "--workers", "0"],
    }[command]
    assert main([command, "http://example.org/a.png", *words]) == 2
    error = capsys.readouterr().err
    assert "fetched only with --allow-url, got 'http://example.org/a.png'" in error
    assert "=True" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "query must not be empty"),
        (" \t\n", "query must not be empty"),
        ("dog " * 2500, "at most 1000 characters, got 9999"),
        ("?!", "query must name something, got '?!'"),
        ([], "must be a text or a list of texts"),
        (["dog", ""], "query must not be empty"),
        (["dog", 3], "query must be a text"),
        (None, "must be a text or a list of texts"),
    ],
)
def test_bad_queries(
    query: Any, message: str, model: FakeBackbone, park: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(InputError) as caught:
        segment(park, query, model=model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if isinstance(query, str):
        assert message in fails(["segment", park, "-q", query, "-o", tmp_path / "out"], capsys)
    assert model.calls == []


def test_a_query_of_unknown_words_is_an_error_and_still_written(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(park), "-q", "the zorb", "-o", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "\tpresence 0.00\tarea 0.0%" in captured.out
    assert "no word of 'the zorb' is known" in captured.err


def test_unknown_model(park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["segment", park, "-q", "dog", "-o", tmp_path, "--model"]
    line = fails([*words, "nobody/nothing-3"], capsys)
    assert "get it with `textseg models download nobody/nothing-3`" in line
    assert "no model 'nothing'" in fails([*words, "nothing"], capsys)
    assert "park.png must be a .safetensors file" in fails([*words, park], capsys)
    assert "model_index.json is missing" in fails([*words, tmp_path], capsys)


def test_half_downloaded_models(
    tiny_folder: Path, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path("unet/diffusion_pytorch_model.safetensors")
    words = ["segment", park, "-q", "dog", "-o", tmp_path, "--model", tmp_path / "half"]

    def damage(action: Any) -> str:
        shutil.rmtree(tmp_path / "half", ignore_errors=True)
        shutil.copytree(tiny_folder, tmp_path / "half")
        action(tmp_path / "half")
        return fails(words, capsys)

    whole = (tiny_folder / weights).read_bytes()
    line = damage(lambda folder: (folder / weights).write_bytes(whole[: len(whole) // 2]))
    assert "is damaged" in line
    assert str(weights) in line
    assert "is missing" in damage(lambda folder: (folder / weights).unlink())
    assert "is missing" in damage(lambda folder: shutil.rmtree(folder / "tokenizer"))
    assert "is missing" in damage(lambda folder: (folder / "model_index.json").unlink())
    assert "cannot be read" in damage(lambda folder: (folder / "unet/config.json").write_text("{"))


def test_bad_device_and_dtype(
    tiny_folder: Path, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", park, "-q", "dog", "-o", tmp_path, "--model", tiny_folder]
    assert "device" in fails([*words, "--device", "abacus"], capsys)
    assert "dtype" in fails([*words, "--dtype", "float3"], capsys)


def test_output_below_a_file(
    model: FakeBackbone, park: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(["segment", park, "-q", "dog", "-o", park / "deep"], capsys)
    assert "output folder cannot be made" in line
    before = park.read_bytes()
    line = fails(["segment", park, "-q", "dog", "-o", park], capsys)
    assert "output must not be the image itself" in line
    line = fails(["segment", park, "-q", "dog", "-o", park.with_name("x.tif")], capsys)
    assert "output must be a folder or end in .png, .json" in line
    assert not park.with_name("x.tif").exists()
    assert park.read_bytes() == before
    assert model.calls == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_what_the_system_refuses_to_write(
    code: int, model: FakeBackbone, park: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "park.dog.mask.png").write_bytes(b"before")

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", refuse)
    line = fails(["segment", park, "-q", "dog", "-o", out], capsys)
    assert os.strerror(code) in line
    assert "park.dog.mask.png" in line
    assert [p.read_bytes() for p in out.iterdir()] == [b"before"]


def test_a_folder_without_write_permission(
    model: FakeBackbone, park: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    if os.access(out, os.W_OK):
        # Permissions do not bind the superuser.
        real = Path.open

        def guarded(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if path.parent == out and mode != "rb":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", guarded)
    assert "Permission denied" in fails(["segment", park, "-q", "dog", "-o", out], capsys)
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        (disk / "filler").write_bytes(bytes(16 * 1024))
        line = fails(["segment", park, "-q", "dog", "-o", disk, "--format", "npz"], capsys)
        assert "No space left on device" in line
        assert [p.name for p in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import textseg.backbone
from fake_backbone import FakeBackbone
from textseg.cli import main

class Slow(FakeBackbone):
    def predict(self, *args, **told):
        if {where!r} == "predicting" and self.encoded == 2:
            wait()
        return super().predict(*args, **told)

def wait():
    Path({ready!r}).touch()
    time.sleep(60)

# A process started in the background of a shell script is born deaf to it.
signal.signal(signal.SIGINT, signal.default_int_handler)
synced = []
def fsync(descriptor):
    synced.append(descriptor)
    if {where!r} == "writing" and len(synced) == 2:
        wait()

os.fsync = fsync
textseg.backbone.load = lambda *_, **__: Slow({{"dog": (0.25, 0.1, 0.75, 0.4)}})
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
@pytest.mark.parametrize("where", ["predicting", "writing"])
def test_ctrl_c_leaves_nothing_half_written(where: str, park: Path, tmp_path: Path) -> None:
    other = tmp_path / "lake.png"
    with Image.open(park) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    out, ready = tmp_path / "out", tmp_path / "ready"
    script = SCRIPT.format(tests=str(TESTS), where=where, ready=str(ready))
    words = ["segment", str(park), str(other), "-q", "dog", "-o", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TESTS.parent,
    )  # fmt: skip
    try:
        while not ready.exists() and child.poll() is None:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, stderr
    assert stderr == "textseg: interrupted\n"
    assert len(stdout.splitlines()) == 1
    assert [p.name for p in out.iterdir()] == ["park.dog.mask.png"]
    with Image.open(out / "park.dog.mask.png") as mask:
        mask.load()
