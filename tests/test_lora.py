"""LoRA tuning: rows from annotated images, losses, runs that stop and go on, files others load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textseg.cli import main
from textseg.errors import InputError, MissingDependencyError
from textseg.training.captions import caption_rows
from textseg.training.lora_data import AnnotatedImages, RowPairs
from textseg.training.lora_options import LoraOptions

COLOURS = {"dog": (250, 30, 30), "cat": (30, 30, 250)}
QUICK = {"batch": 2, "warmup": 0, "checkpointing": False, "steps": 4}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(images, file): six grey images, 60 x 90, each with a red dog, every other with a blue cat;
    a third category is in none."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("annotated")
    images, annotations = [], []
    for i in range(6):
        pixels = np.full((60, 90, 3), 128, np.uint8)
        boxes = {"dog": (12, 10 + 4 * i, 42, 36 + 4 * i)} | (
            {"cat": (22, 66, 40, 88)} if i % 2 else {}
        )
        for noun, (top, left, bottom, right) in boxes.items():
            pixels[top:bottom, left:right] = COLOURS[noun]
            outline = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "iscrowd": 0,
                "category_id": list(COLOURS).index(noun) + 1, "segmentation": [outline],
            })  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 90})
    names = [*COLOURS, "apple"]
    categories = [{"id": k, "name": n} for k, n in enumerate(names, 1)]
    # An image of a crowd alone is not read.
    images.append({"id": 77, "file_name": "77.png", "height": 60, "width": 90})
    annotations.append({"id": 99, "image_id": 77, "category_id": 3, "iscrowd": 1,
                        "segmentation": [[0, 0, 1, 1, 0, 1]]})  # fmt: skip
    file = folder / "set.json"
    file.write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    return folder, file


@pytest.fixture
def accelerate() -> Iterator[None]:
    """accelerate and peft; accelerate's process-wide state is put back."""
    pytest.importorskip("peft", reason="tuning needs the extra 'train'")
    state = pytest.importorskip("accelerate.state", reason="tuning needs the extra 'train'")
    state.AcceleratorState._reset_state(True)
    yield
    state.AcceleratorState._reset_state(True)


