"""`diffedit_mask` against diffusers' own DiffEdit pipeline: same weights, latents and noise."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg.backbone
from textseg.contrast import diffedit_mask
from textseg.image import load_image, resize_image

MINI = Path(textseg.backbone.__file__).parent.parent / "models" / "mini"
PARK = Path(__file__).parent.parent / "data" / "samples" / "park.jpg"
DRAWS = 4


class RepairedEncoding:
    """Mixin that hands the embeddings to `generate_mask` in the order it unpacks them."""

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        positive, negative = super().encode_prompt(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        return negative, positive


def public_pipeline(pipe: Any, repaired: bool = False) -> Any:
    from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline

    kind: Any = StableDiffusionDiffEditPipeline
    if repaired:
        kind = type("Repaired", (RepairedEncoding, StableDiffusionDiffEditPipeline), {})
    return kind(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=pipe.unet,
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
        inverse_scheduler=DDIMInverseScheduler.from_config(pipe.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def public_inputs(public: Any, image: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents and the noise `generate_mask` draws from this seed: (N, C, h, w) each."""
    from diffusers.utils.torch_utils import randn_tensor

    generator = torch.Generator().manual_seed(seed)
    pixels = public.image_processor.preprocess(image[None].astype(np.float32) / 255)
    with torch.no_grad():
        latents = public.prepare_image_latents(
            pixels.repeat_interleave(DRAWS, dim=0), DRAWS, torch.float32, "cpu", generator
        )
    noise = randn_tensor(latents.shape, generator=generator, device=torch.device("cpu"))
    return latents, noise


def public_mask(
    public: Any, image: np.ndarray, query: str, reference: str, seed: int, **options: Any
) -> np.ndarray:
    mask = public.generate_mask(
        image=image[None].astype(np.float32) / 255,
        target_prompt=query,
        source_prompt=reference,
        num_maps_per_mask=DRAWS,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **options,
    )
    return mask[0].astype(bool)


def diffusers_timestep(scheduler: Any, strength: float, steps: int) -> int:
    """The timestep diffusers' image-to-image pipelines start from at this strength."""
    kept = min(int(steps * strength), steps)
    scheduler = copy.deepcopy(scheduler)
    if "steps_offset" in scheduler.config:
        scheduler.register_to_config(steps_offset=1)
    scheduler.set_timesteps(steps)
    return int(scheduler.timesteps[(steps - kept) * scheduler.order])


def diffusers_mask(
    model: Any,
    latents: torch.Tensor,
    noise: torch.Tensor,
    query: str,
    reference: str,
    *,
    strength: float = 0.5,
    steps: int = 50,
    clamp: float = 3.0,
) -> np.ndarray:
    """Our step 1 at the timestep that the pipeline starts from; its guidance cancels."""
    t = diffusers_timestep(model.scheduler, strength, steps)
    return diffedit_mask(model, latents, query, reference, noise, t, clamp=clamp).cpu().numpy()


CASES = [
    ({}, {}),
    ({"guidance_scale": 3.0}, {}),
    ({"mask_encode_strength": 0.8}, {"strength": 0.8}),
    ({"mask_encode_strength": 0.25, "num_inference_steps": 20}, {"strength": 0.25, "steps": 20}),
    ({"mask_thresholding_ratio": 2.0}, {"clamp": 2.0}),
]


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize(("theirs", "ours"), CASES)
def test_same_mask_pixel_for_pixel(
    kind: str,
    theirs: dict[str, Any],
    ours: dict[str, Any],
    request: pytest.FixtureRequest,
    tiny_image: np.ndarray,
) -> None:
    public = public_pipeline(request.getfixturevalue(f"{kind}_pipeline"))
    model = request.getfixturevalue(f"{kind}_backbone")
    for seed, (query, reference) in enumerate(
        [("a dog", ""), ("the red ball", "a photo of a cat")]
    ):
        latents, noise = public_inputs(public, tiny_image, seed)
        expected = public_mask(public, tiny_image, query, reference, seed, **theirs)
        mask = diffusers_mask(model, latents, noise, query, reference, **ours)
        assert mask.shape == (48 // model.factor, 80 // model.factor)
        assert 0 < expected.sum() < expected.size
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_guidance_cancels_and_its_fault_changes_nothing(
    kind: str, guidance_scale: float, request: pytest.FixtureRequest, tiny_image: np.ndarray
) -> None:
    """With the embeddings unpacked in the right order the mask is the same, guided or not."""
    public = public_pipeline(request.getfixturevalue(f"{kind}_pipeline"), repaired=True)
    model = request.getfixturevalue(f"{kind}_backbone")
    latents, noise = public_inputs(public, tiny_image, 5)
    expected = public_mask(public, tiny_image, "a dog", "a cat", 5, guidance_scale=guidance_scale)
    mask = diffusers_mask(model, latents, noise, "a dog", "a cat")
    np.testing.assert_array_equal(mask, expected)


def test_the_public_pipeline_cannot_do_without_guidance(
    eps_pipeline: Any, tiny_image: np.ndarray
) -> None:
    """The fault the repair above is for; when diffusers mends it, the repair can go."""
    with pytest.raises(TypeError):
        public_mask(public_pipeline(eps_pipeline), tiny_image, "a dog", "", 0, guidance_scale=1.0)


def test_one_encoding_serves_all_draws(eps_backbone: Any, tiny_image: np.ndarray) -> None:
    latents = eps_backbone.encode(tiny_image)
    noise = torch.randn(DRAWS, *latents.shape, generator=torch.Generator().manual_seed(0))
    one = diffusers_mask(eps_backbone, latents, noise, "a dog", "")
    many = diffusers_mask(eps_backbone, latents.repeat(DRAWS, 1, 1, 1), noise, "a dog", "")
    np.testing.assert_array_equal(one, many)


@pytest.mark.skipif(not (MINI / "model_index.json").is_file(), reason="mini is not in the tree")
@pytest.mark.parametrize(("query", "reference"), [("a dog", ""), ("", "a photo without a dog")])
def test_mini(query: str, reference: str) -> None:
    from diffusers import StableDiffusionPipeline

    import textseg.backbone.semantic_autoencoder

    pipe = StableDiffusionPipeline.from_pretrained(MINI).to(torch.float32)
    public = public_pipeline(pipe)
    model = textseg.backbone.load(MINI, device="cpu")
    image = resize_image(load_image(PARK), (144, 192))
    latents, noise = public_inputs(public, image, 0)
    expected = public_mask(public, image, query, reference, 0)
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(diffusers_mask(model, latents, noise, query, reference), expected)
