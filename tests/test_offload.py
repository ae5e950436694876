"""Weights that wait on the CPU or the disk change no result."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import NATIVE, Tiny, predicted

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.offload import offload

EVERY = [family.name for family in ALL]
LOADED = ("latent-unet", "sdxl", "sd3", "flux", "pixart-sigma")
"""Families whose folders are loaded with each offload; copies of the others' parts are offloaded,
which takes a fraction of the time."""
Offloaded = Callable[[str, str, str], Any]


@pytest.fixture
def offloaded(
    folders: Callable[[str], Path], tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> Offloaded:
    """offloaded(family, how, device) -> its model, on the CPU also by ways for accelerators."""
    from textseg.backbone import loading

    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    monkeypatch.setattr(loading, "_check_packages", lambda beside, where: None)

    def make(family: str, how: str, device: str) -> Any:
        if family in LOADED:
            return textseg.load(folders(family), device=device, offload=how)
        given, backbone = tiny(family)
        pipe, kind = copy.copy(given), type(backbone)
        for part in kind.kind.networks:
            setattr(pipe, part, copy.deepcopy(getattr(given, part)))
        model: Any = kind(pipe, family, dict(NATIVE))
        model.device = torch.device(device)
        networks = {part: getattr(pipe, part) for part in kind.kind.networks}
        offload(networks, model.device, how)
        return model

    return make


@pytest.mark.parametrize("family", EVERY)
def test_offload_to_disk_changes_nothing(
    family: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny]
) -> None:
    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    held: Any = tiny(family)[1]
    away: Any = textseg.load(folders(family), device="cpu", offload="disk")
    assert next(away.unet.parameters()).device.type == "meta"
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(away.encode(image), held.encode(image))
    networks = [getattr(away.pipe, name) for name in away.kind.networks]
    kept = [Path(x.offload_folder) for x in networks if hasattr(x, "offload_folder")]
    assert kept and all(any(folder.iterdir()) for folder in kept)
    del away, networks
    gc.collect()
    assert not any(folder.exists() for folder in kept)


@pytest.fixture
def offloads_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the offloads for accelerators run here."""
    from textseg.backbone import loading

    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    monkeypatch.setattr(loading, "_check_packages", lambda beside, where: None)


@pytest.mark.parametrize("family", EVERY)
def test_one_network_at_a_time_is_on_the_device(
    family: str,
    offloaded: Offloaded,
    tiny: Callable[[str], Tiny],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerator = "cpu:0"  # The CPU by another name, to be told apart.
    held: Any = tiny(family)[1]
    away = offloaded(family, "model", accelerator)
    owner, kind = away.pipe, away.kind
    names = [n for n in kind.networks if hasattr(owner, n)]
    networks = {getattr(owner, name): name for name in names}
    there, visits, move = set(), [], torch.nn.Module.to

    def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if module in networks:
            if torch.device(args[0]) == torch.device(accelerator):
                there.add(module)
                visits.append(networks[module])
            else:
                there.remove(module)
            assert len(there) <= 1
        return move(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for prompt in ('the "dog"', 'a "cat"'):  # an encoder of HunyuanImage reads what is quoted
        latents = away.encode(image)
        torch.testing.assert_close(latents, held.encode(image))
        torch.testing.assert_close(predicted(away, prompt), predicted(held, prompt))
        assert np.array_equal(away.decode(latents), held.decode(latents))
    encoders = [name for name in names if name.startswith("text_encoder")]
    assert {kind.autoencoder, *encoders, kind.denoiser} == set(names)
    # Decoding and the next encoding share a visit; the encoders' order is the pipeline's.
    first, second = visits[: len(names)], visits[len(names) : -1]
    assert first == second and visits[-1] == kind.autoencoder
    assert (first[0], first[-1]) == (kind.autoencoder, kind.denoiser)
    assert sorted(first[1:-1]) == encoders


@pytest.mark.parametrize("family", EVERY)
def test_layers_wait_on_the_cpu(
    family: str, offloaded: Offloaded, tiny: Callable[[str], Tiny]
) -> None:
    held: Any = tiny(family)[1]
    away = offloaded(family, "layer", "cpu")
    for part in (away.unet, away.vae, away.text_encoder):
        assert next(part.parameters()).device.type == "meta"
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    latents = held.encode(image)
    torch.testing.assert_close(away.encode(image), latents)
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)
    assert np.array_equal(away.decode(latents), held.decode(latents))
    assert next(away.unet.parameters()).device.type == "meta"


@pytest.mark.usefixtures("offloads_on_the_cpu")
@pytest.mark.parametrize("how", ["model", "layer", "disk"])
def test_an_eight_bit_network_stays_on_the_device(how: str, folders: Callable[[str], Path]) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    held: Any = textseg.load(folders("flux"), device="cpu", quantize="8bit")
    away: Any = textseg.load(folders("flux"), device="cpu", quantize="8bit", offload=how)
    assert not hasattr(away.unet, "_hf_hook") and hasattr(away.pipe.text_encoder_2, "_hf_hook")
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("offloads_on_the_cpu")
@pytest.mark.parametrize("how", ["model", "layer", "disk"])
def test_offload_beside_a_gguf_network(
    how: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    from tiny_models import write_gguf

    plain: Any = textseg.load(folders("sd3"), device="cpu")
    file = write_gguf(plain.unet.state_dict(), tmp_path / "q8.gguf", "sd3")
    held: Any = textseg.load(folders("sd3"), device="cpu", transformer=file)
    away: Any = textseg.load(folders("sd3"), device="cpu", transformer=file, offload=how)
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)
