"""Weights that wait on the CPU or the disk change no result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import predicted

import textseg
from textseg.backbone.folders import find_family


@pytest.mark.parametrize("family", ["latent-unet", "sdxl", "sd3", "flux", "pixart-sigma"])
def test_offload_to_disk_changes_nothing(family: str, folders: Callable[[str], Path]) -> None:
    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    held: Any = textseg.load(folders(family), device="cpu")
    away: Any = textseg.load(folders(family), device="cpu", offload="disk")
    assert next(away.unet.parameters()).device.type == "meta"
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(away.encode(image), held.encode(image))
    parts = [part for name in find_family(folders(family)).networks
             if (part := getattr(away, "pipe", away).__dict__.get(name)) is not None]  # fmt: skip
    held_on_disk = [part for part in parts if hasattr(part, "offload_folder")]
    assert held_on_disk
    for part in held_on_disk:
        assert Path(part.offload_folder.name).is_dir()
        part.offload_folder.cleanup()
