"""The batch size that is left open is chosen from free memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg.batch_size as batch_size
from textseg.batch_size import call_bytes, fitting, free_bytes
from textseg.options import ContrastOptions, RefineOptions
from textseg.predictions import draw_batches
from textseg.segmenter import Segmenter

IMAGE = np.random.default_rng(2).integers(0, 256, (48, 80, 3), np.uint8)


def calls_of(model: Any, monkeypatch: pytest.MonkeyPatch, free: int | None, **options: Any):
    """Rows of each call of the model, and the result."""
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
    rows: list[int] = []
    predict = model.predict

    def counted(noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        rows.append(len(noisy))
        return predict(noisy, t, embedding)

    monkeypatch.setattr(model, "predict", counted)
    segmenter = Segmenter(model, refine=RefineOptions.off()).set_image(IMAGE)
    return rows, segmenter.query("a dog", **options)


@pytest.mark.parametrize(("fit", "expected"), [(3, [3, 3, 1]), (100, [7]), (0, [1] * 7)])
def test_a_call_holds_what_half_of_the_free_memory_holds(
    eps_backbone: Any, monkeypatch: pytest.MonkeyPatch, fit: int, expected: list[int]
) -> None:
    one = call_bytes(eps_backbone, eps_backbone.encode(IMAGE[:48, :80]).shape)
    height, width = eps_backbone.fit_size(48, 80)
    cells = height * width // eps_backbone.factor**2
    one = one * cells // (48 * 80 // eps_backbone.factor**2)
    free = int(2 * one * (fit + 0.5))
    rows, found = calls_of(eps_backbone, monkeypatch, free, samples=7, batch_size=0)
    assert sorted(rows, reverse=True) == sorted(expected * 2, reverse=True)
    assert found.contrast_options.batch_size == max(expected)


def test_a_given_batch_size_stays_and_an_unknown_memory_holds_all(
    eps_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, given = calls_of(eps_backbone, monkeypatch, 1, samples=4, batch_size=2)
    assert given.contrast_options.batch_size == 2
    rows, unknown = calls_of(eps_backbone, monkeypatch, None, samples=4, batch_size=0)
    assert rows == [4, 4] and unknown.contrast_options.batch_size == 4
    # The result names the size, and with it the same bits come out.
    _, again = calls_of(eps_backbone, monkeypatch, None, samples=4, batch_size=4)
    assert again.contrast is not None and unknown.contrast is not None
    np.testing.assert_array_equal(again.contrast, unknown.contrast)


def test_where_no_memory_is_looked_at_all_draws_are_one_call() -> None:
    assert draw_batches(ContrastOptions(samples=5, batch_size=0)) == [range(5)]


def test_free_memory_is_what_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "meminfo"
    known.write_text("MemTotal:       100 kB\nMemAvailable:    40 kB\n")
    monkeypatch.setattr(batch_size, "_MEMINFO", str(known))
    assert free_bytes(torch.device("cpu")) == 40 * 1024
    known.write_text("nothing of the kind")
    assert (free_bytes(torch.device("cpu")) or 1) > 0
    assert free_bytes(torch.device("meta")) is None


def test_half_precision_holds_twice_as_many(eps_backbone: Any) -> None:
    whole = call_bytes(eps_backbone, (4, 8, 12))
    assert whole == 64 * eps_backbone.unet.config["block_out_channels"][0] * 96 * 4

    class Half:
        unet, dtype = eps_backbone.unet, torch.float16

    assert call_bytes(Half(), (4, 8, 12)) == whole // 2  # pyright: ignore[reportArgumentType]


def test_models_of_other_kinds_are_estimated_too(
    eps_backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Transformer:
        class unet:
            config: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 16}  # noqa: RUF012

    assert call_bytes(Transformer(), (16, 4, 6)) == 64 * 64 * 24 * 4  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: 4 * 64 * 64 * 24 * 4)
    options = ContrastOptions(samples=9, batch_size=0)
    found = fitting(options, Transformer(), torch.zeros(16, 4, 6))  # pyright: ignore[reportArgumentType]
    assert found.batch_size == 2
