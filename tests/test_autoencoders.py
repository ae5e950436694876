"""Latents have the size that each pipeline gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Tiny
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


@torch.no_grad()
@pytest.mark.parametrize("own", [1e-5, 1e-4])
def test_ernies_batch_norm_has_the_epsilon_of_its_pipeline(
    own: float, tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, backbone = copy.copy(tiny("ernie-image")[0]), tiny("ernie-image")[1]
    pipe.vae = copy.deepcopy(pipe.vae)
    pipe.vae.register_to_config(batch_norm_eps=own)
    pipe.vae.bn.running_var.uniform_(2e-5, 2e-4)  # where it matters whose epsilon is added
    latents = torch.randn(4, 6, 8)
    model: Any = type(backbone)(pipe, "ernie-image", {"native_size": 64})

    deviation = (pipe.vae.bn.running_var + 1e-5).sqrt()[:, None, None]
    mean = pipe.vae.bn.running_mean[:, None, None]
    raw = pixel_shuffle(pixel_unshuffle(latents[None], 2) * deviation + mean, 2)
    pixels = pipe.vae.decode(raw).sample[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(
        model.decode(latents), np.clip((pixels + 1) * 127.5, 0, 255), atol=0.51
    )
    monkeypatch.setattr(
        pipe.scheduler, "step", lambda out, t, sample: SimpleNamespace(prev_sample=sample)
    )
    made = pipe("the dog", latents=pixel_unshuffle(latents[None], 2), height=48, width=64,
                num_inference_steps=1, guidance_scale=1.0, output_type="np").images[0]  # fmt: skip
    np.testing.assert_allclose(model.decode(latents), made * 255, atol=0.51)

    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    seen = pipe.vae.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)
    expected = pixel_shuffle((pixel_unshuffle(seen.latent_dist.mean, 2) - mean) / deviation, 2)
    torch.testing.assert_close(model.encode(image), expected[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_kandinsky_3s_latents_are_movqs_own(tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny("kandinsky3")
    assert pipe.movq.config.scaling_factor != 1  # which its pipeline leaves out
    latents = torch.randn(4, 6, 8)
    pixels = pipe.movq.decode(latents[None], force_not_quantize=True).sample[0]
    expected = np.clip((pixels.permute(1, 2, 0).numpy() + 1) * 127.5, 0, 255)
    np.testing.assert_allclose(backbone.decode(latents), expected, atol=0.51)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    seen = pipe.movq.encode(torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(backbone.encode(image), seen.latents[0], rtol=1e-4, atol=1e-5)