@pytest.fixture
def make_trainer(accelerate: None, make_pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """make_trainer(options, kind="epsilon", folder=None) -> LoraTrainer of a tiny random model."""
    from textseg.backbone.latent_unet import LatentUNet
    from textseg.training.lora import LoraTrainer, make_accelerator

    def make(options: LoraOptions, kind: str = "epsilon", folder: Path | None = None) -> Any:
        model = LatentUNet(make_pipeline(kind), "tiny")
        return LoraTrainer(model, options, make_accelerator(options, "cpu"), folder)

    return make


def rows_of(
    annotated: tuple[Path, Path], options: LoraOptions, process: tuple[int, int] = (0, 1)
) -> RowPairs:
    return RowPairs(AnnotatedImages(*annotated), options, 64, 8, 50, process)


def test_captions_say_what_is_there_and_what_is_not() -> None:
    rng = np.random.default_rng(0)
    slots = []
    for _ in range(200):
        ordinary, absent, slot = caption_rows(rng, ["dog", "cat"], lambda: "apple", 0.3)
        taken = ["dog", "cat", "apple"][slot]
        assert "apple" not in ordinary and "without" not in ordinary
        before, _, after = absent.partition("without")
        assert taken in after and taken not in before
        slots.append(slot)
    assert 0.15 < np.mean([slot < 0 for slot in slots]) < 0.45
    assert {-1, 0, 1} == set(slots)
    assert all(caption_rows(rng, ["dog"], None, 1.0)[2] == 0 for _ in range(20))


def test_a_batch_depends_on_its_number_alone(annotated: tuple[Path, Path]) -> None:
    options = LoraOptions(batch=2, seed=3)
    alone = rows_of(annotated, options)
    second_of_two = rows_of(annotated, options, (1, 2))
    third = alone[3]
    for key, value in third.items():
        np.testing.assert_array_equal(value, rows_of(annotated, options)[3][key])
        np.testing.assert_array_equal(value, second_of_two[1][key])
    assert not np.array_equal(third["levels"], alone[4]["levels"])


def test_the_absent_caption_has_the_image_without_its_noun(annotated: tuple[Path, Path]) -> None:
    rows = rows_of(annotated, LoraOptions(batch=4, absent=0.3))
    seen = {True: 0, False: 0}
    for number in range(12):
        batch = rows[number]
        assert batch["images"].shape[1:4] == (2, *batch["masks"].shape[1:])
        for (image, target), mask, changed, absent in zip(
            batch["images"], batch["masks"] > 0, batch["changed"], batch["absent"], strict=True
        ):
            seen[bool(changed)] += 1
            if not changed:
                np.testing.assert_array_equal(image, target)
                assert not mask.any() and not absent.endswith("dog")
                continue
            noun = next(n for n in COLOURS if n in absent.partition("without")[2])
            colour = np.array(COLOURS[noun])
            assert (np.abs(image[mask].astype(int) - colour).max(1) < 60).mean() > 0.8
            assert (np.abs(target.astype(int) - colour).max(2) < 60).mean() < 0.02
            ys, xs = np.where(mask)
            far = np.ones_like(mask)
            far[max(ys.min() - 6, 0) : ys.max() + 7, max(xs.min() - 6, 0) : xs.max() + 7] = False
            np.testing.assert_array_equal(image[far], target[far])
    assert seen[True] > 20 and seen[False] > 3


def test_images_held_out_are_not_trained_on(annotated: tuple[Path, Path], tmp_path: Path) -> None:
    source = AnnotatedImages(*annotated)
    assert source.nouns == ["dog", "cat", "apple"] and len(source.records) == 6
    source.hold_out(2, 5, tmp_path / "held.json")
    held = AnnotatedImages(annotated[0], tmp_path / "held.json")
    ids = [{image.id for image in part.records} for part in (source, held)]
    assert len(ids[1]) == 2 and not ids[0] & ids[1] and len(ids[0] | ids[1]) == 6
    with pytest.raises(InputError, match=r"validate must be a whole number from 1 to 3 .* got 4"):
        source.hold_out(4, 5, tmp_path / "held.json")


def test_a_missing_image_and_a_bad_file_are_named(
    tmp_path: Path, annotated: tuple[Path, Path]
) -> None:
    with pytest.raises(InputError, match=r"images must hold the annotated files, got no image"):
        AnnotatedImages(tmp_path, annotated[1]).read(0, 64)
    (tmp_path / "bad.json").write_text('{"images": []}')
    with pytest.raises(InputError, match=r"COCO's format.*no list"):
        AnnotatedImages(tmp_path, tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be a whole number from 1 to 1024, got 0"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"levels": (0.5, 0.2)}, r"levels must be two rising numbers in \(0, 1\]"),
        ({"absent": 1.5}, r"absent must be a number in \[0, 1\], got 1.5"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of no, fp16, bf16"),
    ],
)
def test_options_name_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoraOptions(**change)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_losses_are_those_of_the_schedulers_own_formulas(
    kind: str,
    make_trainer: Callable[..., Any],
    annotated: tuple[Path, Path],
    make_pipeline: Callable[..., Any],
) -> None:
    """diffusers adds the noise, makes the target and finds the clean latents, row by row."""
    import torch

    batch = rows_of(annotated, LoraOptions(batch=3, levels=(0.1, 0.6)))[0]
    trainer = make_trainer(LoraOptions(**QUICK), kind)
    with torch.no_grad():
        found = {name: value.item() for name, value in trainer.losses(batch).items()}
    pipe = make_pipeline(kind)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(1000)
    diffusion, counterfactual = [], []
    for i in range(3):
        clean, target = (_latents(pipe, image) for image in batch["images"][i])
        t = torch.tensor([int(batch["levels"][i] * 1000)])
        generator = torch.Generator().manual_seed(int(batch["seeds"][i]))
        noise = torch.randn(clean.shape[1:], generator=generator)[None]
        noisy = scheduler.add_noise(clean, noise, t)
        wanted = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, t)
        outs = []
        for text in (batch["ordinary"][i], batch["absent"][i]):
            ids = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt")
            with torch.no_grad():
                embedding = pipe.text_encoder(ids.input_ids)[0]
                outs.append(pipe.unet(noisy, t, encoder_hidden_states=embedding).sample)
        diffusion.append((outs[0] - wanted).square().mean().item())
        x0 = scheduler.step(outs[1], int(t), noisy).pred_original_sample
        abar = scheduler.alphas_cumprod[t].item()
        weight = min(1.0, abar / (1 - abar)) if kind == "epsilon" else 1.0
        counterfactual.append(weight * (x0 - target).square().mean().item())
    assert found["diffusion"] == pytest.approx(np.mean(diffusion), rel=1e-4)
    assert found["counterfactual"] == pytest.approx(np.mean(counterfactual), rel=1e-4)


