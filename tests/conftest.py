"""Shared fixtures: tiny random-weight Stable Diffusion pipelines, made from configurations."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MAX_TOKENS = 16
DEVICE = os.environ.get("DEVICE", "cuda")
"""Where tests marked `gpu` run."""
WORDS = ("a", "an", "and", "apple", "ball", "cat", "dog", "of", "photo", "red", "the", "without")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None and DEVICE == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs CUDA, and torch finds none")


def _tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer in which each of WORDS is one token; anything else is spelled in letters."""
    from transformers import CLIPTokenizer

    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    merges = list(dict.fromkeys(merges))
    letters = [c for c in string.printable if c.isprintable() and c not in string.ascii_uppercase]
    symbols = letters + [c + "</w>" for c in letters] + [a + b for a, b in merges]
    symbols = [*dict.fromkeys(symbols), "<|startoftext|>", "<|endoftext|>"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges)]) + "\n"
    )
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def make_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """make_pipeline(prediction_type="epsilon", factor=8, seed=0, in_channels=4) ->
    StableDiffusionPipeline: 64 px native at factor 8, 32 px at factor 4; random weights."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from diffusers.utils import logging
    from transformers import CLIPTextConfig, CLIPTextModel

    logging.set_verbosity_error()
    tokenizer = _tokenizer(tmp_path_factory.mktemp("tokenizer"))

    def make(
        prediction_type: Any = "epsilon", factor: int = 8, seed: int = 0, in_channels: int = 4
    ) -> Any:
        levels = factor.bit_length()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(
                sample_size=8,
                in_channels=in_channels,
                out_channels=4,
                layers_per_block=1,
                block_out_channels=(8, 16),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=16,
                attention_head_dim=4,
                norm_num_groups=4,
            )
            sides: dict[str, Any] = {
                "down_block_types": ("DownEncoderBlock2D",) * levels,
                "up_block_types": ("UpDecoderBlock2D",) * levels,
                "block_out_channels": (8,) * levels,
            }
            vae = AutoencoderKL(
                latent_channels=4, norm_num_groups=4, sample_size=8 * factor, **sides
            )
            text_encoder = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=16,
                    intermediate_size=32,
                    projection_dim=16,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=MAX_TOKENS,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            )
        scheduler: Any = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        )
        for part in (unet, vae, text_encoder):
            part.eval().requires_grad_(False)
        pipe = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def eps_pipeline(make_pipeline: Callable[..., Any]) -> Any:
    """Tiny Stable Diffusion that predicts noise; shared, do not change it."""
    return make_pipeline("epsilon")


@pytest.fixture(scope="session")
def v_pipeline(make_pipeline: Callable[..., Any]) -> Any:
    """Tiny Stable Diffusion that predicts v, with a latent factor of 4; do not change it."""
    return make_pipeline("v_prediction", factor=4, seed=1)


@pytest.fixture(scope="session")
def eps_backbone(eps_pipeline: Any) -> Any:
    """`LatentUNet` over `eps_pipeline`."""
    from textseg.backbone.latent_unet import LatentUNet

    return LatentUNet(eps_pipeline, "tiny-eps")


@pytest.fixture(scope="session")
def v_backbone(v_pipeline: Any) -> Any:
    """`LatentUNet` over `v_pipeline`, with a closed vocabulary and calibrated prompts."""
    from textseg.backbone.latent_unet import LatentUNet

    calibration = {
        "contrast": {"reference": "absent", "samples": 3, "batch_size": 2},
        "prompts": {"template": "a photo of {a}", "absent": "a photo without {a}"},
        "presence": {"weights": [2.0, 0.5, -1.0, 0.25], "offset": 1.0},
        "nouns": ["apple", "ball", "cat", "dog"],
        "words": list(WORDS),
    }
    return LatentUNet(v_pipeline, "tiny-v", calibration)


@pytest.fixture(scope="session")
def tiny_folder(eps_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`eps_pipeline` saved as a diffusers folder; read only, copy it to change it."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny-eps"
    eps_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_image() -> np.ndarray:
    """(48, 80, 3) uint8: smooth noise with a bright block."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 160, (6, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image[16:32, 40:64] = (250, 220, 40)
    return image


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """tiny(family) -> (pipeline, backbone), each built once; do not change them."""
    from tiny_models import NATIVE, build

    from textseg.backbone.families import BY_PIPELINE
    from textseg.backbone.lcm import ConsistencyUNet
    from textseg.backbone.loading import _class_of

    folder = tmp_path_factory.mktemp("families")
    (folder / "clip").mkdir()
    words = _tokenizer(folder / "clip")
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            pipe = build(family, words, folder / family)
            kind = (
                ConsistencyUNet if family == "lcm" else _class_of(BY_PIPELINE[type(pipe).__name__])
            )
            made[family] = pipe, kind(pipe, family, dict(NATIVE))
        return made[family]

    return get


@pytest.fixture(scope="session")
def folders(
    tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """folders(family) -> its pipeline folder; read only, copy it to change it."""
    from tiny_models import NATIVE

    from textseg.backbone.quiet import quietly

    base = tmp_path_factory.mktemp("saved")

    def get(family: str) -> Path:
        folder = base / family
        if not folder.exists():
            with quietly():
                tiny(family)[0].save_pretrained(folder)
            (folder / "textseg.json").write_text(json.dumps(NATIVE))
        return folder

    return get


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
