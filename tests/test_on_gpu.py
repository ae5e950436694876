"""What only an accelerator can show, on tiny models against the CPU: half precision, compiled
networks, offload, quantised weights, and batches of other sizes.

They run on CUDA; `DEVICE=cpu pytest -m gpu` tries out what the CPU can do of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from check_families import LIMITS, answers, errors
from conftest import DEVICE
from tiny_models import Tiny, predicted, write_gguf

import textseg

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # devices and compilers speak of what is not ours
]
ONLY_CUDA = pytest.mark.skipif(DEVICE == "cpu", reason="says nothing on the CPU")
FAMILIES = ("latent-unet", "sdxl", "sd3", "z-image", "kandinsky5", "sana")
"""A UNet, one with a pooled text vector, joint and single streams, a video's transformer and linear
attention; all with a shift that does not depend on the size, which 16 bits can write."""


def on_device(folder: Path, dtype: str = "float32", **options: Any) -> Any:
    return textseg.load(folder, device=DEVICE, dtype=dtype, **options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_near_float32_on_the_cpu(
    family: str, dtype: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny]
) -> None:
    found = errors(on_device(folders(family), dtype), answers(tiny(family)[1]))
    assert found["prediction"] < LIMITS[dtype]
    assert found["autoencoder"] < 0.005, "it stays in float32"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_has_the_mask_of_the_cpu(
    family: str,
    folders: Callable[[str], Path],
    tiny: Callable[[str], Tiny],
    tiny_image: np.ndarray,
) -> None:
    options: dict[str, Any] = {"samples": 3, "batch_size": 2, "seed": 4}
    here = textseg.segment(tiny_image, "the dog", model=tiny(family)[1], **options)
    there = textseg.segment(tiny_image, "the dog", model=on_device(folders(family)), **options)
    assert np.abs(here.score - there.score).mean() < 0.01
    assert (here.mask == there.mask).mean() > 0.98
    assert np.abs(here.presence - there.presence) < 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_query_does_not_depend_on_its_batch(
    family: str, folders: Callable[[str], Path], tiny_image: np.ndarray
) -> None:
    model = on_device(folders(family))
    queries = ["the dog", "the red ball", "an apple"]
    together = textseg.segment(tiny_image, queries, model=model, samples=3, batch_size=4)
    for query, among in zip(queries, together, strict=True):
        for size in (1, 4):
            alone = textseg.segment(tiny_image, query, model=model, samples=3, batch_size=size)
            np.testing.assert_allclose(alone.score, among.score, atol=0.005)


@pytest.mark.parametrize("family", ["latent-unet", "sd3"])
def test_an_edit_leaves_the_rest_as_it_was(
    family: str, folders: Callable[[str], Path], tiny_image: np.ndarray
) -> None:
    mask = np.zeros(tiny_image.shape[:2], bool)
    mask[8:40, 10:50] = True
    model = on_device(folders(family), "float16" if DEVICE == "cuda" else "bfloat16")
    edit = textseg.edit(tiny_image, mask=mask, prompt="a cat", model=model, steps=6)
    assert np.array_equal(edit.image[~mask], tiny_image[~mask])
    assert (edit.image[mask] != tiny_image[mask]).any()


@ONLY_CUDA
@pytest.mark.parametrize("family", ["latent-unet", "sd3"])
def test_a_compiled_network_predicts_the_same(
    family: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny]
) -> None:
    model = on_device(folders(family))
    model.unet.compile()
    torch.testing.assert_close(
        predicted(model).cpu(), predicted(tiny(family)[1]), rtol=0.01, atol=0.005
    )


@pytest.mark.parametrize("how", [pytest.param("model", marks=ONLY_CUDA),
                                 pytest.param("layer", marks=ONLY_CUDA), "disk"])  # fmt: skip
@pytest.mark.parametrize("family", FAMILIES)
def test_offloaded_weights_come_and_go(
    family: str, how: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny]
) -> None:
    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    held: Any = tiny(family)[1]
    away = on_device(folders(family), offload=how)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    latents = away.encode(pixels)
    torch.testing.assert_close(latents.cpu(), held.encode(pixels), rtol=0.01, atol=0.005)
    torch.testing.assert_close(predicted(away).cpu(), predicted(held), rtol=0.01, atol=0.005)
    away.embed(["a cat"])
    rests = {parameter.device.type for parameter in away.unet.parameters()}
    assert rests == {"cpu" if how == "model" else "meta"}


@pytest.mark.parametrize("family", ["sdxl", "sd3", "kandinsky5"])
def test_eight_bits_are_near_float32_on_the_cpu(
    family: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny]
) -> None:
    pytest.importorskip("bitsandbytes", reason="8-bit weights need bitsandbytes")
    exact, near = predicted(tiny(family)[1]), predicted(on_device(folders(family), quantize="8bit"))
    assert (near.cpu() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("family", ["sd3", "z-image"])
def test_gguf_weights_are_near_float32_on_the_cpu(
    family: str, folders: Callable[[str], Path], tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    pytest.importorskip("accelerate", reason="GGUF needs the extra 'models'")
    plain: Any = tiny(family)[1]
    file = write_gguf(plain.unet.state_dict(), tmp_path / "q8.gguf", family)
    exact, near = predicted(plain), predicted(on_device(folders(family), transformer=file))
    assert (near.cpu() - exact).norm() < 0.05 * exact.norm()
