"""Every family's backbone against the raw diffusers modules, on tiny random-weight pipelines."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MAX_TOKENS
from tiny_models import FAMILIES, FLOWS, Tiny, flow_levels, predicted
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

import textseg
from textseg.backbone.families import ALL
from textseg.backbone.folders import find_family
from textseg.backbone.schedulers import reference_signal
from textseg.contrast import measure
from textseg.editing import edit_defaults
from textseg.errors import InputError
from textseg.generation import starting_noise
from textseg.inversion import ddim_decode, ddim_encode, ddim_levels, edit_levels, guided_noise
from textseg.options import ContrastOptions, RefineOptions
from textseg.predictions import Predictions
from textseg.prompts import PromptPair


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


def distilled_scale() -> torch.Tensor:
    from diffusers import LatentConsistencyModelPipeline

    pipeline: Any = LatentConsistencyModelPipeline
    return pipeline.get_guidance_scale_embedding(None, torch.tensor([3.0 - 1.0]), 12)


class Done(tuple[torch.Tensor, ...]):
    """What a scheduler's step gives, whichever way a pipeline takes it."""

    prev_sample: torch.Tensor


def run_pipeline(
    pipe: Any, x: torch.Tensor, t: float, prompt: str, output_type: str = "latent"
) -> tuple[Any, torch.Tensor]:
    """What diffusers' own pipeline gives, and what its network says, run for one step at timestep t
    from the latents x (1, C, h, w), without guidance, by a scheduler that does nothing."""
    h, w = x.shape[-2:]
    heard: list[torch.Tensor] = []
    scheduler = pipe.scheduler

    def set_timesteps(
        num_inference_steps: Any = None, device: Any = None, timesteps: Any = None,
        sigmas: Any = None, mu: Any = None, max_timesteps: Any = None,
        intermediate_timesteps: Any = None,
    ) -> None:  # fmt: skip
        ends = [t, 0.0] if max_timesteps is not None else [t]
        network = pipe.components.get("transformer") or pipe.unet
        if network.config.get("use_meanflow"):  # the mean up to the second
            ends = [t, t]
        scheduler.timesteps, scheduler.num_inference_steps = torch.tensor(ends), 1

    def step(output: torch.Tensor, t: Any, sample: torch.Tensor, **options: Any) -> Any:
        heard.append(output)
        done = Done((sample, sample))
        done.prev_sample = sample
        return done

    name = type(pipe).__name__
    packed = hasattr(pipe, "_pack_latents")
    given = pixel_unshuffle(x, 2).flatten(2).transpose(1, 2) if packed else x
    if name.startswith(("Flux2", "ErnieImage")):
        given = pixel_unshuffle(x, 2)
    flat = name in ("BriaFiboPipeline", "QwenImage21Pipeline")  # cells of 16 pixels one by one
    if flat:
        given = x.flatten(2).transpose(1, 2)
    side = 16 if flat else 8
    options = {"prompt": prompt, "latents": given, "num_inference_steps": 1, "height": side * h,
               "width": side * w, "output_type": output_type, "guidance_scale": 1.0,
               "true_cfg_scale": 1.0, "distilled_guidance_scale": 1.0,
               "use_resolution_binning": False, "complex_human_instruction": None,
               "clean_caption": False, "enable_prompt_rewrite": False}  # fmt: skip
    if name.startswith(("ZImage", "Krea2")):
        options["guidance_scale"] = 0.0
    if name.startswith("SanaSprint"):
        options |= {"guidance_scale": 4.5, "intermediate_timesteps": None}
    unguided = {"CogView3PlusPipeline": 224, "BriaPipeline": 128}
    if name in unguided and not prompt:  # what their guidance goes away from
        zeros = torch.zeros(1, unguided[name], pipe.text_encoder.config.d_model)
        options |= {"prompt": None, "prompt_embeds": zeros}
    if name == "DreamLitePipeline" and not prompt:
        options["guidance_scale"] = 0.0
    if name.startswith("BriaFibo2") and not prompt:
        from diffusers.pipelines.bria_fibo2.pipeline_bria_fibo2 import DEFAULT_NEGATIVE_PROMPT

        options |= {"prompt": None, "prompt_embeds": pipe.encode_prompt(DEFAULT_NEGATIVE_PROMPT)[0]}
    if name.startswith("Kandinsky3") and not prompt:
        zeros = torch.zeros(1, 5, pipe.text_encoder.config.d_model)
        options |= {"prompt": None, "prompt_embeds": zeros, "attention_mask": torch.zeros(1, 5)}
    if name.startswith("Kandinsky5"):
        options["latents"] = x.permute(0, 2, 3, 1)[:, None]
    taken = inspect.signature(type(pipe).__call__).parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "set_timesteps", set_timesteps)
        patch.setattr(scheduler, "step", step)
        patch.setattr(pipe, "resolutions", [(8 * w, 8 * h)], raising=False)
        patch.setattr(pipe, "check_inputs", lambda *_, **__: None, raising=False)
        if name == "PRXPipeline":  # whose cleaning of captions needs ftfy
            module = sys.modules[type(pipe).__module__]
            patch.setattr(module, "ftfy", SimpleNamespace(fix_text=str), raising=False)
        if name.startswith(("Kandinsky3", "DreamLite", "HiDream")):  # which want other sizes
            patch.setattr(pipe, "prepare_latents", lambda *_: x)
        made = pipe(**{key: value for key, value in options.items() if key in taken})
    return made, heard[0].float()


