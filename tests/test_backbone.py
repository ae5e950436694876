"""The backbone against the raw diffusers modules, on tiny random-weight models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import textseg.backbone
from textseg.backbone.latent import pick_device, pick_dtype
from textseg.backbone.latent_unet import LatentUNet
from textseg.errors import InputError, ModelError
from textseg.options import ContrastOptions


def raw_embedding(pipe: Any, prompt: str) -> torch.Tensor:
    """(L, D), by the pipeline's own encoder."""
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]


# The second size is no multiple of the coarsest level's cells.
@pytest.mark.parametrize("size", [(6, 10), (5, 7)])
@pytest.mark.parametrize("kind", ["eps", "v"])
def test_predictions_match_the_raw_modules(
    kind: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    pipe = request.getfixturevalue(f"{kind}_pipeline")
    model = request.getfixturevalue(f"{kind}_backbone")
    torch.manual_seed(0)
    clean, noise = torch.randn(4, *size), torch.randn(3, 4, *size)
    t = 437
    noisy = model.add_noise(clean, noise, t)
    expected = pipe.scheduler.add_noise(clean.expand(3, -1, -1, -1), noise, torch.tensor([t] * 3))
    torch.testing.assert_close(noisy, expected)
    text = raw_embedding(pipe, "a dog")
    torch.testing.assert_close(model.embed(["a dog"])[0], text)
    with torch.no_grad():
        raw = pipe.unet(noisy, t, encoder_hidden_states=text.expand(3, -1, -1)).sample
    # Where the scheduler's own DDIM step lands tells which noise it took the output for.
    abar = float(pipe.scheduler.alphas_cumprod[t])
    pipe.scheduler.set_timesteps(1000)
    step = pipe.scheduler.step(raw, t, noisy, eta=0.0)
    implied = (noisy - abar**0.5 * step.pred_original_sample) / (1 - abar) ** 0.5
    torch.testing.assert_close(
        model.predict(noisy, t, model.embed(["a dog"])[0]), implied, rtol=1e-4, atol=1e-5
    )


def test_sample_prediction_gives_the_noise_that_was_added(make_pipeline: Any) -> None:
    model = LatentUNet(make_pipeline("sample"))
    clean, noise = torch.randn(1, 4, 6, 10), torch.randn(1, 4, 6, 10)
    noisy = model.add_noise(clean[0], noise, 600)
    torch.testing.assert_close(model.to_epsilon(clean, noisy, 600), noise, rtol=1e-4, atol=1e-5)


def test_v_of_the_true_noise_gives_it_back(v_backbone: LatentUNet) -> None:
    clean, noise = torch.randn(1, 4, 6, 10), torch.randn(1, 4, 6, 10)
    a = v_backbone.alpha_bar(700)
    v = a**0.5 * noise - (1 - a) ** 0.5 * clean
    noisy = v_backbone.add_noise(clean[0], noise, 700)
    torch.testing.assert_close(v_backbone.to_epsilon(v, noisy, 700), noise, rtol=1e-4, atol=1e-5)


def test_one_embedding_per_image_or_one_for_all(eps_backbone: LatentUNet) -> None:
    noisy = torch.randn(2, 4, 6, 10)
    both = eps_backbone.embed(["a dog", "a cat"])
    mixed = eps_backbone.predict(noisy, 300, both)
    alone = eps_backbone.predict(noisy[1:], 300, both[1])
    torch.testing.assert_close(mixed[1:], alone)
    assert not torch.allclose(mixed[:1], eps_backbone.predict(noisy[:1], 300, both[1]), atol=1e-7)


def test_embeddings_do_not_depend_on_their_neighbours(make_pipeline: Any) -> None:
    pipe = make_pipeline()
    alone = LatentUNet(pipe).embed(["the dog"])[0]
    among = LatentUNet(pipe).embed(["", "a red ball", "the dog"])[2]
    assert torch.equal(alone, among)


def test_embeddings_are_cached(make_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = make_pipeline()
    model = LatentUNet(pipe)
    calls = []
    forward = pipe.text_encoder.forward
    monkeypatch.setattr(
        pipe.text_encoder, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
    )
    model.embed(["", "a dog", ""])
    model.embed(["a dog"])
    assert len(calls) == 2
    for i in range(300):
        model.embed([f"dog {i}"])
    assert len(model._embeddings) == 256


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_encode_is_the_scaled_mean(kind: str, request: pytest.FixtureRequest) -> None:
    pipe = request.getfixturevalue(f"{kind}_pipeline")
    model = request.getfixturevalue(f"{kind}_backbone")
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    latents = model.encode(image)
    assert latents.shape == (4, 32 // model.factor, 48 // model.factor)
    pixels = pipe.image_processor.preprocess(image[None].astype(np.float32) / 255)
    with torch.no_grad():
        mean = pipe.vae.encode(pixels).latent_dist.mean[0] * pipe.vae.config.scaling_factor
        back = pipe.vae.decode(mean[None] / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(latents, mean, rtol=1e-4, atol=1e-5)
    expected = pipe.image_processor.postprocess(back, output_type="np")[0] * 255
    decoded = model.decode(latents)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    assert np.abs(decoded - expected).max() <= 0.51


def test_encode_refuses_what_is_no_image_of_its_size(eps_backbone: LatentUNet) -> None:
    with pytest.raises(InputError, match="multiples of 8, got 30 x 48"):
        eps_backbone.encode(np.zeros((30, 48, 3), np.uint8))
    with pytest.raises(InputError, match="uint8"):
        eps_backbone.encode(np.zeros((32, 48, 3), np.float32))


def test_tiny_autoencoder(make_pipeline: Any) -> None:
    from diffusers import AutoencoderTiny

    pipe = make_pipeline()
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).eval()
    pipe.vae = vae
    model = LatentUNet(pipe)
    assert model.factor == 4
    image = np.full((24, 40, 3), 90, np.uint8)
    with torch.no_grad():
        raw = vae.encode(torch.full((1, 3, 24, 40), 90 / 127.5 - 1)).latents[0]
    torch.testing.assert_close(model.encode(image), raw * vae.config.scaling_factor)
    assert model.decode(model.encode(image)).shape == image.shape


def test_semantic_autoencoder(make_pipeline: Any, tmp_path: Path) -> None:
    """A folder with one is loaded by us and, with our module imported, by diffusers."""
    from diffusers import StableDiffusionPipeline

    from textseg.backbone.semantic_autoencoder import SemanticAutoencoder

    pipe = make_pipeline()
    vae: Any = SemanticAutoencoder(
        latent_channels=4, pixel_channels=2, block_out_channels=(8, 8, 8, 16), norm_num_groups=2,
        feature_widths=(4, 4, 4, 4, 8, 8, 8, 8, 12), feature_repeats=(1, 1, 1, 1, 1, 2, 1),
    ).eval()  # fmt: skip
    parts = {k: v for k, v in pipe.components.items() if k != "vae"}
    changed = StableDiffusionPipeline(vae=vae, **parts, requires_safety_checker=False)
    changed.save_pretrained(tmp_path)
    model = textseg.backbone.load(tmp_path, device="cpu")
    assert isinstance(model, LatentUNet) and model.factor == 8
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    latents = model.encode(image)
    assert latents.shape == (4, 5, 7)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = torch.cat([vae.analysis(pixels), vae.semantics(pixels)], 1)[0]
    torch.testing.assert_close(latents, expected)
    assert model.decode(latents).shape == image.shape
    again = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        coded = again.vae.encode(pixels).latent_dist.mean[0]
    torch.testing.assert_close(coded, expected)
    with pytest.raises(InputError, match="tiling must be False where an autoencoder has no tiles"):
        model.tune(tiling=True)


def test_levels(eps_backbone: LatentUNet) -> None:
    assert eps_backbone.num_train_timesteps == 1000
    assert [eps_backbone.timestep(s) for s in (0.0001, 0.5, 0.7, 1.0)] == [0, 500, 700, 999]
    alphas = [eps_backbone.alpha_bar(t) for t in (0, 500, 999)]
    assert 1 > alphas[0] > alphas[1] > alphas[2] > 0
    assert eps_backbone.alpha_bar(-1) == eps_backbone.alpha_bar(0)  # set_alpha_to_one=False
    for bad in (0, 1.5, -0.1):
        with pytest.raises(InputError, match=r"strength must be in \(0, 1\]"):
            eps_backbone.timestep(bad)
    with pytest.raises(InputError, match="t must be"):
        eps_backbone.alpha_bar(1000)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("height, width", [(480, 640), (640, 427), (97, 101), (200, 600), (1, 1)])
def test_fit_size_keeps_aspect_and_area(
    kind: str, height: int, width: int, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(f"{kind}_backbone")
    h, w = model.fit_size(height, width)
    assert h % model.multiple == 0 and w % model.multiple == 0
    assert 0.6 < h * w / model.native_size**2 < 1.7
    # Within half a multiple of the true side, which for these small models is up to 12 %.
    assert abs(np.log((w / h) / (width / height))) < model.multiple / min(h, w) / 2 + 1e-9


def test_fit_size_of_a_full_size_model(make_pipeline: Any) -> None:
    model = LatentUNet(make_pipeline(), "x", {"native_size": 512})
    model.multiple = 64
    assert model.fit_size(512, 512) == (512, 512)
    assert model.fit_size(480, 640) == (448, 576)
    assert model.fit_size(1080, 1920) == (384, 704)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 100000)])
def test_fit_size_bounds_extreme_aspects(eps_backbone: LatentUNet, size: tuple[int, int]) -> None:
    h, w = eps_backbone.fit_size(*size)
    assert min(h, w) >= eps_backbone.multiple
    assert h * w <= 2 * eps_backbone.native_size**2
    assert (h < w) == (size[0] < size[1])


def test_unknown_and_truncated_words(eps_backbone: LatentUNet, v_backbone: LatentUNet) -> None:
    assert eps_backbone.unknown_words("a zyzzyva") == []
    assert v_backbone.unknown_words("The zyzzyva, a dog; a Quokka zyzzyva") == ["zyzzyva", "quokka"]
    assert v_backbone.truncated_words("a dog") == ""
    long = " ".join(["dog"] * 14 + ["cat", "apple"])
    assert v_backbone.truncated_words(long) == "cat apple"
    assert torch.equal(v_backbone.embed([long])[0], v_backbone.embed([long + " ball"])[0])


def test_calibration(eps_backbone: LatentUNet, v_backbone: LatentUNet, v_pipeline: Any) -> None:
    assert eps_backbone.contrast_defaults == ContrastOptions()
    assert v_backbone.contrast_defaults.reference == "absent"
    with pytest.raises(ModelError, match=r"contrast.*textseg\.json"):
        LatentUNet(v_pipeline, "x", {"contrast": {"samples": 0}})
    with pytest.raises(ModelError, match=r"refine.*textseg\.json"):
        LatentUNet(v_pipeline, "x", {"refine": {"nonsense": 1}})
    with pytest.raises(ModelError, match="weights and offset are needed"):
        LatentUNet(v_pipeline, "x", {"presence": {"scale": 1}})


def test_load_from_folder(tiny_folder: Path, eps_backbone: LatentUNet) -> None:
    model = textseg.backbone.load(tiny_folder, device="cpu")
    assert isinstance(model, LatentUNet)
    assert (model.name, model.device.type, model.dtype) == (str(tiny_folder), "cpu", torch.float32)
    noisy = torch.randn(2, 4, 6, 10)
    torch.testing.assert_close(model.embed(["a dog"]), eps_backbone.embed(["a dog"]))
    torch.testing.assert_close(
        model.predict(noisy, 300, model.embed(["a dog"])[0]),
        eps_backbone.predict(noisy, 300, eps_backbone.embed(["a dog"])[0]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_half_precision_returns_float32(tiny_folder: Path) -> None:
    model = textseg.backbone.load(tiny_folder, device="cpu", dtype="float16")
    assert isinstance(model, LatentUNet)
    assert model.unet.dtype == torch.float16 and model.vae.dtype == torch.float32
    image = np.zeros((16, 24, 3), np.uint8)
    latents = model.encode(image)
    text = model.embed(["a dog"])[0]
    out = model.predict(model.add_noise(latents, torch.randn(1, *latents.shape), 500), 500, text)
    assert {latents.dtype, text.dtype, out.dtype} == {torch.float32}
    assert torch.isfinite(out).all()


def test_loading_needs_no_network_and_prints_nothing(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import socket

    from diffusers.utils import logging

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = logging.get_verbosity()
    logging.set_verbosity_warning()
    for dtype in ("float32", "float16"):
        textseg.backbone.load(tiny_folder, device="cpu", dtype=dtype)
    logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


def test_device_and_dtype() -> None:
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu
    assert pick_dtype(None, cpu) == torch.float32
    assert pick_dtype(None, torch.device("cuda")) == torch.float16
    assert pick_dtype("torch.bfloat16", cpu) == torch.bfloat16
    assert pick_dtype(torch.float16, cpu) == torch.float16
    with pytest.raises(InputError, match=r"device must be .* got 'nonsense'"):
        pick_device("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="got 'cuda'"):
            pick_device("cuda")
    for bad in ("int8", torch.int32):
        with pytest.raises(InputError, match="dtype must be"):
            pick_dtype(bad, cpu)


def test_models_of_another_kind_are_refused(make_pipeline: Any) -> None:
    with pytest.raises(ModelError, match=r"9 input channels.*inpainting"):
        LatentUNet(make_pipeline(in_channels=9), "inpainter")
    pipe = make_pipeline()
    pipe.scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(ModelError, match="predicting 'flow_prediction'"):
        LatentUNet(pipe)
    with pytest.raises(ModelError, match="must have a unet"):
        LatentUNet(object())


def test_weights_of_another_shape_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    config = folder / "unet" / "config.json"
    config.write_text(
        config.read_text().replace('"cross_attention_dim": 16', '"cross_attention_dim": 24')
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        textseg.backbone.load(folder, device="cpu")


@pytest.mark.parametrize("size", ["big", 0, 512.0, None, True])
def test_a_bad_native_size_in_a_folder_is_named(size: Any, make_pipeline: Any) -> None:
    with pytest.raises(ModelError, match=r"bad 'native_size' in textseg\.json: it must be a whole"):
        LatentUNet(make_pipeline(), "x", {"native_size": size})
