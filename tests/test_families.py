"""Every family's backbone against the raw diffusers modules, on tiny random-weight pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MAX_TOKENS, _tokenizer
from tiny_models import FAMILIES, NATIVE, build, diffusion_schedule

import textseg
from textseg.backbone import registry
from textseg.backbone.families import ALL, BY_PIPELINE
from textseg.backbone.flow import FlowTransformer
from textseg.backbone.latent_unet import LatentUNet
from textseg.backbone.lcm import ConsistencyUNet
from textseg.backbone.loading import _class_of
from textseg.backbone.schedulers import (
    flow_signal,
    nearest_timestep,
    reference_signal,
    signal_powers,
)
from textseg.contrast import Predictions, measure
from textseg.errors import InputError, MissingDependencyError, ModelError, ModelNotFoundError
from textseg.inversion import ddim_decode, ddim_encode, ddim_levels, edit_levels, guided_noise
from textseg.options import ContrastOptions, RefineOptions
from textseg.prompts import PromptPair

FLOWS = ("sd3", "sd3-without-t5", "flux", "flux-schnell")
Tiny = tuple[Any, LatentUNet]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """tiny(family) -> (pipeline, backbone), each built once; do not change them."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "clip").mkdir()
    words = _tokenizer(folder / "clip")
    made: dict[str, Tiny] = {}

    def get(family: str) -> Tiny:
        if family not in made:
            pipe = build(family, words, folder / family)
            kind = (
                ConsistencyUNet if family == "lcm" else _class_of(BY_PIPELINE[type(pipe).__name__])
            )
            made[family] = pipe, kind.from_pipeline(pipe, family, dict(NATIVE))
        return made[family]

    return get


