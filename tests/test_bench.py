"""`textseg bench`: what is counted, against counts made by hand."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg
from textseg.backbone.latent_unet import LatentUNet
from textseg.bench import (
    ARCHITECTURES,
    BenchOptions,
    Meter,
    Speed,
    compare,
    machine_speed,
    random_model,
    rounding_floor,
    table,
)
from textseg.bench.compare import _shapes
from textseg.bench.meter import unet_operations
from textseg.bench.profiling import by_kind, profile_unet
from textseg.cli import main
from textseg.errors import InputError
from textseg.options import ContrastOptions

IMAGE = np.random.default_rng(4).integers(0, 256, (48, 80, 3), np.uint8)
QUERIES = ("a dog", "a cat", "a ball")
TINY: dict[str, Any] = {
    "unet": {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 16,
        "attention_head_dim": 4, "norm_num_groups": 4,
    },
    "vae": {
        "latent_channels": 4, "norm_num_groups": 4, "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "text": ({"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "projection_dim": 16},),
    "prediction_type": "epsilon",
}  # fmt: skip


@pytest.fixture(scope="module")
def report(eps_backbone: Any) -> dict[str, Any]:
    options = BenchOptions(samples=3, queries=3, defaults=True, edit=True, steps=6, speed=False,
                           rounding=("bfloat16",))  # fmt: skip
    return compare(eps_backbone, IMAGE, QUERIES, options)


def row(report: dict[str, Any], setting: str, method: str) -> dict[str, Any]:
    [found] = [r for r in report["rows"] if (r["setting"], r["method"]) == (setting, method)]
    return found


def test_evaluations_are_those_of_the_formulas(report: dict[str, Any]) -> None:
    # Theirs: source and target, each with and without guidance. Ours: the reference once.
    expected = {
        ("1 query, n = 3", "diffusers"): 4 * 3,
        ("1 query, n = 3", "textseg"): 2 * 3,
        ("3 queries, n = 3", "diffusers"): 3 * 4 * 3,
        ("3 queries, n = 3", "textseg"): (1 + 3) * 3,
        ("1 query, defaults", "diffusers"): 4 * 10,
        ("1 query, defaults", "textseg"): 2 * 10,
        ("3 queries, defaults", "diffusers"): 3 * 4 * 10,
        ("3 queries, defaults", "textseg"): (1 + 3) * 10,
    }
    for key, evaluations in expected.items():
        assert row(report, *key)["evaluations"] == evaluations
    assert report["ratios"]["1 query, n = 3"]["evaluations"] == 2
    assert report["ratios"]["3 queries, n = 3"]["evaluations"] == 3
    for method in ("diffusers", "textseg"):
        assert row(report, "edit, 6 steps", method)["evaluations"] > 0


def test_stages_add_up_to_the_total(
    eps_backbone: Any, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    meter, now = Meter(eps_backbone), [0.0]
    monkeypatch.setattr(meter, "_clock", lambda: now[0])

    def spend(seconds: float) -> Any:
        def hook(*_: Any) -> None:
            now[0] += seconds

        return hook

    inner = [
        (eps_backbone.unet.conv_in, 4.0),
        (eps_backbone.vae.encoder, 2.0),
        (next(eps_backbone.text_encoder.children()), 1.0),
    ]
    hooks = [part.register_forward_pre_hook(spend(seconds)) for part, seconds in inner]

    def work() -> None:
        latents = eps_backbone.encode(np.zeros((64, 32, 3), np.uint8))
        embedding = eps_backbone.embed(["a thing that no other test asks for"])[0]
        for _ in range(3):
            eps_backbone.predict(latents[None], 500, embedding)
        spend(8.0)()

    try:
        stages = meter.run(work).stages
    finally:
        for hook in hooks:
            hook.remove()
    assert stages == {"unet": 12.0, "vae": 2.0, "text": 1.0, "rest": 8.0}
    assert now == [sum(stages.values())]
    assert all(set(row["stages"]) == set(stages) for row in report["rows"])


def test_a_report_is_json_and_a_table(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report
    text = table(report)
    for found in report["rows"]:
        assert f"| {found['setting']} | {found['method']} | {found['evaluations']} |" in text
    assert "Rounding of bfloat16" in text


def test_a_meter_counts_and_sees_memory(eps_backbone: Any) -> None:
    latents = eps_backbone.encode(np.zeros((64, 32, 3), np.uint8))
    embedding = eps_backbone.embed(["a dog"])[0]
    meter = Meter(eps_backbone)

    def work() -> None:
        for n in (1, 4):
            eps_backbone.predict(latents[None].expand(n, -1, -1, -1), 500, embedding)
        np.ones(2**23)

    cost = meter.run(work)
    assert (cost.evaluations, cost.calls) == (5, 2)
    assert cost.stages["vae"] == cost.stages["text"] == 0
    if cost.peak_bytes is not None:
        assert cost.peak_bytes > 0.9 * 8 * 2**23
    assert not eps_backbone.unet._forward_hooks and not eps_backbone.unet._forward_pre_hooks
    assert meter.run(lambda: None).evaluations == 0


def test_mini_is_measured_and_left_as_it_was() -> None:
    backbone: Any = textseg.load("mini", device="cpu")
    options = BenchOptions(samples=1, queries=1, defaults=False, speed=False)
    rows = compare(backbone, IMAGE, QUERIES, options)["rows"]
    assert [r["method"] for r in rows] == ["diffusers", "textseg"]
    assert all(r["stages"]["vae"] > 0 for r in rows)
    assert not {"encode", "decode"} & set(vars(backbone.vae))


def test_operations_of_the_unet_are_counted(eps_backbone: Any) -> None:
    small, large = (
        unet_operations(eps_backbone, torch.zeros(4, side, 2 * side), 500) for side in (8, 16)
    )
    # Convolutions do four times the work on four times the cells.
    assert large["convolution"] == pytest.approx(4 * small["convolution"], rel=0.01)
    assert large["matmul"] > small["matmul"] > 0
    speed = machine_speed(torch.device("cpu"), torch.float32, small=True, repeats=1)
    assert isinstance(speed, Speed) and speed.matmul > 0 and speed.convolution > 0


@pytest.mark.parametrize("attention", ["plain", "fused"])
def test_the_profile_counts_what_torch_counts(make_pipeline: Any, attention: str) -> None:
    model = LatentUNet(make_pipeline("epsilon"), "tiny")
    model.tune(attention=attention)  # pyright: ignore[reportArgumentType]
    latents = torch.zeros(4, 8, 16)
    parts = profile_unet(model, latents, 500)
    # Two images in a call; torch's counter does not go by the profiler.
    counted = unet_operations(model, latents, 500)
    by = {True: 0.0, False: 0.0}
    for part in parts:
        by[part.kind == "convolution"] += part.operations
    assert by == {True: 2 * counted["convolution"], False: 2 * counted["matmul"]}
    assert sum(by_kind(parts).values()) == pytest.approx(1)
    widths = {part.shape for part in parts if part.operation == "conv2d"}
    assert f"2x4x8x16 * {model.unet.conv_in.out_channels}x4x3x3" in widths

    rows = _shapes(parts, Speed(matmul=1e9, convolution=5e8), 2)
    assert [r["lost"] for r in rows] == sorted((r["lost"] for r in rows), reverse=True)
    total = sum(part.seconds for part in parts)
    ideal = (by[True] / 5e8 + by[False] / 1e9) / 2
    assert sum(r["lost"] for r in rows) == pytest.approx((total - ideal) / total)


def test_rounding_is_that_of_the_dtype(eps_backbone: Any) -> None:
    contrast = ContrastOptions(samples=2, batch_size=2)
    none = rounding_floor(eps_backbone, IMAGE, "a dog", torch.float32, contrast)
    assert none["floor"] == none["worst"] == none["changed"] == 0
    some = rounding_floor(eps_backbone, IMAGE, "a dog", torch.bfloat16, contrast)
    assert 0 < some["floor"] <= some["worst"]
    assert some["contrast"] == none["contrast"] > 0
    assert eps_backbone.unet.dtype == eps_backbone.dtype == torch.float32


def test_tuned_networks_predict_the_same(make_pipeline: Any) -> None:
    usual, tuned = (LatentUNet(make_pipeline(), "tiny") for _ in range(2))
    tuned.tune(channels_last=True, tiling=True, attention="plain")
    noisy = torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(0))
    expected, found = (
        model.predict(noisy, 400, model.embed(["a dog"])[0]) for model in (usual, tuned)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    weight = tuned.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(InputError, match="attention must be 'plain' or 'fused', got 'fast'"):
        tuned.tune(attention="fast")


@pytest.mark.parametrize("family", ["z-image", "qwen-image", "sana"])
def test_transformers_are_tuned_too(
    family: str, folders: Callable[[str], Path], tiny: Callable[[str], Any]
) -> None:
    usual: Any = tiny(family)[1]
    tuned: Any = textseg.load(folders(family), device="cpu")
    assert tuned.tune(channels_last=True, tiling=True) is tuned and tuned.vae.use_tiling
    noisy = torch.randn(2, usual.channels, 6, 10, generator=torch.Generator().manual_seed(0))
    expected, found = (
        model.predict(noisy, 400, model.embed(["a dog"])[0]) for model in (usual, tuned)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    image = np.random.default_rng(4).integers(0, 256, (64, 96, 3), np.uint8)
    assert tuned.encode(image).shape == usual.encode(image).shape
    with pytest.raises(InputError, match="attention must be left out for a"):
        tuned.tune(attention="plain")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_kept_memory_is_not_asked_for_anew() -> None:
    code = """
