"""Cells named by cross-attention, against the raw network; presence that looks at names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from textseg.backbone.latent_unet import LatentUNet
from textseg.contrast import measure
from textseg.errors import InputError
from textseg.name_weights import NAMING_FLOOR, names_of, naming_features, naming_weights
from textseg.options import ContrastOptions
from textseg.predictions import Predictions
from textseg.presence import presence_features
from textseg.prompts import PromptPair, pair_for
from textseg.training.calibrate import Question, fit_presence

NOUNS = ["dog", "cat", "sports ball"]
T = 300


@pytest.fixture
def named(v_pipeline: Any) -> LatentUNet:
    return LatentUNet(v_pipeline, "x", {"nouns": NOUNS})


def _noisy(model: LatentUNet, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((n, model.vae.config["latent_channels"], 8, 12), generator=generator)


def test_cells_are_named_as_the_layer_of_a_whole_pass_has_it(named: LatentUNet) -> None:
    layers = [m for n, m in named.unet.named_modules() if n.endswith("attn2")]
    heard: list[torch.Tensor] = []
    handle = layers[0].register_forward_pre_hook(lambda _m, inputs: heard.append(inputs[0]))
    noisy = _noisy(named)
    named.predict(noisy, T, named.embed([""])[0])
    handle.remove()
    prompts = ["a photo without a dog", "a photo without a cat", "a photo without a sports ball"]
    texts = [named.embed(prompts[:1])[0, 0]]
    for prompt in prompts:
        ids = named.tokenizer(prompt).input_ids
        texts.append(named.embed([prompt])[0, len(ids) - 2])
    with torch.no_grad():
        query = layers[0].to_q(heard[0])
        logits = query @ layers[0].to_k(torch.stack(texts)).T * layers[0].scale
    expected = logits.softmax(2).permute(0, 2, 1)
    found = named.name_cells(noisy, T)
    assert found is not None and found.shape[:2] == (2, 1 + len(NOUNS))
    h, w = found.shape[2:]
    assert h * w == query.shape[1] and w > h
    torch.testing.assert_close(found.exp().flatten(2), expected, rtol=1e-4, atol=1e-5)
    # The hook is gone: the next pass is a whole one.
    assert named.predict(noisy, T, named.embed([""])[0]).shape == noisy.shape


def test_models_without_a_vocabulary_of_nouns_do_not_name(v_pipeline: Any) -> None:
    plain = LatentUNet(v_pipeline, "x", {})
    assert plain.name_cells(_noisy(plain), T) is None
    assert names_of(Predictions(plain, _noisy(plain)[0], "x"), "dog", T, 0) is None


def test_a_noun_is_found_behind_its_adjectives_and_the_network_asked_once(
    named: LatentUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    whole = named.name_cells
    monkeypatch.setattr(
        named, "name_cells", lambda noisy, t: calls.append(len(noisy)) or whole(noisy, t)
    )
    predictions = Predictions(named, _noisy(named)[0], "x")
    dog, brown = names_of(predictions, "dog", T, 0), names_of(predictions, "big brown dog", T, 0)
    assert dog is not None and dog.dtype == np.float32
    np.testing.assert_array_equal(dog, brown)
    assert names_of(predictions, "unicorn", T, 0) is None
    cat = names_of(predictions, "cat", T, 0)
    assert cat is not None and not np.array_equal(cat, dog)
    assert calls == [1]


def test_naming_features_weigh_cells_by_the_contrast_squared() -> None:
    rng = np.random.default_rng(0)
    contrast = rng.random((8, 12)).astype(np.float32)
    names = np.log(rng.random((4, 6)).astype(np.float32))
    pooled = contrast.reshape(4, 2, 6, 2).mean((1, 3)).astype(np.float64) ** 2
    mean = (
        sum(pooled[y, x] * np.exp(float(names[y, x])) for y in range(4) for x in range(6))
        / pooled.sum()
    )
    expected = [np.log(mean + NAMING_FLOOR), names.max()]
    np.testing.assert_allclose(naming_features(contrast, names), expected, rtol=1e-5)
    assert np.isfinite(naming_features(np.zeros((8, 12), np.float32), names)).all()


def test_naming_weights_are_a_power_of_the_likeliest() -> None:
    rng = np.random.default_rng(1)
    names = np.log(rng.random((6, 9)).astype(np.float32))
    weights = naming_weights(names, 0.5, (6, 9))
    chance = np.exp(names.astype(np.float64))
    np.testing.assert_allclose(weights, np.sqrt(chance / chance.max()), rtol=1e-5)
    assert weights.max() == 1 and weights.dtype == np.float32
    large = naming_weights(names, 0.5, (12, 18))
    assert large.shape == (12, 18) and large.min() > 0 and large.max() == 1
    np.testing.assert_array_equal(naming_weights(names, 0.0, (12, 18)), 1)


@pytest.mark.parametrize("stop_risk", [0.0, 1e-9])
def test_a_contrast_is_weighed_by_names(named: LatentUNet, stop_risk: float) -> None:
    predictions = Predictions(named, _noisy(named)[0], "x")
    pairs = [pair_for(named, q, "null") for q in ("the dog", "the unicorn")]
    common = {"strength": 0.3, "samples": 3, "batch_size": 2, "stop_risk": stop_risk}
    plain, weighed = (
        measure(predictions, pairs, ContrastOptions(naming=n, **common), cut=lambda _: 0.1)  # pyright: ignore[reportArgumentType]
        for n in (0.0, 0.5)
    )
    names = names_of(predictions, "dog", named.timestep(0.3), 0)
    assert names is not None
    weights = naming_weights(names, 0.5, plain[0].contrast.shape)  # pyright: ignore[reportArgumentType]
    assert weights.min() < 0.9
    np.testing.assert_allclose(weighed[0].contrast, plain[0].contrast * weights, rtol=1e-5)
    np.testing.assert_array_equal(weighed[0].evidence, plain[0].evidence)
    # What has no name here stays as it is.
    np.testing.assert_array_equal(weighed[1].contrast, plain[1].contrast)
    with pytest.raises(InputError, match=r"naming must be a number in \[0, 1\], got 2"):
        ContrastOptions(naming=2)


def test_presence_looks_at_names_where_the_model_was_calibrated_for_it(
    named: LatentUNet,
) -> None:
    latents = _noisy(named)[0]
    pair = pair_for(named, "the dog", "absent")
    assert pair.noun == "dog"
    options = named.contrast_defaults
    plain = {"weights": [2, 0.5, -1, 0.25], "offset": 1.0}
    looking = {"weights": [0.5, -0.25], "offset": 0.5}
    defaults = {"reference": "absent", "strength": [0.3], "samples": 1}
    model = LatentUNet(
        named, "x", {"nouns": NOUNS, "contrast": defaults, "presence": {**plain, "named": looking}}
    )
    options = model.contrast_defaults
    predictions = Predictions(model, latents, "x")
    [seen] = measure(predictions, [pair], options)
    names = names_of(predictions, "dog", model.timestep(0.3), options.seed)
    assert names is not None
    x = naming_features(seen.contrast, names)
    logit = float(np.dot(x, looking["weights"])) + looking["offset"]
    assert seen.presence == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-6)
    # A noun outside the vocabulary is judged without.
    unknown = PromptPair(pair.query, pair.reference, "absent", noun="unicorn")
    [other] = measure(predictions, [unknown], options)
    x = presence_features(other.contrast, other.evidence)
    logit = float(np.dot(x, plain["weights"])) + plain["offset"]
    assert other.presence == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-6)


def test_calibrated_presence_uses_names_that_tell() -> None:
    """The contrasts say nothing, the names everything."""
    rng = np.random.default_rng(3)
    questions = []
    for i in range(40):
        truth = np.zeros((24, 40), bool)
        truth[4:12, 8:24] = True
        small = truth[2::4, 2::4].astype(np.float32)
        noise = 0.2 + rng.random(small.shape).astype(np.float32)
        there = i % 2 == 0
        names = np.where((small > 0) & there, -0.5, -6.0).astype(np.float32)
        image = np.zeros((24, 40, 3), np.uint8)
        questions.append(
            Question(image, truth if there else None, {0.1: noise}, {0.1: noise}, {0.1: names})
        )
    fitted, accuracy, _ = fit_presence(questions, (0.1,))
    assert accuracy == pytest.approx(1.0)
    assert len(fitted["weights"]) == 4 and len(fitted["named"]["weights"]) == 2
    blind = [Question(q.image, q.truth, q.maps, q.evidence) for q in questions]
    fitted, accuracy, _ = fit_presence(blind, (0.1,))
    assert "named" not in fitted and accuracy < 0.8