@pytest.fixture(scope="session")
def folders(
    tiny: Callable[[str], Tiny], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """folders(family) -> its pipeline folder; read only, copy it to change it."""
    from textseg.backbone.piped import quietly

    base = tmp_path_factory.mktemp("saved")

    def get(family: str) -> Path:
        folder = base / family
        if not folder.exists():
            with quietly():
                tiny(family)[0].save_pretrained(folder)
            (folder / "textseg.json").write_text(json.dumps(NATIVE))
        return folder

    return get


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


# ---------------------------------------------------------------------------
# What the pipelines do with a prompt and with noisy latents, written out over the raw modules.


def clip_ids(tokenizer: Any, prompt: str) -> torch.Tensor:
    return tokenizer(prompt, padding="max_length", max_length=MAX_TOKENS, truncation=True,
                     return_tensors="pt").input_ids  # fmt: skip


def clip_states(tokenizer: Any, encoder: Any, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden states but one, and the first output (pooled, for projecting encoders)."""
    out = encoder(clip_ids(tokenizer, prompt), output_hidden_states=True)
    return out.hidden_states[-2], out[0]


def t5_states(tokenizer: Any, encoder: Any, prompt: str, length: int) -> torch.Tensor:
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True,
                    return_tensors="pt").input_ids  # fmt: skip
    return encoder(ids)[0]


def raw_clean(family: str, pipe: Any, x: torch.Tensor, t: int, a: float, prompt: str) -> Any:
    """The clean latents that the pipeline's network sees in x (1, C, h, w), of unit variance with
    signal power a, at timestep t under the prompt."""
    h, w = x.shape[-2:]
    if family in FLOWS:
        rho = ((1 - a) / a) ** 0.5
        sigma = rho / (1 + rho)
        z = x * ((1 - sigma) ** 2 + sigma**2) ** 0.5
        if family.startswith("sd3"):
            one, pooled_1 = clip_states(pipe.tokenizer, pipe.text_encoder, prompt)
            two, pooled_2 = clip_states(pipe.tokenizer_2, pipe.text_encoder_2, prompt)
            text = torch.zeros(1, MAX_TOKENS + 256, 64)
            text[:, :MAX_TOKENS, : one.shape[-1] + two.shape[-1]] = torch.cat([one, two], -1)
            if pipe.text_encoder_3 is not None:
                text[:, MAX_TOKENS:] = t5_states(pipe.tokenizer_3, pipe.text_encoder_3, prompt, 256)
            u = pipe.transformer(
                z, timestep=torch.tensor([1000 * sigma]), encoder_hidden_states=text,
                pooled_projections=torch.cat([pooled_1, pooled_2], -1),
            ).sample  # fmt: skip
        else:
            length = 512 if family == "flux" else 256
            out = pipe.transformer(
                pipe._pack_latents(z, 1, z.shape[1], h, w),
                timestep=torch.tensor([sigma]),
                guidance=torch.tensor([1.0]) if family == "flux" else None,
                encoder_hidden_states=t5_states(
                    pipe.tokenizer_2, pipe.text_encoder_2, prompt, length
                ),
                pooled_projections=pipe.text_encoder(
                    clip_ids(pipe.tokenizer, prompt)
                ).pooler_output,
                txt_ids=torch.zeros(length, 3),
                img_ids=pipe._prepare_latent_image_ids(
                    1, h // 2, w // 2, torch.device("cpu"), torch.float32
                ),
            ).sample
            u = pipe._unpack_latents(out, h * 8, w * 8, 8)
        return z - sigma * u
    if family == "pixart-sigma":
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=300, return_tensors="pt")
        eps = pipe.transformer(
            x, timestep=torch.tensor([t]),
            encoder_hidden_states=pipe.text_encoder(
                tokens.input_ids, attention_mask=tokens.attention_mask
            )[0],
            encoder_attention_mask=tokens.attention_mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.chunk(2, dim=1)[0]  # fmt: skip
    elif family == "sdxl":
        one, _ = clip_states(pipe.tokenizer, pipe.text_encoder, prompt)
        two, pooled = clip_states(pipe.tokenizer_2, pipe.text_encoder_2, prompt)
        text = torch.cat([one, two], -1)
        if not prompt:
            text, pooled = torch.zeros_like(text), torch.zeros_like(pooled)
        sizes = torch.tensor([[h * 8.0, w * 8, 0, 0, h * 8, w * 8]])
        eps = pipe.unet(
            x, t, encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample  # fmt: skip
    else:
        text = pipe.text_encoder(clip_ids(pipe.tokenizer, prompt))[0]
        told = {}
        if family == "lcm":
            scale = torch.tensor([3.0 - 1.0])
            from diffusers import LatentConsistencyModelPipeline

            pipeline: Any = LatentConsistencyModelPipeline
            told["timestep_cond"] = pipeline.get_guidance_scale_embedding(None, scale, 12)
        eps = pipe.unet(x, t, encoder_hidden_states=text, **told).sample
    return (x - (1 - a) ** 0.5 * eps) / a**0.5


@torch.no_grad()
def test_contrast_is_its_formula_over_the_raw_modules(model: Tiny, tiny_image: np.ndarray) -> None:
    pipe, backbone = model
    family = backbone.name
    latents = backbone.encode(tiny_image[:, :64])
    assert latents.shape[1:] == (6, 8)
    predictions = Predictions(backbone, latents, "picture")
    options = ContrastOptions(samples=2, batch_size=2)
    pair = PromptPair("the dog", "", "null")
    [measured] = measure(predictions, [pair], options)
    t = backbone.timestep(0.5)
    a = backbone.alpha_bar(t)
    expected = torch.zeros(6, 8)
    for eps in predictions.noise(t, 0, range(2)):
        x = (a**0.5 * latents + (1 - a) ** 0.5 * eps)[None]
        seen, reference = (raw_clean(family, pipe, x, t, a, p) for p in ("the dog", ""))
        # In units of the noise: clean images differ by sqrt((1 - a) / a) times the noise.
        expected += (a / (1 - a)) ** 0.5 * (seen - reference)[0].abs().mean(0) / 2
    assert expected.mean() > 1e-3
    torch.testing.assert_close(torch.from_numpy(measured.contrast), expected, rtol=2e-3, atol=2e-5)


def test_a_perfect_prediction_gives_the_noise_back(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for family in FLOWS:
        backbone: Any = tiny(family)[1]
        clean, noise = torch.randn(backbone.vae.config.latent_channels, 6, 10), torch.randn(2, 1)
        noise = torch.randn(2, *clean.shape)
        with monkeypatch.context() as patch:
            patch.setattr(backbone, "_velocity", lambda z, s, e, n=noise, c=clean: n - c)
            for strength in (0.1, 0.5, 0.99):
                t = backbone.timestep(strength)
                noisy = backbone.add_noise(clean, noise, t)
                text = torch.zeros(3, 4)
                torch.testing.assert_close(
                    backbone.predict(noisy, t, text), noise, rtol=1e-4, atol=1e-5
                )


def test_segment_and_edit_run(model: Tiny, tiny_image: np.ndarray) -> None:
    _, backbone = model
    found = textseg.segment(
        tiny_image, "the dog", model=backbone, samples=2, batch_size=2, crf_iterations=1
    )
    assert found.mask.shape == found.score.shape == (48, 80)
    assert np.isfinite(found.score).all() and found.score.max() > 0
    assert found.model == backbone.name
    mask = np.zeros((48, 80), bool)
    mask[8:40, 10:50] = True
    edited = textseg.edit(
        tiny_image, "the dog", "a cat", model=backbone, mask=mask, steps=6, guidance_scale=3.0
    )
    assert edited.image.shape == tiny_image.shape
    assert np.array_equal(edited.image[~mask], tiny_image[~mask])
    assert (edited.image[mask] != tiny_image[mask]).any()


def test_a_batch_of_queries_equals_one_by_one(model: Tiny, tiny_image: np.ndarray) -> None:
    _, backbone = model
    queries = ["the dog", "the red ball", "an apple"]
    options: dict[str, Any] = {
        "model": backbone, "samples": 3, "batch_size": 2, "refine": RefineOptions.off(),
    }  # fmt: skip
    together = textseg.segment(tiny_image, queries, **options)
    for query, among in zip(reversed(queries), reversed(together), strict=True):
        alone = textseg.segment(tiny_image, query, **options)
        assert np.array_equal(alone.score, among.score)
        assert np.array_equal(alone.mask, among.mask)
    assert not np.array_equal(together[0].score, together[1].score)


def test_embeddings_do_not_depend_on_their_neighbours(model: Tiny) -> None:
    _, backbone = model
    among = backbone.embed(["", "a red ball", "the dog"])
    backbone._embeddings.clear()
    assert torch.equal(backbone.embed(["the dog"])[0], among[2])


def test_one_embedding_per_image_or_one_for_all(model: Tiny) -> None:
    _, backbone = model
    noisy = torch.randn(2, backbone.vae.config.latent_channels, 6, 10)
    both = backbone.embed(["a dog", "a cat"])
    t = backbone.timestep(0.3)
    mixed = backbone.predict(noisy, t, both)
    alone = backbone.predict(noisy[1:], t, both[1])
    torch.testing.assert_close(mixed[1:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(mixed[:1], backbone.predict(noisy[:1], t, both[1]), atol=1e-5)


def smooth(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weaken the network beside the exact answer for data from N(0, 1/4): random weights alone
    make an ODE too rough for any solver."""
    predict = type(backbone).predict

    def weak(noisy: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        a = backbone.alpha_bar(t)
        exact = noisy * (1 - a) ** 0.5 / (a / 4 + 1 - a)
        return exact + 0.05 * predict(backbone, noisy, t, embedding)

    monkeypatch.setattr(backbone, "predict", weak)


def test_decoding_gives_back_what_was_encoded(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    _, backbone = model
    smooth(backbone, monkeypatch)
    generator = torch.Generator().manual_seed(1)
    latents = 0.5 * torch.randn(backbone.vae.config.latent_channels, 6, 8, generator=generator)

    def error(steps: int, fixed_point: int = 0) -> float:
        levels = edit_levels(backbone, steps, 0.5)
        noisy = ddim_encode(backbone, latents, levels, fixed_point=fixed_point)[-1]
        assert (noisy - latents).norm() > 0.3 * latents.norm()
        back = ddim_decode(backbone, noisy, levels, prompt="")
        return float((back - latents).norm() / latents.norm())

    coarse, fine = error(10), error(40)
    assert fine < coarse / 1.5 and fine < 0.25
    assert error(10, fixed_point=15) < coarse / 20


@pytest.mark.parametrize("family", FLOWS)
def test_decoding_a_flow_is_eulers_method_in_diffusers(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    backbone: Any = tiny(family)[1]
    from diffusers import FlowMatchEulerDiscreteScheduler

    levels = ddim_levels(1000, 8)
    noise = torch.randn(backbone.vae.config.latent_channels, 6, 10)
    ours = ddim_decode(backbone, noise, levels, prompt="a dog")
    sigmas = backbone._sigmas()[levels[:0:-1]].clamp(max=0.999)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[float(s) for s in sigmas])
    text = backbone.embed(["a dog"])
    z = noise[None] * ((1 - 0.999) ** 2 + 0.999**2) ** 0.5
    with torch.no_grad():
        for t in scheduler.timesteps:
            u = backbone._velocity(z, float(t) / 1000, text)
            z = scheduler.step(u, t, z).prev_sample
    torch.testing.assert_close(ours, z[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FLOWS)
def test_the_first_step_up_sees_the_latents_where_they_are(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    # Euler up from the clean end, z' = z + (sigma' - sigma) u(z, sigma'), in the flow's own scale.
    backbone: Any = tiny(family)[1]
    clean = torch.randn(backbone.vae.config.latent_channels, 6, 10)
    levels = edit_levels(backbone, 20, 0.1)
    z, below = clean[None], 0.0
    with torch.no_grad():
        for t in levels[1:]:
            sigma = float(backbone._sigmas()[t])
            z = z + (sigma - below) * backbone._velocity(z, sigma, backbone.embed([""]))
            below = sigma
    up = ddim_encode(backbone, clean, levels)[-1]
    scale = ((1 - below) ** 2 + below**2) ** 0.5
    torch.testing.assert_close(up * scale, z[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["lcm", "flux"])
def test_distilled_guidance_is_told_and_evaluated_once(
    family: str, tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = tiny(family)[1]
    neutral = backbone.distilled_guidance
    text, negative = backbone.embed(["a dog", "a cat"])
    x = torch.randn(backbone.vae.config.latent_channels, 6, 10)
    asked = []
    predict = type(backbone).predict
    monkeypatch.setattr(
        backbone, "predict", lambda n, t, e: (asked.append(e), predict(backbone, n, t, e))[1]
    )
    strong = guided_noise(backbone, x, 400, text, negative, 7.0)
    plain = guided_noise(backbone, x, 400, text, negative, 1.0)
    assert len(asked) == 2 and not torch.allclose(strong, plain, atol=1e-6)
    assert (asked[0] != asked[1]).sum() == 1
    assert torch.equal(backbone.with_guidance(asked[0], neutral), text)


def test_generation_runs(model: Tiny) -> None:
    _, backbone = model
    made = textseg.generate("a dog", model=backbone, steps=3, guidance_scale=2.0, height=48)
    assert made.image.shape == (48, 64, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_loads_the_same_model(
    family: str, tiny: Callable[[str], Tiny], folders: Callable[[str], Path]
) -> None:
    _, backbone = tiny(family)
    loaded: Any = textseg.load(folders(family), device="cpu")
    assert (type(loaded), loaded.family) == (type(backbone), backbone.family)
    noisy = torch.randn(1, backbone.vae.config.latent_channels, 6, 8)
    t = backbone.timestep(0.5)
    torch.testing.assert_close(
        loaded.predict(noisy, t, loaded.embed(["the dog"])[0]),
        backbone.predict(noisy, t, backbone.embed(["the dog"])[0]),
        rtol=1e-3, atol=1e-5,
    )  # fmt: skip
    assert registry.family_of(folders(family)) in ("latent-unet", backbone.family)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_returns_float32(family: str, folders: Callable[[str], Path]) -> None:
    loaded: Any = textseg.load(folders(family), device="cpu", dtype="bfloat16")
    assert loaded.unet.dtype == torch.bfloat16 and loaded.vae.dtype == torch.float32
    latents = loaded.encode(np.zeros((32, 48, 3), np.uint8))
    out = loaded.predict(latents[None], loaded.timestep(0.5), loaded.embed(["a dog"])[0])
    assert out.dtype == latents.dtype == torch.float32 and torch.isfinite(out).all()


def test_long_prompts_are_cut_where_the_last_encoder_stops(tiny: Callable[[str], Tiny]) -> None:
    for family, limit in (("sd3", 256), ("flux", 512), ("flux-schnell", 256),
                          ("pixart-sigma", 300), ("sdxl", MAX_TOKENS)):  # fmt: skip
        backbone = tiny(family)[1]
        assert backbone.max_tokens == limit
        assert backbone.truncated_words("a dog") == ""
        assert backbone.truncated_words(" ".join(["dog"] * limit) + " cat").endswith("dog cat")


def test_sides_stay_within_sd3s_table_of_positions(tiny: Callable[[str], Tiny]) -> None:
    backbone = tiny("sd3")[1]
    longest = backbone.unet.config["pos_embed_max_size"] * backbone.multiple
    for size in ((10, 4000), (4000, 10), (300, 100)):
        height, width = backbone.fit_size(*size)
        assert max(height, width) <= longest
        assert (height > width) == (size[0] > size[1])
        image = np.zeros((height, width, 3), np.uint8)
        latents = backbone.encode(image)
        assert backbone.predict(latents[None], 300, backbone.embed([""])[0]).shape[1:] == (
            latents.shape
        )


# ---------------------------------------------------------------------------
# Noise levels


def signal_of_schedule(scheduler: Any) -> torch.Tensor:
    """alpha_bar at each timestep, from what the scheduler itself does to a clean signal."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        sigma = scheduler.sigmas[: len(scheduler.timesteps)].double().flip(0)
        return (1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2)
    return scheduler.alphas_cumprod.double()


DIFFUSION = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler",
             "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler",
             "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler",
             "TCDScheduler")  # fmt: skip
SCHEDULES: dict[str, dict[str, Any]] = {
    "stable diffusion": {},
    "pixart": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", DIFFUSION)
def test_strength_is_the_same_noise_on_every_diffusion_schedule(kind: str, schedule: str) -> None:
    scheduler = diffusion_schedule(kind, **SCHEDULES[schedule])
    alphas = signal_of_schedule(scheduler)
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        t = nearest_timestep(signal_powers(scheduler), wanted)
        assert float(alphas[t]) == pytest.approx(wanted, rel=0.01)
        sigma, sigma_wanted = ((1 - a) ** 0.5 for a in (float(alphas[t]), wanted))
        assert sigma == pytest.approx(sigma_wanted, rel=0.01)


@pytest.mark.parametrize("zero", [DIFFUSION[0], "EulerDiscreteScheduler", "DDPMScheduler"])
def test_schedules_that_end_in_pure_noise(zero: str) -> None:
    scheduler = diffusion_schedule(zero, rescale_betas_zero_snr=True)
    alphas = signal_powers(scheduler)
    assert 0 < float(alphas[-1]) <= 1e-6
    wanted = reference_signal()[500]
    assert float(alphas[nearest_timestep(alphas, wanted)]) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    "options", [{"shift": 1.0}, {"shift": 3.0}, {"use_dynamic_shifting": True, "shift": 3.0}]
)
@pytest.mark.parametrize(
    "kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"]
)
def test_strength_is_the_same_noise_on_every_flow(kind: str, options: dict[str, Any]) -> None:
    import diffusers

    if "Heun" in kind and "use_dynamic_shifting" in options:
        pytest.skip("this scheduler has no dynamic shift")
    scheduler = getattr(diffusers, kind)(**options)
    alphas = signal_of_schedule(scheduler)
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        t = nearest_timestep(alphas, wanted)
        sigma = float(1 / (1 + (alphas[t] / (1 - alphas[t])).sqrt()))
        assert float(alphas[t]) == pytest.approx(wanted, rel=0.01)
        assert sigma == pytest.approx(1 / (1 + (wanted / (1 - wanted)) ** 0.5), rel=0.01)


def test_every_family_maps_strength_to_the_same_noise(model: Tiny) -> None:
    _, backbone = model
    for strength in (0.25, 0.5, 0.75):
        wanted = reference_signal()[round(1000 * strength)]
        assert backbone.alpha_bar(backbone.timestep(strength)) == pytest.approx(wanted, rel=0.01)
    levels = edit_levels(backbone, 10, 0.5)
    assert levels[0] == -1 and levels == sorted(set(levels)) and len(levels) == 6
    assert backbone.alpha_bar(levels[-1]) == pytest.approx(reference_signal()[499], rel=0.01)


@pytest.mark.parametrize("family", FLOWS)
def test_a_flows_levels_are_its_schedulers(family: str, tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny(family)
    scheduler: Any = pipe.scheduler
    expected = scheduler.sigmas.double().flip(0)
    if scheduler.config.use_dynamic_shifting:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        shifted = scheduler.time_shift(calculate_shift(4096), 1.0, expected.numpy())
        expected = torch.from_numpy(np.asarray(shifted))
    powers = torch.tensor([backbone.alpha_bar(t) for t in range(1000)], dtype=torch.float64)
    torch.testing.assert_close(powers[:-1], flow_signal(expected)[:-1], rtol=1e-4, atol=1e-9)
    assert powers[-1] == 1e-6 and backbone.alpha_bar(-1) == 1


def test_stable_diffusions_own_timesteps_map_to_themselves(eps_backbone: LatentUNet) -> None:
    assert [eps_backbone.same_noise(t) for t in range(1000)] == list(range(1000))
    assert edit_levels(eps_backbone, 7, 0.6) == ddim_levels(1000, 7, 0.6)
    np.testing.assert_allclose(
        reference_signal(), diffusion_schedule().alphas_cumprod.double(), rtol=2e-5
    )


# ---------------------------------------------------------------------------
# Folders: what is refused


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_unsupported_pipelines_get_one_line(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("KolorsPipeline", "FluxFillPipeline", "WanPipeline", None, ["x"]):
        (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
        with pytest.raises(ModelError) as error:
            textseg.load(folder)
        assert all(family.pipeline in one_line(error) for family in ALL)


def test_the_refiner_is_refused_with_a_reason(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "refiner")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None],
              "requires_aesthetics_score": True}  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="SDXL refiner, which only finishes images"):
        textseg.load(folder)


def test_networks_that_want_more_than_text_are_refused(tiny: Callable[[str], Tiny]) -> None:
    import copy

    from diffusers import DDIMScheduler
    from tiny_models import unet

    pipe = copy.copy(tiny("flux")[0])
    pipe.transformer = copy.deepcopy(pipe.transformer)
    pipe.transformer.register_to_config(in_channels=96)
    with pytest.raises(ModelError, match="96 input channels where its latents have 16"):
        type(tiny("flux")[1]).from_pipeline(pipe)
    pipe = copy.copy(tiny("sd3")[0])
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="needs a FlowMatch scheduler"):
        type(tiny("sd3")[1]).from_pipeline(pipe)
    pipe = copy.copy(tiny("sdxl")[0])
    pipe.unet = unet(cross_attention_dim=40)
    with pytest.raises(ModelError, match="addition_embed_type None"):
        type(tiny("sdxl")[1]).from_pipeline(pipe)
    pipe = copy.copy(tiny("pixart-sigma")[0])
    pipe.text_encoder = None
    with pytest.raises(ModelError, match="must have a text_encoder"):
        type(tiny("pixart-sigma")[1]).from_pipeline(pipe)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux", "pixart-sigma"])
def test_every_missing_or_cut_file_is_named(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    whole = folders(family)
    kind = registry.find_family(whole)
    files = [f"{part}/{stem}.safetensors" for part, stem in kind.weights.items()]
    files += [f"{part}/config.json" for part in kind.networks]
    files += [f"{part}/tokenizer.json" for part in kind.tokenizers]
    files += ["scheduler/scheduler_config.json"]
    folder = shutil.copytree(whole, tmp_path / "m")
    for name in files:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ModelError) as error:
            textseg.load(folder)
        assert str((folder / name).parent) in one_line(error) and "missing" in one_line(error)
        if name.endswith(".safetensors"):
            (folder / name).write_bytes(kept[:-9])
            with pytest.raises(ModelError, match=r"safetensors is damaged"):
                textseg.load(folder)
        (folder / name).write_bytes(kept)
    assert registry.check_model(folder) == dict.fromkeys(kind.weights)


def test_a_text_encoder_that_the_index_names_must_be_there(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders("sd3"), tmp_path / "m")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(ModelError, match="text_encoder_3"):
        textseg.load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert textseg.load(folder, device="cpu").family == "sd3"


def test_tampered_folders_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "m")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"auto_map": {"x": "evil.Y"}}))
    with pytest.raises(ModelError, match="asks for code of its own, which is never run"):
        textseg.load(folder)
    (folder / "unet/config.json").write_text(json.dumps(config))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    for outside in ("../../other.safetensors", "/etc/passwd", "evil.bin"):
        (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": outside}})
        )
        with pytest.raises(ModelError, match="which is no file of weights"):
            textseg.load(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").unlink()
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        textseg.load(folder)


def test_half_precision_files_alone_load(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("sdxl"), tmp_path / "m")
    for part, stem in registry.find_family(folder).weights.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / f"{stem}.fp16.safetensors")
    assert set(registry.check_model(folder).values()) == {"fp16"}
    assert textseg.load(folder, device="cpu").family == "sdxl"


# ---------------------------------------------------------------------------
# What is loaded beside a model


def predicted(model: Any, prompt: str = "the dog") -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(1, model.vae.config.latent_channels, 6, 8, generator=generator)
    return model.predict(noisy, model.timestep(0.5), model.embed([prompt])[0])


@pytest.mark.parametrize("family", ["latent-unet", "sdxl", "sd3", "flux"])
def test_lora_is_its_product_added_to_the_weights(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    plain: Any = textseg.load(folders(family), device="cpu")
    network = "unet" if family in ("latent-unet", "sdxl") else "transformer"
    name = next(n for n, _ in plain.unet.named_modules() if n.endswith("to_q"))
    weight = plain.unet.get_submodule(name).weight
    torch.manual_seed(5)
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    file = tmp_path / "style.safetensors"
    save_file(
        {f"{network}.{name}.lora_A.weight": down, f"{network}.{name}.lora_B.weight": up}, file
    )
    before = predicted(plain)
    tuned: Any = textseg.load(folders(family), device="cpu", lora=[(file, 0.5)])
    assert "lora style x 0.5" in tuned.name
    assert not torch.allclose(predicted(tuned), before, atol=1e-5)
    weight += 0.5 * up @ down
    torch.testing.assert_close(predicted(tuned), predicted(plain), rtol=1e-3, atol=1e-4)


def test_bad_loras_are_refused(folders: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra 'models'")
    from safetensors.torch import save_file

    folder = folders("latent-unet")
    (tmp_path / "style.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"style\.bin is a pickle, which can run code"):
        textseg.load(folder, lora=tmp_path / "style.bin")
    with pytest.raises(ModelError, match="missing"):
        textseg.load(folder, lora=tmp_path / "none.safetensors")
    save_file({"unet.nowhere.lora_A.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit the model") as error:
        textseg.load(folder, device="cpu", lora=tmp_path / "other.safetensors")
    assert one_line(error)
    with pytest.raises(InputError, match="lora must have a scale"):
        textseg.load(folder, lora=[(tmp_path / "other.safetensors", "much")])  # type: ignore[list-item]


def test_learned_words(folders: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    vectors = torch.randn(2, 16)
    save_file({"<mydog>": vectors}, tmp_path / "mydog.safetensors")
    taught: Any = textseg.load(
        folders("latent-unet"), device="cpu", embedding=tmp_path / "mydog.safetensors"
    )
    encoder, tokenizer = taught.text_encoder, taught.tokenizer
    ids = tokenizer("a <mydog> <mydog>_1", padding="max_length", max_length=MAX_TOKENS,
                    return_tensors="pt").input_ids  # fmt: skip
    rows = encoder.get_input_embeddings().weight[ids[0, 2:4]]
    torch.testing.assert_close(rows, vectors)
    torch.testing.assert_close(taught.embed(["a <mydog>"])[0], encoder(ids)[0][0])
    (tmp_path / "mydog.pt").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        textseg.load(folders("latent-unet"), embedding=tmp_path / "mydog.pt")
    save_file({"<wide>": torch.randn(1, 99)}, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match=r"wide\.safetensors does not fit the model"):
        textseg.load(folders("latent-unet"), embedding=tmp_path / "wide.safetensors")


def test_words_learned_for_both_of_sdxls_encoders(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(
        {"clip_l": torch.randn(1, 16), "clip_g": torch.randn(1, 24)}, tmp_path / "cat2.safetensors"
    )
    taught: Any = textseg.load(
        folders("sdxl"), device="cpu", embedding=tmp_path / "cat2.safetensors"
    )
    for words in (taught.pipe.tokenizer, taught.pipe.tokenizer_2):
        assert "cat2" in words.get_added_vocab()
    assert torch.isfinite(taught.embed(["a cat2"])).all()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_transformer_from_a_file_of_its_own(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders(family), tmp_path / "m")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    changed = {k: v * 0.9 for k, v in load_file(weights).items()}
    save_file(changed, tmp_path / "tuned.safetensors")
    beside = textseg.load(folder, device="cpu", transformer=tmp_path / "tuned.safetensors")
    assert not torch.allclose(predicted(beside), predicted(textseg.load(folder, device="cpu")))
    save_file(changed, weights)
    expected = predicted(textseg.load(folder, device="cpu"))
    torch.testing.assert_close(predicted(beside), expected, rtol=1e-4, atol=1e-5)
    weights.unlink()
    assert textseg.load(folder, device="cpu", transformer=tmp_path / "tuned.safetensors")


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_gguf_transformer(family: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="GGUF needs the extra 'models'")
    pytest.importorskip("accelerate", reason="GGUF needs the extra 'models'")
    folder = folders(family)
    plain: Any = textseg.load(folder, device="cpu")
    writer = gguf.GGUFWriter(tmp_path / "q8.gguf", family)
    for name, value in plain.unet.state_dict().items():
        array = value.numpy()
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantised: Any = textseg.load(folder, device="cpu", transformer=tmp_path / "q8.gguf")
    exact, near = predicted(plain), predicted(quantised)
    error = float((near - exact).norm() / exact.norm())
    assert 1e-6 < error < 0.05
    found = textseg.segment(np.zeros((48, 80, 3), np.uint8), "the dog", model=quantised, samples=1)
    assert found.mask.shape == (48, 80) and "q8.gguf" in found.model


@pytest.mark.parametrize("family", ["latent-unet", "sdxl", "sd3", "flux", "pixart-sigma"])
def test_offload_to_disk_changes_nothing(family: str, folders: Callable[[str], Path]) -> None:
    pytest.importorskip("accelerate", reason="offload needs the extra 'models'")
    held: Any = textseg.load(folders(family), device="cpu")
    away: Any = textseg.load(folders(family), device="cpu", offload="disk")
    assert next(away.unet.parameters()).device.type == "meta"
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(predicted(away), predicted(held), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(away.encode(image), held.encode(image))
    parts = [part for name in registry.find_family(folders(family)).networks
             if (part := getattr(away, "pipe", away).__dict__.get(name)) is not None]  # fmt: skip
    held_on_disk = [part for part in parts if hasattr(part, "offload_folder")]
    assert held_on_disk
    for part in held_on_disk:
        assert Path(part.offload_folder.name).is_dir()
        part.offload_folder.cleanup()


def test_options_that_cannot_be(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = folders("sdxl")
    for how in ("model", "layer"):
        with pytest.raises(InputError, match="offload must be 'disk' on the cpu"):
            textseg.load(folder, device="cpu", offload=how)
    with pytest.raises(InputError, match="offload must be model or layer or disk, got 'cloud'"):
        textseg.load(folder, offload="cloud")
    with pytest.raises(InputError, match="quantize must be 8bit, got '4bit'"):
        textseg.load(folder, quantize="4bit")
    with pytest.raises(InputError, match="config must be left out for a folder"):
        textseg.load(folder, config="someone/else")
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"must be a \.safetensors or \.gguf file"):
        textseg.load(folder, transformer=tmp_path / "x.onnx")


def test_missing_extras_are_named(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    from safetensors.torch import save_file

    find = importlib.util.find_spec
    gone = {"peft", "gguf", "accelerate", "bitsandbytes"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a)
    )
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    options: tuple[dict[str, Any], ...] = (
        {"lora": tmp_path / "a.safetensors"}, {"transformer": tmp_path / "a.gguf"},
        {"quantize": "8bit"}, {"offload": "disk"},
    )  # fmt: skip
    for option in options:
        with pytest.raises(MissingDependencyError, match=r"pip install 'textseg\[models\]'"):
            textseg.load(folders("sd3"), device="cpu", **option)


# ---------------------------------------------------------------------------
# Single files


def test_pickles_and_strangers_are_refused(tmp_path: Path) -> None:
    for name in ("model.ckpt", "model.bin", "model.pt", "model.pth"):
        (tmp_path / name).write_bytes(b"\x80\x02")
        with pytest.raises(ModelError, match="is a pickle, which can run code when loaded"):
            textseg.load(tmp_path / name)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="give it as transformer= beside a pipeline folder"):
        textseg.load(tmp_path / "model.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="is damaged"):
        textseg.load(tmp_path / "model.safetensors")


def original_names(pipe: Any) -> dict[str, torch.Tensor]:
    """A Stable Diffusion 1 pipeline's weights under the names of the original checkpoints.

    After diffusers' scripts/convert_diffusers_to_original_stable_diffusion.py, for the two levels
    of the tiny UNet and the four of the tiny autoencoder.
    """
    from diffusers.loaders import single_file_utils as layout

    out: dict[str, torch.Tensor] = {}
    state = pipe.unet.state_dict()
    top = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0",
           "conv_out": "out.2"}  # fmt: skip
    blocks = {
        "down_blocks.0.resnets.0.": "input_blocks.1.0.",
        "down_blocks.0.attentions.0.": "input_blocks.1.1.",
        "down_blocks.0.downsamplers.0.conv.": "input_blocks.2.0.op.",
        "down_blocks.1.resnets.0.": "input_blocks.3.0.",
        "mid_block.resnets.0.": "middle_block.0.", "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
        "up_blocks.0.resnets.0.": "output_blocks.0.0.",
        "up_blocks.0.resnets.1.": "output_blocks.1.0.",
        "up_blocks.0.upsamplers.0.": "output_blocks.1.1.",
        "up_blocks.1.resnets.0.": "output_blocks.2.0.",
        "up_blocks.1.attentions.0.": "output_blocks.2.1.",
        "up_blocks.1.resnets.1.": "output_blocks.3.0.",
        "up_blocks.1.attentions.1.": "output_blocks.3.1.",
    }  # fmt: skip
    inside = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
              "conv_shortcut": "skip_connection"}  # fmt: skip
    for name, value in state.items():
        new = name
        for ours, theirs in top.items():
            if name.startswith(ours + "."):
                new = theirs + name[len(ours) :]
        for ours, theirs in blocks.items():
            if name.startswith(ours):
                rest = name[len(ours) :]
                if ".resnets." in ours:
                    head, dot, tail = rest.partition(".")
                    rest = inside[head] + dot + tail
                new = theirs + rest
        out["model.diffusion_model." + new] = value
    levels = 4
    for name, value in pipe.vae.state_dict().items():
        new = name
        for i in range(levels):
            new = new.replace(f"down_blocks.{i}.resnets.", f"down.{i}.block.")
            new = new.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.")
            new = new.replace(f"up_blocks.{i}.resnets.", f"up.{levels - 1 - i}.block.")
            new = new.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample.")
        new = new.replace("mid_block.resnets.0.", "mid.block_1.")
        new = new.replace("mid_block.resnets.1.", "mid.block_2.")
        new = new.replace("mid_block.attentions.0.", "mid.attn_1.")
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                             ("to_out.0", "proj_out")):  # fmt: skip
            if "attn_1" in new:
                new = new.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
        out["first_stage_model." + new] = value
    for name, value in pipe.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        out["cond_stage_model.transformer." + name] = value
    assert layout.CHECKPOINT_KEY_NAMES["clip"] in out
    return {k: v.contiguous() for k, v in out.items()}


def test_a_single_file_checkpoint_is_the_folder_it_was_made_from(
    tiny: Callable[[str], Tiny],
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants
    from safetensors.torch import save_file

    file = tmp_path / "whole.safetensors"
    save_file(original_names(tiny("latent-unet")[0]), file)
    folder = folders("latent-unet")
    loaded: Any = textseg.load(file, config=folder, device="cpu")
    assert (loaded.family, loaded.name) == ("latent-unet", str(file))
    expected: Any = textseg.load(folder, device="cpu")
    torch.testing.assert_close(predicted(loaded), predicted(expected), rtol=1e-4, atol=1e-5)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    torch.testing.assert_close(loaded.encode(image), expected.encode(image))
    found = textseg.segment(image, "the dog", model=loaded, samples=1)
    assert found.mask.shape == (48, 64)
    monkeypatch.setenv("TEXTSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelNotFoundError, match=r"textseg models download .* --configs") as error:
        textseg.load(file, device="cpu")
    assert one_line(error)
    own = tmp_path / "home" / "models" / "stable-diffusion-v1-5--stable-diffusion-v1-5"
    shutil.copytree(folder, own)
    assert torch.equal(predicted(textseg.load(file, device="cpu")), predicted(loaded))
    assert isinstance(textseg.Segmenter(str(file)).model, LatentUNet)


def test_flow_backbones_are_told_apart(tiny: Callable[[str], Tiny]) -> None:
    assert {f for f in FAMILIES if isinstance(tiny(f)[1], FlowTransformer)} == set(FLOWS)
