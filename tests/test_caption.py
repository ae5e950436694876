"""Captions: BLIP on random weights, and a diffusion model that names what it sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone

from textseg.captioning import BlipCaptioner, caption, caption_of, is_blip, name_nouns
from textseg.errors import CancelledError, InputError, ModelError, ModelNotFoundError
from textseg.name_weights import rank_names
from textseg.options import ContrastOptions

NOUNS = ["dog", "ball", "cat", "boat"]
WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "a",
    "photograph",
    "of",
    "dog",
    "and",
    "cat",
)


@pytest.fixture
def seeing() -> FakeBackbone:
    return FakeBackbone(
        {"dog": (0.2, 0.1, 0.5, 0.4), "ball": (0.6, 0.6, 0.9, 0.9)},
        contrast=ContrastOptions(reference="absent", samples=4),
        calibration={
            "nouns": NOUNS,
            "prompts": {"template": "a photo of {a}", "absent": "a photo without {a}"},
        },
    )


def _image() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (50, 83, 3), dtype=np.uint8)


def test_a_model_names_what_is_there(seeing: FakeBackbone) -> None:
    said = caption(_image(), model=seeing)
    assert said.text == str(said) == "a photograph of a dog and a ball"
    assert said.model == "fake"
    assert [noun for noun, _ in said.nouns[:2]] == ["dog", "ball"]
    found = dict(said.nouns)
    assert min(found["dog"], found["ball"]) > 0.9
    assert max(found["cat"], found["boat"]) <= 0.5


def test_the_cost_is_samples_times_one_and_nouns(seeing: FakeBackbone) -> None:
    said = caption(_image(), model=seeing, samples=3)
    assert said.evaluations == 3 * (1 + 4) == sum(count for count, _ in seeing.calls)


def test_batches_make_no_difference(seeing: FakeBackbone) -> None:
    whole = name_nouns(seeing, _image(), NOUNS)
    assert name_nouns(seeing, _image(), NOUNS, batch_size=2) == whole
    assert name_nouns(seeing, _image(), NOUNS[:2]) == [w for w in whole if w[0] in NOUNS[:2]]


def test_few_nouns_are_said_and_none_where_the_model_is_unsure(seeing: FakeBackbone) -> None:
    assert caption(_image(), model=seeing, most=1).text == "a photograph of a dog"
    unsure = caption(_image(), model=seeing, nouns=["boat"])
    assert unsure.text == "a photograph of something"
    assert [noun for noun, _ in unsure.nouns] == ["boat"]
    sure = caption(_image(), model=seeing, nouns=["boat"], least_presence=0.0)
    assert sure.text == "a photograph of a boat"
    assert caption(_image(), model=seeing, prefix="").text == "a dog and a ball"


def test_naming_can_be_watched_and_stopped(seeing: FakeBackbone) -> None:
    seen: list[tuple[int, int, str]] = []
    caption(_image(), model=seeing, progress=lambda *step: seen.append(step))
    assert seen == [(1, 1, "naming")]
    seen.clear()
    name_nouns(seeing, _image(), NOUNS, batch_size=4, progress=lambda *step: seen.append(step))
    # Five prompts of two draws each, two prompts in a call.
    assert seen == [(1, 3, "naming"), (2, 3, "naming"), (3, 3, "naming")]
    with pytest.raises(CancelledError):
        caption(_image(), model=seeing, progress=lambda *step: False)


def test_names_are_ranked_against_one_another() -> None:
    """A dog that is half a cat everywhere, a ball elsewhere, and nothing said of the boat."""
    chances = np.zeros((4, 5, 8), np.float32)
    dog, ball, cat, boat = chances
    dog[:3, :4], cat[:3, :4] = 0.6, 0.3
    ball[4, 6:] = 0.9
    boat[0, 7] = 0.001
    (first, dog_share), (second, ball_share) = rank_names(chances, 2)
    assert (first, second) == (0, 1)
    assert dog_share == pytest.approx(0.6 / 0.9, rel=1e-4)
    assert ball_share == pytest.approx(1, rel=1e-4)
    # The dog explains its cells wholly, so that nothing is left to the cat.
    assert [index for index, _ in rank_names(chances, 9)] == [0, 1]
    assert rank_names(np.zeros((3, 2, 4), np.float32), 5) == []
    ((only, cat_share),) = rank_names(chances, 9, [2])
    assert only == 2
    assert cat_share == pytest.approx(0.3 / 0.9, rel=1e-4)


def test_a_model_that_names_cells_is_asked_once_a_draw(seeing: FakeBackbone) -> None:
    shown = np.full((1, 5, 4, 6), 0.01, np.float32)
    shown[0, 0] = 0.2
    shown[0, 1 + NOUNS.index("cat"), :2, :2] = 0.7
    shown[0, 1 + NOUNS.index("boat"), 3, 4:] = 0.3
    asked = []

    def name_cells(noisy: torch.Tensor, t: int) -> torch.Tensor:
        asked.append((noisy, t))
        return torch.from_numpy(shown).log()

    seeing.name_cells = name_cells  # type: ignore[method-assign]
    said = caption(_image(), model=seeing, samples=3)
    assert said.text == "a photograph of a cat and a boat"
    # Four cells show the cat, two the boat, eighteen nothing.
    share = (4 * 0.7 * 0.7 / 0.73 + 18 * 0.01 / 4 + 2 * 0.01 * 0.01 / 0.33) / (4 * 0.7 + 20 * 0.01)
    assert dict(said.nouns)["cat"] == pytest.approx(share, rel=1e-4)
    assert (said.evaluations, len(asked), seeing.calls) == (3, 3, [])
    assert not torch.equal(asked[0][0], asked[1][0])
    assert caption(_image(), model=seeing, nouns=["boat", "dog"]).text.endswith("of a boat")
    # A noun the model does not know is asked for by contrast.
    assert caption(_image(), model=seeing, nouns=["dog", "zebra"]).evaluations == 2 * 3


def test_captions_of_nouns() -> None:
    assert caption_of([]) == "a photograph of something"
    assert caption_of(["apple"]) == "a photograph of an apple"
    assert caption_of(["scissors", "dog", "boat"], "we see") == "we see scissors, a dog and a boat"


def test_refuses_where_there_is_nothing_to_choose_from() -> None:
    with pytest.raises(InputError, match="nouns must be given for model 'fake'"):
        caption(_image(), model=FakeBackbone({}))
    with pytest.raises(InputError, match=r"^samples must be at least 1, got 0$"):
        caption(_image(), model=FakeBackbone({}), nouns=NOUNS, samples=0)
    with pytest.raises(InputError, match=r"^most must be at least 1, got -1$"):
        caption(_image(), model=FakeBackbone({}), nouns=NOUNS, most=-1)


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP with random weights and a vocabulary of a dozen words, as a folder."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = size | {
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "bos_token_id": 5,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    config = BlipConfig(
        text_config=text,
        vision_config=size | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(config)
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_blip_completes_the_prefix(blip_folder: Path) -> None:
    said = caption(_image(), model=str(blip_folder))
    assert said.text.startswith("a photograph of")
    assert set(said.text.split()) <= set(WORDS)
    assert said.model == str(blip_folder)
    assert said.evaluations == 0
    assert caption(_image(), model=str(blip_folder)) == said


def test_blip_says_what_transformers_says(blip_folder: Path) -> None:
    from PIL import Image
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor: Any = BlipProcessor.from_pretrained(blip_folder)
    model: Any = BlipForConditionalGeneration.from_pretrained(blip_folder)
    inputs = processor(Image.fromarray(_image()), "a dog and", return_tensors="pt")
    tokens = model.eval().generate(**inputs, max_new_tokens=30, do_sample=False, num_beams=1)
    expected = processor.decode(tokens[0], skip_special_tokens=True)
    said = BlipCaptioner.load(str(blip_folder)).caption(_image(), "a dog and")
    assert said.text.split() == expected.split()


def test_blip_is_never_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="textseg models download Salesforce/blip"):
        caption(_image(), model="blip")


def test_a_folder_without_blip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    assert is_blip(str(tmp_path))
    with pytest.raises(ModelError):
        caption(_image(), model=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert not is_blip(str(tmp_path))