def _latents(pipe: Any, image: np.ndarray) -> Any:
    import torch

    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_loss_falls_and_diffusers_loads_the_result(
    kind: str,
    make_trainer: Callable[..., Any],
    make_pipeline: Callable[..., Any],
    annotated: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    import torch

    from textseg.training.lora import save_lora

    options = LoraOptions(rank=4, alpha=10.0, lr=1e-2, steps=400, batch=3, warmup=0)
    trainer = make_trainer(options, kind)
    batch = rows_of(annotated, options)[0]
    rows = [trainer.train_step([batch]) for _ in range(25)]
    totals = [row["diffusion"] + row["counterfactual"] for row in rows]
    assert totals[-1] < 0.95 * totals[0]
    save_lora(tmp_path, trainer.state(), options.scale)

    pipe = make_pipeline(kind)
    rng = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, 8, 12, generator=rng)
    text = torch.randn(1, 16, 16, generator=rng)
    with torch.no_grad():
        plain = pipe.unet(noisy, 300, encoder_hidden_states=text).sample
        pipe.load_lora_weights(tmp_path)
        loaded = pipe.unet(noisy, 300, encoder_hidden_states=text).sample
        tuned = trainer.model.unet.eval()(noisy, 300, encoder_hidden_states=text).sample
    torch.testing.assert_close(loaded, tuned, rtol=1e-4, atol=1e-5)
    assert (tuned - plain).abs().max() > 1e-3


