"""Every family on an accelerator in half precision, against itself in float32 on the CPU.

The pipelines of `tests/tiny_models.py`, of random weights, are saved as folders and loaded both
ways. Told of each: the relative error of a prediction, of the contrast of two prompts (small in
some, hence inexact), and of the autoencoder, which stays in float32. All at a level of noise whose
time 16 bits can write, 500 of 1000: many transformers, as diffusers runs them, are told their time
in their own precision, to which random weights answer wildly.

    python eval/check_families.py --output families.json
    python eval/check_families.py --device cpu --dtypes bfloat16 --families sd3 flux
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import textseg
from textseg.backbone.quiet import quietly

TESTS = Path(__file__).parent.parent / "tests"
LIMITS = {"float32": 0.001, "float16": 0.02, "bfloat16": 0.1}
"""Largest relative error of a prediction."""
COLUMNS = ("prediction", "contrast", "autoencoder")


def answers(model: Any) -> dict[str, torch.Tensor]:
    """What a model says of the same image, noise and prompts, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (48, 64, 3), generator=generator).numpy().astype(np.uint8)
    latents = model.encode(pixels)
    noise = torch.randn(2, *latents.shape, generator=generator)
    t = 500 if model.sampler_schedule else int((model._sigmas() - 0.5).abs().argmin())
    noisy = model.add_noise(latents, noise, t)
    seen, reference = (model.predict(noisy, t, e) for e in model.embed(["the dog", ""]))
    found = {"prediction": seen, "contrast": (seen - reference).abs().mean((0, 1)),
             "autoencoder": latents}  # fmt: skip
    return {name: value.float().cpu() for name, value in found.items()}


def errors(model: Any, expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """|ours - expected| over |expected|, as norms, of each of `answers`."""
    found = answers(model)
    return {
        name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()
    }


def main() -> int:
    sys.path.insert(0, str(TESTS))
    import conftest
    from tiny_models import FAMILIES, NATIVE, build

    parser = argparse.ArgumentParser(description="families in half precision against float32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=LIMITS, default=["float16", "bfloat16"])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    records, bad = [], []
    print(f"| family | dtype | {' | '.join(COLUMNS)} | seconds |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        (work / "clip").mkdir()
        words = conftest._tokenizer(work / "clip")
        for family in args.families:
            folder = work / family
            with quietly(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pipe = build(family, words, work / "t5" / family)
                if pipe.scheduler.config.get("use_dynamic_shifting"):
                    pipe.scheduler.register_to_config(use_dynamic_shifting=False, shift=3.0)
                pipe.save_pretrained(folder)
                (folder / "textseg.json").write_text(json.dumps(NATIVE))
                held: Any = textseg.load(folder, device="cpu", dtype="float32")
                expected = answers(held)
            for dtype in args.dtypes:
                begun = time.perf_counter()
                record: dict[str, Any] = {"family": family, "dtype": dtype}
                with quietly(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        model = textseg.load(folder, device=args.device, dtype=dtype)
                        record |= errors(model, expected)
                    except Exception as error:  # one family must not hide the others
                        record["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
                record["seconds"] = round(time.perf_counter() - begun, 2)
                told = [f"{record[c]:.1e}" if c in record else "" for c in COLUMNS]
                good = record.get("prediction", float("nan")) <= LIMITS[dtype]
                told[0] += "" if good else record.get("error", " too far")
                bad += [] if good else [f"{family} in {dtype}"]
                print(f"| {family} | {dtype} | {' | '.join(told)} | {record['seconds']} |",
                      flush=True)  # fmt: skip
                records.append(record)
    if args.output:
        args.output.write_text(json.dumps(records, indent=1) + "\n")
    if bad:
        print(f"\nnot as on the CPU: {', '.join(bad)}")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
