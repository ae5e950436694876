"""Text to image: against diffusers' own pipeline, and the same image alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone

from textseg.errors import CancelledError, InputError
from textseg.generation import Generation, generate, starting_noise
from textseg.options import GenerateOptions
from textseg.provenance import TRAINED, read_label
from textseg.saving import read_provenance

SIZE: Any = {"height": 48, "width": 80}


def _diffusers(backbone: Any, pipeline: Any, scheduler: Any, noise: torch.Tensor) -> np.ndarray:
    from diffusers import StableDiffusionPipeline

    parts = dict(pipeline.components) | {"scheduler": scheduler}
    pipe: Any = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        "a dog",
        negative_prompt="the cat",
        latents=noise[None],
        num_inference_steps=5,
        guidance_scale=3.0,
        output_type="np",
        **SIZE,
    ).images
    return np.rint(images[0] * 255)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("kind", ["eps", "v"])
def test_images_equal_the_pipelines(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    import diffusers

    backbone = request.getfixturevalue(f"{kind}_backbone")
    pipeline = request.getfixturevalue(f"{kind}_pipeline")
    own = {k: v for k, v in dict(pipeline.scheduler.config).items() if not k.startswith("_")}
    scheduler = getattr(diffusers, name).from_config(own | {"timestep_spacing": "trailing"})
    noise = starting_noise((4, 48 // backbone.factor, 80 // backbone.factor), 3, "a dog")
    expected = _diffusers(backbone, pipeline, scheduler, noise)
    made = generate(
        "a dog",
        model=backbone,
        steps=5,
        guidance_scale=3.0,
        seed=3,
        negative_prompt="the cat",
        scheduler="ddim" if name == "DDIMScheduler" else name,
        **SIZE,
    )
    assert made.image.shape == (48, 80, 3)
    np.testing.assert_allclose(made.image, expected, atol=1)


def test_an_image_is_the_same_alone_and_in_a_batch(v_backbone: Any) -> None:
    batch = generate("a dog", count=3, model=v_backbone, steps=3, seed=5)
    assert isinstance(batch, list) and [one.options.seed for one in batch] == [5, 6, 7]
    alone = generate("a dog", model=v_backbone, steps=3, seed=6)
    np.testing.assert_array_equal(alone.image, batch[1].image)
    assert not np.array_equal(batch[0].image, batch[1].image)
    assert alone.image.shape == (v_backbone.native_size, v_backbone.native_size, 3)


def test_several_prompts_give_a_list(v_backbone: Any) -> None:
    made = generate(["a dog", "a cat"], model=v_backbone, steps=2)
    assert isinstance(made, list) and [one.prompt for one in made] == ["a dog", "a cat"]


def test_sizes_are_rounded_to_what_the_model_can_make(v_backbone: Any) -> None:
    made = generate("a dog", model=v_backbone, steps=1, height=45, width=3)
    height, width = made.image.shape[:2]
    assert height % v_backbone.multiple == width % v_backbone.multiple == 0
    assert abs(height - 45) <= v_backbone.multiple / 2
    assert width == v_backbone.multiple


def test_defaults_come_with_the_model_and_notes_name_unknown_words() -> None:
    fake = FakeBackbone({}, calibration={"generate": {"steps": 2, "guidance_scale": 1.0}})
    made = generate("a zebra", model=fake, seed=1)
    assert made.options == GenerateOptions(steps=2, guidance_scale=1.0, seed=1)
    assert made.notes == ("words the model does not know: zebra",)


def test_progress_and_cancelling() -> None:
    seen: list[tuple[int, int, str]] = []
    generate("a dog", model=FakeBackbone({}), steps=2, progress=lambda *step: seen.append(step))
    assert seen == [(1, 2, "image 1 of 1"), (2, 2, "image 1 of 1")]
    with pytest.raises(CancelledError):
        generate("a dog", model=FakeBackbone({}), progress=lambda *step: False)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_files_say_that_a_model_made_them(suffix: str, tmp_path: Path) -> None:
    made = generate("a dog", model=FakeBackbone({}), steps=1, seed=4)
    made.save(tmp_path / f"dog{suffix}", visible_label=True)
    assert read_label(tmp_path / f"dog{suffix}").source_type == TRAINED
    record = read_provenance(tmp_path / f"dog{suffix}")
    assert record is not None
    assert (record["kind"], record["prompt"], record["seed"]) == ("generation", "a dog", 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
        ({"scheduler": "NoSuchScheduler"}, "scheduler must be 'ddim' or the name of a diffusers"),
        ({"scheduler": "AutoencoderKL"}, "scheduler must be 'ddim' or the name of a diffusers"),
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"sampler": "ddim"}, "no field 'sampler'"),
        ({"prompt": []}, "prompt must be a text or texts, got []"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str) -> None:
    arguments = {"prompt": "a dog", "model": FakeBackbone({})} | arguments
    with pytest.raises(InputError) as caught:
        generate(arguments.pop("prompt"), **arguments)
    assert words in str(caught.value)


def test_the_result_is_frozen() -> None:
    made = Generation(np.zeros((2, 3, 3), np.uint8), "a dog", GenerateOptions(), "fake")
    with pytest.raises(AttributeError):
        made.prompt = "a cat"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"guidance_scale": 0.0}, "guidance_scale 0 leaves the prompt out"),
     ({"guidance_scale": 1.0, "negative_prompt": "a cat"}, "no negative prompt is used"),
     ({"guidance_scale": 1.0}, ""), ({"guidance_scale": 3.0, "negative_prompt": "a cat"}, "")],
)  # fmt: skip
def test_a_prompt_that_guidance_leaves_out_is_told_of(
    options: dict[str, Any], said: str, v_backbone: Any
) -> None:
    notes = generate("a dog", model=v_backbone, steps=1, **options).notes
    assert [said in note for note in notes] == [True] * bool(said)
