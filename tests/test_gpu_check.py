"""The unattended check of a GPU, tried out on the CPU with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_families
import pytest
import torch

SCRIPT = Path(bench_families.__file__).parent / "check_on_gpu.sh"


def run(out: Path, **told: str) -> subprocess.CompletedProcess[str]:
    given = {"OUT": str(out), "PYTHON": sys.executable, **told}
    return subprocess.run(
        ["sh", SCRIPT], env={**os.environ, **given}, capture_output=True, text=True
    )


def test_it_runs_and_writes_its_figures(tmp_path: Path) -> None:
    done = run(tmp_path / "out", TINY="1", DEVICE="cpu")
    assert (done.returncode, done.stdout) == (0, "families: done\nsd15: done\ntests: done\n"), (
        done.stdout
    )
    records = json.loads((tmp_path / "out" / "families.json").read_text())
    assert {r["family"] for r in records} == {"sd3", "kandinsky5"}
    # bfloat16 has 8 bits: rounding shows, and stays small.
    assert all(1e-3 < r["prediction"] < 0.1 and r["autoencoder"] == 0 for r in records)
    assert "| sd3 | bfloat16 |" in (tmp_path / "out" / "families.txt").read_text()
    assert "passed" in (tmp_path / "out" / "tests.txt").read_text()
    [record] = json.loads((tmp_path / "out" / "sd15.json").read_text())
    assert record["finite"] and record["contrast, one draw, two prompts"]["seconds"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_cuda_it_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr == ("check_on_gpu: no CUDA here; run it where torch.cuda.is_available()\n")


@pytest.mark.parametrize(
    ("name", "billions"), [("sd15", 1.07), ("sdxl", 3.47), ("sd3", 2.93), ("flux", 12.2)]
)
def test_full_sizes_are_those_released(
    name: str, billions: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_families, "PLACE", "meta")
    family, build, _, _ = bench_families.KINDS[name]
    pipe: Any = build(torch.bfloat16)
    parts = [getattr(pipe, part) for part in family.networks]
    assert sum(part.weights for part in parts if part) / 1e9 == pytest.approx(billions, rel=0.02)