def test_only_attention_layers_are_tuned(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer(LoraOptions(rank=2))
    layers = {name.rsplit(".lora_", 1)[0].split(".attn")[1][2:] for name in trainer.state()}
    assert layers == {"to_q", "to_k", "to_v", "to_out.0"}
    assert sum(p.requires_grad for p in trainer.model.unet.parameters()) == len(trainer.parameters)


def test_checkpointing_and_accumulation_change_nothing_but_cost(
    make_trainer: Callable[..., Any], annotated: tuple[Path, Path]
) -> None:
    import torch

    both = rows_of(annotated, LoraOptions(batch=2, seed=1))[0]
    # One size for both halves, as in one batch.
    halves = [{k: v[i : i + 1] for k, v in both.items()} for i in (0, 1)]
    states = []
    for options, batches in (
        (LoraOptions(lr=1e-2, warmup=0, contrast=0.0, checkpointing=False), [both]),
        (LoraOptions(lr=1e-2, warmup=0, contrast=0.0, checkpointing=True), [both]),
        (LoraOptions(lr=1e-2, warmup=0, contrast=0.0, accumulate=2), halves),
    ):
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)
        trainer = make_trainer(options)
        for _ in range(2):
            trainer.train_step(batches)
        states.append(trainer.state())
    for other in states[1:]:
        for name, weight in states[0].items():
            torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=2e-4)


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_ends_where_an_uninterrupted_one_does(
    make_trainer: Callable[..., Any], annotated: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch

    from textseg.training.lora import run_steps

    options = LoraOptions(**QUICK, lr=1e-2, save_every=1e-9)
    whole = make_trainer(options, folder=tmp_path / "whole")
    run_steps(whole, AnnotatedImages(*annotated))

    def stop(done: int, total: int, stage: str) -> None:
        assert (stage, total) == ("tune", 4)
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        run_steps(
            make_trainer(options, folder=tmp_path / "part"), AnnotatedImages(*annotated), stop
        )
    again = make_trainer(options, folder=tmp_path / "part")
    assert again.step == 2
    run_steps(again, AnnotatedImages(*annotated))
    for name, weight in whole.state().items():
        assert torch.equal(again.state()[name], weight), name
    log = [json.loads(line) for line in (tmp_path / "part" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert all(np.isfinite(row["counterfactual"]) for row in log)
    with pytest.raises(InputError, match=r"rank must be what the run in .*part' began with"):
        make_trainer(LoraOptions(**QUICK, rank=3), folder=tmp_path / "part")


def test_the_command_tunes_measures_saves_and_merges(
    accelerate: None,
    annotated: tuple[Path, Path],
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    import textseg

    out, merged = tmp_path / "lora", tmp_path / "merged"
    words = ["train", "--annotations", str(annotated[1]), "--images", str(annotated[0]), "--init",
             str(tiny_folder), "--rank", "4", "--steps", "3", "--batch", "2", "--lr", "0.01",
             "--warmup", "0", "--validate", "3", "--device", "cpu", "-o", str(out)]  # fmt: skip
    assert main([*words, "--merge", str(merged)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("held-out contrast, mean IoU of ") and said[-1] == str(out)
    figures = json.loads((out / "figures.json").read_text())
    assert set(figures["before"]) == set(figures["after"]) == {"null", "absent"}
    assert all(0 <= v <= 1 for part in ("before", "after") for v in figures[part].values())
    held = json.loads((out / "held-out.json").read_text())
    assert figures["queries"] == len(
        {(a["image_id"], a["category_id"]) for a in held["annotations"]}
    )

    lora = load_file(out / "pytorch_lora_weights.safetensors")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    up, down = (lora[f"unet.{layer}.lora.{k}.weight"].double() for k in ("up", "down"))
    base, sum_ = (UNet2DConditionModel.from_pretrained(f / "unet") for f in (tiny_folder, merged))
    expected = base.get_parameter(f"{layer}.weight").double() + up @ down
    torch.testing.assert_close(
        sum_.get_parameter(f"{layer}.weight").double(), expected, atol=1e-6, rtol=1e-5
    )
    assert up.abs().max() > 0
    model = textseg.load(merged, device="cpu")
    assert model.contrast_defaults.reference == "absent"
    result = textseg.segment(annotated[0] / "1.png", "the cat", model=model, samples=2)
    assert result.mask.shape == (60, 90)

    # The same command again finds everything done; other options are refused.
    assert main(words) == 0
    assert json.loads((out / "figures.json").read_text()) == figures
    assert main([*words, "--batch", "1"]) == 2
    assert "batch must be what the run in" in capsys.readouterr().err
    assert main([*words, "--merge", str(merged)]) == 2
    assert "merge must be a new or empty folder" in capsys.readouterr().err


def test_a_closed_vocabulary_learns_the_new_nouns() -> None:
    from textseg.training.lora_tuning import vocabulary

    known = {"words": ["a", "dog"], "nouns": ["dog"], "prompts": {"template": "{a}"}}
    record = vocabulary(known, ["Fire Engine", "dog"])
    assert record["nouns"] == ["dog", "fire engine"]
    assert record["words"] == ["a", "dog", "engine", "fire"]
    assert record["prompts"]["template"] == "{a}" and "without" in record["prompts"]["absent"]
    assert record["contrast"]["reference"] == "absent"
    assert "nouns" not in vocabulary({}, ["dog"]) and "words" not in vocabulary({}, ["dog"])


def test_the_threshold_of_a_query_is_not_fitted_to_it() -> None:
    """Two images whose objects show at different noise levels: no level serves both halves."""
    from textseg.training.calibrate import STRENGTHS, Question, fit_threshold
    from textseg.training.lora_tuning import cross_iou

    levels = {s for strengths in STRENGTHS for s in strengths}
    questions = []
    for shown in (0.05, 0.5):
        truth = np.zeros((32, 48), bool)
        truth[8:24, 16:40] = True
        inside = truth[4::8, 4::8].astype(np.float32)
        maps = {s: inside if s == shown else 1 - inside for s in levels}
        questions.append(Question(np.zeros((32, 48, 3), np.uint8), truth, maps, maps))
    assert cross_iou(questions) < 0.1
    assert fit_threshold(questions)[2] > 0.3
    assert cross_iou(questions[:1]) > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rank", "4"], "--annotations must be given with --rank, got none"),
        (["--annotations", "a.json", "--work", "w"], "--annotations must come with --rank N"),
        (["--steps", "4", "--work", "w"], "--steps must come with --rank N"),
        (["--packages", "p"], "--work must be given without --rank, got none"),
    ],
)
def test_arguments_of_the_two_ways_do_not_mix(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-o", "out", *words]) == 2
    assert message in capsys.readouterr().err


def test_bad_sources_and_foreign_options_are_refused(
    annotated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["train", "-o", str(tmp_path / "o"), "--init", "mini", "--rank", "4", "--images"]
    assert main([*base, str(tmp_path / "none"), "--annotations", str(annotated[1])]) == 2
    assert "images must be a folder, got" in capsys.readouterr().err
    good = [*base, str(annotated[0]), "--annotations", str(annotated[1])]
    assert main([*good, "--hours", "2"]) == 2
    assert "--hours cannot go with --rank" in capsys.readouterr().err
    assert main(["0" if word == "4" else word for word in good]) == 2
    assert "rank must be a whole number" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from textseg.training.lora import make_accelerator

    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'textseg\[train\]'"):
        make_accelerator(LoraOptions(), "cpu")


def test_another_family_is_refused(
    accelerate: None, annotated: tuple[Path, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    from textseg.errors import ModelError
    from textseg.training.lora_tuning import TuneJob, tune

    folder = tmp_path / "other"
    shutil.copytree(tiny_folder, folder)
    (folder / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ModelError, match="KandinskyPipeline"):
        job = TuneJob(folder, *annotated, tmp_path / "out", device="cpu")
        tune(job, LoraOptions(rank=2))


def test_load_takes_the_lora_with_what_it_learnt(
    make_trainer: Callable[..., Any], make_pipeline: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    import textseg
    from textseg.training.lora import save_lora

    trainer = make_trainer(LoraOptions(rank=2, alpha=6.0))
    for number, parameter in enumerate(trainer.parameters):
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(number))
    save_lora(tmp_path / "lora", trainer.state(), trainer.options.scale)
    record = {
        "lora": {"rank": 2},
        "contrast": {"reference": "absent"},
        "prompts": {"absent": "no {a}"},
    }
    (tmp_path / "lora" / "textseg.json").write_text(json.dumps(record))
    make_pipeline("epsilon").save_pretrained(tmp_path / "base")
    model = textseg.load(tmp_path / "base", lora=tmp_path / "lora", device="cpu")
    assert model.contrast_defaults.reference == "absent"
    assert model.calibration["prompts"] == {"absent": "no {a}"}
    noisy = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    text = model.embed(["a dog"])[0]
    tuned = trainer.model.predict(noisy, 300, text)
    torch.testing.assert_close(model.predict(noisy, 300, text), tuned, rtol=1e-4, atol=1e-5)
    plain = textseg.load(tmp_path / "base", device="cpu").predict(noisy, 300, text)
    assert (tuned - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_right_answer_means_the_clean_latents(kind: str) -> None:
    import torch

    from textseg.backbone.noised import Noised

    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 6, 8, generator=generator) for _ in range(2))
    noised = Noised(clean, noise, torch.tensor([0.9, 0.5, 0.1]), kind)
    torch.testing.assert_close(noised.clean_of(noised.target), clean, rtol=1e-4, atol=1e-4)
    expected = [1.0, 1.0, 1 / 9] if kind == "epsilon" else [1.0, 1.0, 1.0]
    assert noised.certainty.tolist() == pytest.approx(expected)