import resource, sys, torch
from textseg.backbone.allocation import keep_freed_memory
assert sys.argv[1] == "usual" or keep_freed_memory()
def filled(size):
    torch.empty(size).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first, second = filled(2**25), filled(2**24)
print(second - first)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], check=True,
                                capture_output=True, text=True).stdout)
        for how in ("usual", "kept")
    }  # fmt: skip
    # 64 MiB are 16,384 pages, or fewer large ones.
    assert faults["kept"] < faults["usual"] / 2


def test_architectures_are_the_released_ones() -> None:
    from diffusers import UNet2DConditionModel

    # Parameters of the released models, in millions.
    for arch, millions in (("sd15", 859.5), ("sd21", 865.9), ("sdxl", 2567.5)):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**ARCHITECTURES[arch]["unet"])
        assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_random_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "tiny", TINY)
    first, again = (random_model("tiny", device="cpu", dtype="float32") for _ in range(2))
    latents = first.encode(np.zeros((16, 24, 3), np.uint8))
    found = [
        m.predict(latents[None], 500, m.embed(["a dog"])[0]) for m in (first, again)
    ]  # fmt: skip
    assert torch.isfinite(found[0]).all() and found[0].std() > 0
    assert torch.equal(*found)
    with pytest.raises(InputError, match="arch must be one of"):
        random_model("sd9")


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "sd15", TINY)
    out = tmp_path / "bench.json"
    words = ["bench", "--arch", "sd15", "--random", "--samples", "2", "--query-count", "2",
             "--no-speed", "--device", "cpu", "-o", str(out)]  # fmt: skip
    assert main(words) == 0
    assert "| 1 query, n = 2 | diffusers | 8 |" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert {r["setting"] for r in report["rows"]} == {"1 query, n = 2", "2 queries, n = 2"}
    kept: list[bool] = []
    monkeypatch.setattr("textseg.backbone.latent.keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr("textseg.bench.meter.machine_speed", lambda *_: Speed(1e9, 1e9))
    assert main([w for w in words if w != "--no-speed"] + ["--profile"]) == 0
    assert "| operation | shape | calls |" in capsys.readouterr().out
    # The table holds the costliest shapes only, and which those are is a matter of time.
    shapes = json.loads(out.read_text())["shapes"]
    assert any(r["operation"] == "conv2d" and r["shape"].startswith("2x4x8x8 * ") for r in shapes)
    assert main([*words, "--json", "--channels-last", "--keep-memory"]) == 0
    assert kept == [True]
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "sd15, random weights"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "sd15"], "--arch and --random must be given together"),
        (["--random"], "--arch and --random must be given together"),
        (["--samples", "0"], "samples must be a whole number from 1 to 1000, got 0"),
        (["--queries", "99"], "--query-count must be at most 16, got 99"),
        (["-n", "2"], "unrecognized arguments: -n"),
        (["--rounding", "int8"], "must be one or more of bfloat16,float16, got 'int8'"),
        (["-o", "/nowhere/at/all.json"], "output must be in a folder that exists"),
    ],
)
def test_wrong_arguments_are_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_curve_of_quality_and_cost_is_drawn_and_tabled(tmp_path: Path) -> None:
    from PIL import Image
    from plot_cost import plot
    from plot_cost import table as cost_table

    def point(method: str, setting: str, evaluations: float, miou: float) -> dict[str, Any]:
        seconds = None if "unrefined" in method else 0.25
        return {"method": method, "setting": setting, "queries": 7, "miou": miou, "error": 0.02,
                "evaluations": evaluations, "seconds": seconds}  # fmt: skip

    rows = [point("textseg", "n = 1", 2, 0.7), point("textseg", "n = 8", 16, 0.72),
            point("textseg", "stop at 0.2", 5, 0.71), point("textseg, unrefined", "n = 1", 2, 0.5),
            point("diffusers", "n = 1", 4, 0.1), point("diffusers", "n = 10", 40, 0.2)]  # fmt: skip
    report = {"model": "mini", "images": 3, "rows": rows}
    lines = cost_table(report).splitlines()
    assert len(lines) == 2 + len(rows)
    assert "| textseg | n = 8 | 16.0 | 0.25 | 0.720 ± 0.020 |" in lines
    assert "| textseg, unrefined | n = 1 | 2.0 |  | 0.500 ± 0.020 |" in lines
    plot(report, tmp_path / "images" / "cost.png")
    pixels = np.asarray(Image.open(tmp_path / "images" / "cost.png")).astype(int)

    def centre(colour: tuple[int, int, int]) -> float:
        """Mean height of a colour below the legend, 0 at the top."""
        near = np.abs(pixels[60:] - colour).sum(axis=2) < 30
        assert near.sum() > 50
        return float(np.nonzero(near)[0].mean())

    ours, unrefined, theirs = (centre(c) for c in ((26, 122, 90), (127, 182, 157), (176, 65, 62)))
    assert ours < unrefined < theirs