def said_by_pipeline(pipe: Any, x: torch.Tensor, t: float, prompt: str) -> torch.Tensor:
    """What `run_pipeline`'s network says, of the shape of x."""
    h, w = x.shape[-2:]
    out = run_pipeline(pipe, x, t, prompt)[1]
    if out.shape[1:] == (4 * x.shape[1], h // 2, w // 2):
        out = pixel_shuffle(out, 2)
    if out.ndim == 5:
        out = out[:, 0].permute(0, 3, 1, 2)
    if out.ndim == 3 and out.shape[1] == h * w:
        out = out.transpose(1, 2).unflatten(2, (h, w))
    if out.ndim == 3:
        out = pixel_shuffle(out.transpose(1, 2).unflatten(2, (h // 2, w // 2)), 2)
    return out


def told_time(family: str, pipe: Any, sigma: float) -> float:
    """The timestep at which a flow's pipeline has noise sigma."""
    if family != "cogview4":
        return 1000 * sigma
    # Its pipeline gives the scheduler even timesteps beside sigmas that are to be shifted.
    levels = flow_levels(family, pipe.scheduler.config).sigmas[:-1].flip(0)
    return float(np.interp(sigma, levels, np.linspace(1, 1000, 1000)))


def raw_clean(family: str, pipe: Any, x: torch.Tensor, t: int, a: float, prompt: str) -> Any:
    """The clean latents that the pipeline's network sees in x (1, C, h, w), of unit variance with
    signal power a, at timestep t under the prompt."""
    h, w = x.shape[-2:]
    if family == "sana-sprint":  # x = cos(angle) x_0 + sin(angle) eps
        angle = math.acos(a**0.5)
        output = said_by_pipeline(pipe, x, angle, prompt)
        return math.cos(angle) * x - math.sin(angle) * 2 * output
    if family in FLOWS:
        rho = ((1 - a) / a) ** 0.5
        sigma = rho / (1 + rho)
        z = x * ((1 - sigma) ** 2 + sigma**2) ** 0.5
        if not family.startswith(("sd3", "flux")) or family.startswith("flux2"):
            u = said_by_pipeline(pipe, z, told_time(family, pipe, sigma), prompt)
        elif family.startswith("sd3"):
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
    if family in ("pixart-alpha", "hunyuan-dit", "cogview3-plus", "kolors", "kandinsky3"):
        eps = said_by_pipeline(pipe, x, t, prompt)
    elif family == "pixart-sigma":
        tokens = pipe.tokenizer(prompt, padding="max_length", max_length=300, return_tensors="pt")
        eps = pipe.transformer(
            x, timestep=torch.tensor([t]),
            encoder_hidden_states=pipe.text_encoder(
                tokens.input_ids, attention_mask=tokens.attention_mask
            )[0],
            encoder_attention_mask=tokens.attention_mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.chunk(2, dim=1)[0]  # fmt: skip
    elif family.startswith("sdxl"):
        one, _ = clip_states(pipe.tokenizer, pipe.text_encoder, prompt)
        two, pooled = clip_states(pipe.tokenizer_2, pipe.text_encoder_2, prompt)
        text = torch.cat([one, two], -1)
        if not prompt:
            text, pooled = torch.zeros_like(text), torch.zeros_like(pooled)
        sizes = torch.tensor([[h * 8.0, w * 8, 0, 0, h * 8, w * 8]])
        eps = pipe.unet(
            x, t, encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            timestep_cond=distilled_scale() if family == "sdxl-lcm" else None,
        ).sample  # fmt: skip
    else:
        text = pipe.text_encoder(clip_ids(pipe.tokenizer, prompt))[0]
        eps = pipe.unet(
            x, t, encoder_hidden_states=text,
            timestep_cond=distilled_scale() if family == "lcm" else None,
        ).sample  # fmt: skip
    if family in ("sd2", "hunyuan-dit", "cogview3-plus"):  # what is called eps here is v
        return a**0.5 * x - (1 - a) ** 0.5 * eps
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
    assert expected.mean() > 2e-4
    # Beside 1e-4, what float32 rounds off predictions of size 1, whose difference this is.
    torch.testing.assert_close(torch.from_numpy(measured.contrast), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FLOWS)
def test_latents_are_decoded_as_the_pipeline_decodes_them(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    pipe, backbone = tiny(family)
    latents = torch.randn(backbone.channels, 6, 8)
    shown = run_pipeline(pipe, latents[None], 500.0, "a dog", "np")[0][0][0]
    np.testing.assert_allclose(backbone.decode(latents), shown[..., :3] * 255, atol=0.51)


def test_a_perfect_prediction_gives_the_noise_back(
    tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    for family in FLOWS:
        backbone: Any = tiny(family)[1]
        clean, noise = torch.randn(backbone.channels, 6, 10), torch.randn(2, 1)
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
    noisy = torch.randn(2, backbone.channels, 6, 10)
    both = backbone.embed(["a dog", "a cat"])
    t = backbone.timestep(0.3)
    mixed = backbone.predict(noisy, t, both)
    alone = backbone.predict(noisy[1:], t, both[1])
    torch.testing.assert_close(mixed[1:], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(mixed[:1], backbone.predict(noisy[:1], t, both[1]), atol=1e-5)


@pytest.mark.parametrize("family", ["bria-fibo", "bria-fibo-2"])
def test_layers_are_read_again_once_forgotten(
    family: str, tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = tiny(family)[1]
    noisy = torch.randn(3, backbone.channels, 6, 10)
    texts = backbone.embed(["a dog", "a red ball", ""])
    before = backbone.predict(noisy, 400, texts)
    monkeypatch.setattr("textseg.backbone.bria_fibo.KEPT_TOKENS", 1)
    backbone._heard.clear()
    torch.testing.assert_close(backbone.predict(noisy, 400, texts), before, rtol=1e-4, atol=1e-5)
    assert len(backbone._heard) == 1


def smooth(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weaken the network beside the exact answer for data from N(0, 1/4): random weights alone
    make an ODE too rough for any solver."""
    predict = type(backbone).predict

    def weak(
        noisy: torch.Tensor, t: int, embedding: torch.Tensor, noisy_at: int | None = None
    ) -> torch.Tensor:
        a = backbone.alpha_bar(t)
        exact = noisy * (1 - a) ** 0.5 / (a / 4 + 1 - a)
        return exact + 0.05 * predict(backbone, noisy, t, embedding, noisy_at=noisy_at)

    monkeypatch.setattr(backbone, "predict", weak)


def test_decoding_gives_back_what_was_encoded(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    _, backbone = model
    smooth(backbone, monkeypatch)
    generator = torch.Generator().manual_seed(1)
    latents = 0.5 * torch.randn(backbone.channels, 6, 8, generator=generator)

    def error(steps: int, fixed_point: int = 0) -> float:
        levels = edit_levels(backbone, steps, 0.5)
        noisy = ddim_encode(backbone, latents, levels, fixed_point=fixed_point)[-1]
        assert (noisy - latents).norm() > 0.3 * latents.norm()
        back = ddim_decode(backbone, noisy, levels, prompt="")
        return float((back - latents).norm() / latents.norm())

    coarse, fine = error(8), error(16)
    assert fine < 0.15 and 1.9 < coarse / fine < 2.4  # as 1 / steps: Euler's method is of order 1
    assert error(8, fixed_point=6) < coarse / 20


def _without_guidance(backbone: Any, prompt: str) -> torch.Tensor:
    """What `ddim_encode`, and `ddim_decode` by default, tell the network."""
    text = backbone.embed([prompt])
    distilled = backbone.distilled_guidance is not None
    return backbone.with_guidance(text, 1.0) if distilled else text


@pytest.mark.parametrize("family", FLOWS)
def test_decoding_a_flow_is_eulers_method_in_diffusers(
    family: str, tiny: Callable[[str], Tiny]
) -> None:
    backbone: Any = tiny(family)[1]
    from diffusers import FlowMatchEulerDiscreteScheduler

    levels = ddim_levels(1000, 8)
    noise = torch.randn(backbone.channels, 6, 10)
    ours = ddim_decode(backbone, noise, levels, prompt="a dog")
    sigmas = backbone._sigmas()[levels[:0:-1]].clamp(max=0.999)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=[float(s) for s in sigmas])
    text = _without_guidance(backbone, "a dog")
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
    clean = torch.randn(backbone.channels, 6, 10)
    levels = edit_levels(backbone, 20, 0.1)
    z, below = clean[None], 0.0
    with torch.no_grad():
        for t in levels[1:]:
            sigma = float(backbone._sigmas()[t])
            z = z + (sigma - below) * backbone._velocity(z, sigma, _without_guidance(backbone, ""))
            below = sigma
    up = ddim_encode(backbone, clean, levels)[-1]
    scale = ((1 - below) ** 2 + below**2) ** 0.5
    torch.testing.assert_close(up * scale, z[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "most"),
    [("sd3", (256, 16)), ("aura-flow", (256, 16)), ("cogview3-plus", (512, 16)),
     ("z-image", (16, 1024)), ("bria-fibo-2", (16, 512)), ("lumina2", (16, 1024)),
     ("hidream", (32, 128))],
)  # fmt: skip
def test_pictures_larger_than_a_networks_places_are_refused(
    family: str, most: tuple[int, int], tiny: Callable[[str], Tiny]
) -> None:
    backbone: Any = tiny(family)[1]
    height, width = most
    options: dict[str, Any] = {"model": backbone, "steps": 1, "guidance_scale": 1.0}
    made = textseg.generate("a dog", height=height, width=width, **options)
    assert made.image.shape == (height, width, 3)
    larger = (height + 16, width) if height > width else (height, width + 16)
    with pytest.raises(InputError, match=r"must be at most \d+ for"):
        textseg.generate("a dog", height=larger[0], width=larger[1], **options)


@pytest.mark.parametrize("family", ["lcm", "sdxl-lcm", "flux", "flux2", "sana-sprint",
                                    "hunyuan-image-distilled"])  # fmt: skip
def test_distilled_guidance_is_told_and_evaluated_once(
    family: str, tiny: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone: Any = tiny(family)[1]
    neutral = backbone.distilled_guidance
    text, negative = backbone.embed(["a dog", "a cat"])
    x = torch.randn(backbone.channels, 6, 10)
    asked = []
    predict = type(backbone).predict
    monkeypatch.setattr(
        backbone,
        "predict",
        lambda n, t, e, noisy_at: (asked.append(e), predict(backbone, n, t, e))[1],
    )
    strong = guided_noise(backbone, x, 400, text, negative, 7.0)
    plain = guided_noise(backbone, x, 400, text, negative, 1.0)
    assert len(asked) == 2 and not torch.allclose(strong, plain, atol=1e-6)
    assert (asked[0] != asked[1]).sum() == 1
    assert torch.equal(backbone.with_guidance(asked[0], neutral), text)
    assert torch.equal(asked[1], backbone.with_guidance(text, 1.0))


@torch.no_grad()
def test_generation_is_ddim_over_the_raw_modules(model: Tiny) -> None:
    pipe, backbone = model
    made = textseg.generate(
        "a dog", model=backbone, steps=3, seed=5, height=48,
        guidance_scale=backbone.distilled_guidance or 1.0,
    )  # fmt: skip
    x = starting_noise((backbone.channels, 6, 8), 5, "a dog")
    for t, below in ((999, 666), (666, 332), (332, -1)):
        a, b = backbone.alpha_bar(t), backbone.alpha_bar(below)
        clean = raw_clean(backbone.name, pipe, x[None], t, a, "a dog")[0]
        x = b**0.5 * clean + ((1 - b) / (1 - a)) ** 0.5 * (x - a**0.5 * clean)
    expected = backbone.decode(x)
    assert expected.std() > 1
    np.testing.assert_allclose(made.image, expected.astype(float), atol=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_loads_the_same_model(
    family: str, tiny: Callable[[str], Tiny], folders: Callable[[str], Path]
) -> None:
    _, backbone = tiny(family)
    loaded: Any = textseg.load(folders(family), device="cpu")
    assert (type(loaded), loaded.family) == (type(backbone), backbone.family)
    noisy = torch.randn(1, backbone.channels, 6, 8)
    t = backbone.timestep(0.5)
    torch.testing.assert_close(
        loaded.predict(noisy, t, loaded.embed(["the dog"])[0]),
        backbone.predict(noisy, t, backbone.embed(["the dog"])[0]),
        rtol=1e-3, atol=1e-5,
    )  # fmt: skip
    assert find_family(folders(family)).name == backbone.family


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_returns_float32(family: str, folders: Callable[[str], Path]) -> None:
    loaded: Any = textseg.load(folders(family), device="cpu", dtype="bfloat16")
    assert loaded.unet.dtype == torch.bfloat16 and loaded.vae.dtype == torch.float32
    latents = loaded.encode(np.zeros((32, 48, 3), np.uint8))
    out = loaded.predict(latents[None], loaded.timestep(0.5), loaded.embed(["a dog"])[0])
    assert out.dtype == latents.dtype == torch.float32 and torch.isfinite(out).all()


def test_long_prompts_are_cut_where_the_last_encoder_stops(tiny: Callable[[str], Tiny]) -> None:
    for family, limit in (("sd3", 256), ("flux", 512), ("flux-schnell", 256),
                          ("pixart-sigma", 300), ("sdxl", MAX_TOKENS),
                          ("lumina2", 256)):  # fmt: skip
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


def test_pictures_fit_the_sequence_of_hidream(tiny: Callable[[str], Tiny]) -> None:
    backbone = tiny("hidream")[1]
    room = backbone.unet.max_seq * backbone.multiple**2
    for size in ((10, 4000), (300, 100), (100, 120), (120, 100), (70, 64), (64, 64)):
        height, width = backbone.fit_size(*size)
        assert room / 2 < height * width <= room
        assert (height - width) * (size[0] - size[1]) >= 0
        latents = backbone.encode(np.zeros((height, width, 3), np.uint8))
        assert backbone.predict(latents[None], 300, backbone.embed([""])[0])[0].isfinite().all()


def test_noise_is_added_as_diffusers_adds_it(model: Tiny) -> None:
    from diffusers import DDPMScheduler

    pipe, backbone = model
    clean, noise = (torch.randn(1, backbone.channels, 6, 10) for _ in range(2))
    config = pipe.scheduler.config
    for t in (49, 499, 949):
        ours = backbone.add_noise(clean[0], noise, t)
        if backbone.name not in FLOWS:
            keys = ("beta_start", "beta_end", "beta_schedule")
            plain: Any = DDPMScheduler(**{key: config[key] for key in keys})
            if backbone.name == "cogview3-plus":  # whose schedule is its own
                plain = pipe.scheduler
            theirs = plain.add_noise(clean, noise, torch.tensor([t]))
        else:
            scheduler = flow_levels(backbone.name, config)
            i = 999 - t
            z = scheduler.scale_noise(clean, scheduler.timesteps[i : i + 1], noise)
            theirs = z / float(scheduler.sigmas[i] ** 2 + (1 - scheduler.sigmas[i]) ** 2) ** 0.5
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_capabilities_are_declared(family: str, tiny: Callable[[str], Tiny]) -> None:
    backbone: Any = tiny(family)[1]
    stable_diffusion = family in ("latent-unet", "sd2")
    assert backbone.lora_trainable == backbone.cross_attends == stable_diffusion
    assert backbone.diffedit_parts == stable_diffusion
    told = family in ("lcm", "sdxl-lcm", "flux", "flux2", "sana-sprint", "hunyuan-image-distilled")
    assert (backbone.distilled_guidance is not None) == told
    assert (backbone.sampler_schedule is None) == (family in FLOWS)
    if not told:
        with pytest.raises(NotImplementedError, match="not told a guidance scale"):
            backbone.with_guidance(backbone.embed(["a dog"])[0], 2.0)


def test_guidance_and_few_steps_are_those_of_diffusers() -> None:
    import diffusers
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    for family in ALL:
        taken = inspect.signature(getattr(diffusers, family.pipeline).__call__).parameters
        name = "guidance_scale" if not family.name.startswith("qwen-image") else "true_cfg_scale"
        # Where guidance counts from 0.
        more = family.name in ("krea2", "kandinsky3", "z-image", "z-image-omni")
        usual = taken[name].default if name in taken else None
        if family.name == "hunyuan-image":
            usual = AdaptiveProjectedMixGuidance().guidance_scale
        assert family.guidance == (usual or 1) + more, family.name
        steps = taken["num_inference_steps"].default
        assert family.steps == (steps if steps < 10 else 0), family.name


def test_a_model_is_edited_with_the_guidance_it_was_made_for(tiny: Callable[[str], Tiny]) -> None:
    for family, guidance, steps in (("latent-unet", 7.5, 50), ("flux", 3.5, 50),
                                    ("flux-schnell", 1.0, 4), ("sana-sprint", 4.5, 2),
                                    ("lcm", 8.5, 4), ("dreamlite-mobile", 1.0, 4),
                                    ("hunyuan-image", 3.5, 50),
                                    ("hunyuan-image-distilled", 3.25, 50)):  # fmt: skip
        backbone: Any = tiny(family)[1]
        edit, made = edit_defaults(backbone), backbone.calibration.get("generate", {})
        assert (edit.guidance_scale, edit.steps) == (guidance, 50)
        assert made.get("guidance_scale", 7.5) == guidance and made.get("steps", 50) == steps
        told = {"edit": {"guidance_scale": 2.0}, "native_size": 64}
        assert edit_defaults(type(backbone)(tiny(family)[0], family, told)).guidance_scale == 2.0


@torch.no_grad()
def test_quoted_words_are_spelled_for_hunyuan_image(tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny("hunyuan-image")
    model: Any = backbone
    prompts = ['a "cat"', "the dog", "a 'red' \"ball\""]
    z = torch.randn(3, 4, 6, 8)
    together = model._velocity(z, 0.4, model.embed(prompts))
    alone = [said_by_pipeline(pipe, z[i : i + 1], 400.0, p) for i, p in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    unquoted = model._velocity(z, 0.4, model.embed([p.replace('"', "") for p in prompts]))
    assert not torch.allclose(together[0], unquoted[0], atol=1e-3)


def test_a_folder_says_how_large_prx_paints(tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny("prx")
    model = type(backbone)(pipe)
    assert pipe.config["default_sample_size"] == model.native_size == 512
    assert model.contrast_defaults.strength == (0.5,)


def test_a_folder_says_how_many_steps_qwen_image_21_takes(folders: Callable[[str], Path]) -> None:
    loaded: Any = textseg.load(folders("qwen-image-2.1"), device="cpu")
    assert loaded.calibration["generate"] == {"guidance_scale": 1.0, "steps": 3}


def test_a_folder_says_that_krea_2_is_distilled(folders: Callable[[str], Path]) -> None:
    loaded: Any = textseg.load(folders("krea2-turbo"), device="cpu")
    assert edit_defaults(loaded).guidance_scale == 1.0
    assert loaded.calibration["generate"] == {"guidance_scale": 1.0, "steps": 8}
    levels = flow_levels("krea2-turbo", loaded.scheduler.config).sigmas[:-1].flip(0)
    torch.testing.assert_close(loaded._sigmas().float(), levels, rtol=1e-4, atol=1e-5)


def test_a_distilled_klein_is_told_apart(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders("flux2-klein-kv"), tmp_path / "m")
    with_pictures: Any = textseg.load(folder, device="cpu")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "Flux2KleinPipeline", "is_distilled": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    plain: Any = textseg.load(folder, device="cpu")
    assert (with_pictures.family, plain.family) == ("flux2-klein-kv", "flux2-klein")
    for model in (with_pictures, plain):
        assert edit_defaults(model).guidance_scale == 1
        assert model.calibration["generate"] == {"guidance_scale": 1, "steps": 4}
    torch.testing.assert_close(predicted(with_pictures), predicted(plain), rtol=1e-4, atol=1e-5)


def test_a_finer_picture_is_hidden_by_more_noise(tiny: Callable[[str], Tiny]) -> None:
    pipe, backbone = tiny("sd3")
    kind: Any = type(backbone)
    strengths = [
        kind(pipe, "m", {"native_size": side}).contrast_defaults.strength[0]
        for side in (256, 512, 768, 1024)
    ]
    assert strengths == [0.5, 0.5, 0.62, 0.69]
    # Means over patches that are the same part of the picture have the same signal-to-noise ratio.
    a, b = (reference_signal()[round(1000 * s)] for s in (0.5, 0.69))
    assert (a / (1 - a)) / (b / (1 - b)) == pytest.approx((1024 / 512) ** 2, rel=0.03)
    told = {"contrast": {"strength": 0.4}}
    assert kind(pipe, "m", told).contrast_defaults.strength == (0.4,)
