"""The painter's recipe: drawings, pictures, captions, latents, denoiser, and the whole of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import textseg
from textseg.__main__ import main
from textseg.backbone.quiet import quietly
from textseg.errors import InputError
from textseg.saving import read_provenance
from textseg.training.mini.muon import Muon, orthogonalize
from textseg.training.painter.autoencoder import AutoencoderRun, encode_pool, to_pixels
from textseg.training.painter.denoiser import DenoiserRun
from textseg.training.painter.drawings import Drawings, prepare, read_drawings
from textseg.training.painter.facts import NOUNS, STYLES, UNSTYLED
from textseg.training.painter.options import PainterOptions
from textseg.training.painter.recipe import PainterSources, train_painter
from textseg.training.painter.scenes import DRAWN, PHOTO, PLAIN, Captions, compose
from textseg.training.runs import run_for

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"block_out_channels": (16, 16, 32), "attention_head_dim": (1, 1, 2)}
RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A red apple, higher than wide, and a blue fire truck, wider than high; in two styles."""
    root = tmp_path_factory.mktemp("drawings")
    for style in ("flat", "wavy"):
        for noun, size, colour in (("apple", (20, 30), RED), ("fire_truck", (40, 24), BLUE)):
            image = Image.new("RGBA", size)
            ImageDraw.Draw(image).ellipse((0, 0, size[0] - 1, size[1] - 1), fill=(*colour, 255))
            (root / style / noun).mkdir(parents=True)
            image.save(root / style / noun / "a.png")
    return [root / "flat", root / "wavy"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight grey photographs, the last of which is held out and white."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(8):
        grey = 90 + 10 * i if i < 7 else 255
        Image.new("RGB", (60, 44), (grey,) * 3).save(root / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def drawings(folders: list[Path], photographs: Path) -> Drawings:
    return read_drawings(folders, [photographs], 32)


def test_drawings_are_read_with_their_nouns_and_styles_and_kept_in_one_file(
    drawings: Drawings, folders: list[Path], tmp_path: Path
) -> None:
    assert drawings.noun_names == ("apple", "fire truck")
    assert drawings.style_words == ("flat", "wavy")
    assert drawings.cutouts.shape == (4, 32, 32, 4)
    for cutout, noun in zip(drawings.cutouts, drawings.nouns, strict=True):
        ys, xs = np.where(cutout[..., 3] > 128)
        height, width = np.ptp(ys) + 1, np.ptp(xs) + 1
        assert max(height, width) >= 31
        assert height / width == pytest.approx((30 / 20, 24 / 40)[noun], rel=0.1)
    assert len(drawings.grounds) == 7
    assert drawings.grounds.max() < 200

    file = tmp_path / "drawings.npz"
    drawings.save(file)
    again = prepare(None, [], [], file, 32)
    for name in ("cutouts", "nouns", "styles", "grounds", "noun_names", "style_words"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawings, name))
    with pytest.raises(InputError, match="side must be 32"):
        prepare(None, folders, [], file, 64)
    file.write_bytes(b"no arrays")
    with pytest.raises(InputError, match="must be a file of drawings"):
        prepare(None, folders, [], file, 32)
    with pytest.raises(InputError, match="got none"):
        read_drawings([tmp_path], [], 32)


def test_captions_without_a_word_for_the_style_mean_one_style(drawings: Drawings) -> None:
    styled = replace(drawings, style_words=(UNSTYLED, "wavy"))
    made = [compose(np.random.default_rng(s), styled) for s in range(400)]
    assert np.mean([p.style == 0 for p in made]) == pytest.approx(0.55 + 0.45 / 2, abs=0.06)
    captions = Captions(styled.noun_names, styled.style_words)
    facts = (np.array([getattr(p, name) for p in made]) for name in ("noun", "style", "ground"))
    said = [captions.texts[i] for i in captions.draw(np.random.default_rng(0), *facts)]
    for text, picture in zip(said, made, strict=True):
        assert not text or ("wavy" in text) == (picture.style == 1)
    assert {f"a drawing of {a}" for a in ("an apple", "a fire truck")} <= {*said}


def test_a_picture_depends_on_the_generator_alone_and_shows_its_noun(drawings: Drawings) -> None:
    one, two, other = (compose(np.random.default_rng(s), drawings) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.image, two.image)
    assert not np.array_equal(one.image, other.image)
    seen = {PLAIN: 0, DRAWN: 0, PHOTO: 0}
    for seed in range(60):
        picture = compose(np.random.default_rng(seed), drawings)
        colour = np.array((RED, BLUE)[picture.noun])
        object_ = (np.abs(picture.image.astype(int) - colour) < 12).all(2)
        # An ellipse of at least 0.4 and at most 0.96 of the side; its other axis is 0.6 of it.
        assert 0.08 < object_.mean() < 0.55
        if picture.ground == PLAIN:
            corners = picture.image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
            assert (np.ptp(corners, axis=0) == 0).all()
        seen[picture.ground] += 1
    assert all(seen.values())


def test_captions_are_true(drawings: Drawings) -> None:
    captions = Captions(drawings.noun_names, drawings.style_words)
    rng = np.random.default_rng(0)
    n = 4000
    nouns, styles, grounds = (rng.integers(k, size=n) for k in (2, 2, 3))
    drawn = [captions.texts[i] for i in captions.draw(rng, nouns, styles, grounds)]
    silent = np.mean([text == "" for text in drawn])
    assert silent == pytest.approx(0.1, abs=0.02)
    named = ("an apple", "a fire truck")
    for text, noun, style, ground in zip(drawn, nouns, styles, grounds, strict=True):
        if not text:
            continue
        assert text.endswith(named[noun]) and named[1 - noun] not in text
        assert drawings.style_words[1 - style] not in text
        assert "photo" not in text or ground == PHOTO
        assert "drawing" not in text or ground != PHOTO
    assert {"a flat drawing of an apple", "a photo of a fire truck", "an apple"} <= set(drawn)


def test_the_nouns_have_drawings_in_the_styles_of_captions() -> None:
    from textseg.training.mini.nouns import DRAWINGS
    from textseg.training.mini.sprites import STYLES as PACKAGES

    assert len(NOUNS) == len(set(NOUNS)) == 60
    assert set(NOUNS) <= set(DRAWINGS)
    assert set(STYLES) <= set(PACKAGES) - {"openmoji", "emojione-v1"}
    assert len(set(STYLES.values())) == len(STYLES)


def test_latents_have_unit_size_by_the_weights_alone(drawings: Drawings, tmp_path: Path) -> None:
    run = AutoencoderRun(drawings, tmp_path / "a.pt", CPU, pictures=20)
    for _ in range(3):
        run.update(0.0)
    run.save()
    again = AutoencoderRun(drawings, tmp_path / "a.pt", CPU, pictures=20)
    assert again.step == 3
    vae = again.finished()
    pixels = to_pixels(run.images[:6])
    with torch.no_grad():
        expected = run.norm.eval()(run.vae.eval().encode(pixels).latent_dist.mean)
        posterior = vae.encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mean, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(posterior.sample(), posterior.mean, rtol=1e-3, atol=1e-4)
    pool = encode_pool(vae, drawings, 70, 0, CPU)
    assert pool["latents"].shape == (70, 16, 4, 4)
    made = [compose(np.random.default_rng([0, 3, i]), drawings) for i in (0, 69)]
    assert pool["nouns"][[0, 69]].tolist() == [m.noun for m in made]
    with torch.no_grad():
        direct = vae.encode(to_pixels(torch.from_numpy(np.stack([m.image for m in made]))))
    torch.testing.assert_close(
        pool["latents"][[0, 69]].float(), direct.latent_dist.mean, rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("shape", [(12, 90), (90, 12), (12, 30), (20, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalizing_moves_singular_values_alone(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(2)
    u, _, v = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
    sizes = torch.logspace(0, -2, min(shape))
    expected = (sizes / sizes.norm()).double()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    made = orthogonalize((u * sizes @ v).to(dtype))
    assert made.dtype == dtype and made.shape == shape
    wanted = u * expected.float() @ v
    error = (made.float() - wanted).norm() / wanted.norm()
    assert error < (1e-3 if dtype == torch.float32 else 0.15)


def test_muon_moves_each_matrix_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    shapes = [(6, 5), (5, 6), (6, 5), (4, 2, 3, 3), (4, 2, 3, 3), (4, 3, 2, 3)]
    before = [torch.randn(shape) for shape in shapes]
    moved = [torch.nn.Parameter(p.clone()) for p in before]
    optimizer = Muon(moved, lr=0.1, momentum=0.9, decay=0.01)
    means = [torch.zeros_like(p) for p in before]
    for _ in range(2):
        for i, p in enumerate(moved):
            p.grad = torch.randn_like(p)
            means[i] = 0.9 * means[i] + 0.1 * p.grad
            ahead = (0.1 * p.grad + 0.9 * means[i]).reshape(len(p), -1)
            rows, columns = ahead.shape
            step = orthogonalize(ahead) * max(1, rows / columns) ** 0.5
            before[i] = before[i] * (1 - 0.1 * 0.01) - 0.1 * step.view_as(p)
        optimizer.step()
    for p, expected in zip(moved, before, strict=True):
        torch.testing.assert_close(p.data, expected, rtol=1e-4, atol=1e-5)


def _pool(n: int = 64) -> dict[str, torch.Tensor]:
    """Latents of two nouns that differ by their sign."""
    torch.manual_seed(0)
    nouns = torch.arange(n) % 2
    sign = (1 - 2 * nouns)[:, None, None, None]
    latents = (sign + 0.1 * torch.randn(n, 4, 4, 4)).half()
    return {"latents": latents, "nouns": nouns, "styles": 0 * nouns, "grounds": 0 * nouns}


def _run(file: Path, **options: Any) -> DenoiserRun:
    o = PainterOptions(batch=16, warmup=5, ema=0.9, **options)
    return DenoiserRun(_pool(), ("apple", "fire truck"), ("flat",), o, file, CPU, **TINY)


def test_the_denoiser_learns_to_paint_what_is_asked_for(tmp_path: Path) -> None:
    run = _run(tmp_path / "a.pt", scenes=16 * 50)
    while run.used() < 1:
        run.update(run.used())
    texts = ["a drawing of an apple", "a flat drawing of a fire truck", "a fire truck", "an apple"]
    means = run.paint(texts, 1, steps=10).mean((1, 2, 3))
    assert (means[[0, 3]] > 0.2).all() and (means[[1, 2]] < -0.2).all()


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = _run(tmp_path / "a.pt")
    whole.save()
    shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    first = _run(tmp_path / "b.pt")
    for _ in range(4):
        whole.update(0.0)
    for _ in range(2):
        first.update(0.0)
    first.save()
    second = _run(tmp_path / "b.pt")
    assert (second.step, second.scenes) == (2, 32)
    for _ in range(2):
        second.update(0.0)
    assert torch.equal(whole.ids, second.ids)
    # Sums of float32 may come in another order where memory lies otherwise.
    for name in ("models", "averaged"):
        for one, other, before in zip(*(run.parts[name] for run in (whole, second, first)),
                                      strict=True):  # fmt: skip
            for a, b in zip(one.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert not torch.equal(next(other.parameters()), next(before.parameters()))


def test_the_rates_fall_in_the_last_quarter(tmp_path: Path) -> None:
    run = _run(tmp_path / "a.pt")
    run.step = 1000
    rates = []
    for done in (0.0, 0.74, 0.875, 0.9999):
        run.update(done)
        rates.append(run.optimizers[0].param_groups[0]["lr"] / run.options.matrix_lr)
    assert rates == pytest.approx([1, 1, 0.5, 0.02])


def test_a_run_ends_by_scenes_or_by_time(tmp_path: Path) -> None:
    run = _run(tmp_path / "a.pt", scenes=48)
    run_for(run, 3600, lambda row: None, used=run.used)
    assert run.scenes == 48
    timed = _run(tmp_path / "b.pt")
    begin = time.monotonic()
    run_for(timed, 0.5, lambda row: None, used=timed.used)
    assert 0.5 <= time.monotonic() - begin < 30 and timed.scenes > 0


OPTIONS = PainterOptions(
    hours=1, scenes=160, autoencoder_minutes=0.02, side=32, pool=64, batch=16, warmup=2,
)  # fmt: skip
_KILLED = """
import sys
from pathlib import Path
from textseg.training.painter.options import PainterOptions
from textseg.training.painter.recipe import PainterSources, train_painter
options = PainterOptions(hours=1, autoencoder_minutes=0.02, side=32, pool=64, batch=16, warmup=2,
                         save_every=0.2)
train_painter(PainterSources(drawings=[Path(p) for p in sys.argv[3:]]), Path(sys.argv[1]),
              Path(sys.argv[2]), options, device="cpu",
              block_out_channels=(16, 16, 32), attention_head_dim=(1, 1, 2))
"""


def test_it_is_killed_goes_on_and_writes_a_model_that_loads(
    folders: list[Path], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    work, out = tmp_path / "work", tmp_path / "painter"
    child = subprocess.Popen([sys.executable, "-c", _KILLED, work, out, *folders])
    while not list(work.glob("samples-*.png")):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = torch.load(work / "denoiser.pt", weights_only=True)
    rows: list[tuple[str, dict[str, Any]]] = []
    train_painter(
        PainterSources(), work, out,
        replace(OPTIONS, scenes=before["scenes"] + 400),
        device="cpu", progress=lambda stage, row: rows.append((stage, row)), **TINY,
    )  # fmt: skip
    stages = [stage for stage, _ in rows]
    assert set(stages) == {"denoiser"}
    assert rows[0][1]["scenes"] > before["scenes"] > 0
    assert rows[-1][1]["scenes_per_second"] > 0
    sheets = sorted(work.glob("samples-*.png"))
    with Image.open(sheets[-1]) as sheet:
        assert sheet.size == (10 * 32, 3 * 32)
    note = read_provenance(sheets[-1])
    assert note is not None and note["prompts"][0] == "a drawing of an apple"

    model: Any = textseg.load(out)
    assert model.nouns == ("apple", "fire truck") and model.paints
    # Kept in eight bits: three of mantissa, steps of 2^-9 at the least.
    averaged = torch.load(work / "denoiser.pt", weights_only=True)["averaged"][0]
    for name, value in model.unet.state_dict().items():
        torch.testing.assert_close(value, averaged[name], rtol=2**-4, atol=2**-10)
    assert any(not torch.equal(v.half().float(), averaged[n].half().float())
               for n, v in model.unet.state_dict().items())  # fmt: skip
    made = textseg.generate("a wavy drawing of an apple", model=model, steps=4)
    assert made.image.shape == (32, 32, 3) and not made.notes
    with quietly():
        pipe: Any = StableDiffusionPipeline.from_pretrained(out).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("an apple", num_inference_steps=2, height=32, width=32).images[0].size == (32, 32)
    assert sum(f.stat().st_size for f in out.rglob("*")) < 32e6


def test_prepared_on_one_machine_it_goes_on_without_the_sources(
    folders: list[Path], tmp_path: Path
) -> None:
    prepared, out = tmp_path / "prepared", tmp_path / "results"
    train_painter(
        PainterSources(drawings=folders), prepared, tmp_path / "o", OPTIONS, device="cpu",
        prepare_only=True,
    )  # fmt: skip
    assert not (tmp_path / "o").exists()
    script = Path(textseg.__file__).parent.parent / "eval" / "train_on_gpu.sh"
    options = ["--side", "32", "--pool", "16", "--batch", "4", "--scenes", "8"]
    given = {
        "OUT": str(out),
        "WORK": str(tmp_path / "w"),
        "DEVICE": "cpu",
        "PYTHON": sys.executable,
    }
    subprocess.run(["sh", script, prepared, "1", *options], check=True, env={**os.environ, **given})
    assert (out / "painter" / "model_index.json").exists()
    assert [f.name for f in out.glob("samples-*.png")] == ["samples-00000008.png"]
    names = ("drawings.npz", "autoencoder.pt")
    assert sum((prepared / name).stat().st_size for name in names) < 60e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "painter"], "--work must be given"),
        (["--recipe", "painter", "--work", "w", "--coco", "a", "b"],
         "--coco cannot go with --recipe painter"),
        (["--recipe", "painter", "--work", "w", "--steps", "3"],
         "--steps cannot go with --recipe painter"),
        (["--recipe", "painter", "--work", "w", "--pairs", "0,1"],
         "--pairs cannot go with --recipe painter"),
        (["--recipe", "painter", "--work", "w", "--packages", "nowhere"], "must be folders"),
        (["--recipe", "painter", "--work", "w", "--side", "100"], "side must be a multiple of 32"),
        (["--recipe", "painter", "--work", "w", "--batch", "0"], "batch must be"),
        (["--recipe", "painter", "--work", "w"], "sources must hold drawings"),
        (["--work", "w", "--scenes", "3"], "--scenes must come with --recipe painter"),
        (["--work", "w", "--prepare"], "--prepare must come with --recipe painter"),
        (["--rank", "4", "--recipe", "painter"], "--recipe cannot go with --rank"),
        (["--rank", "4", "--side", "64"], "--side cannot go with --rank"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-o", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_the_command_prepares(folders: list[Path], tmp_path: Path) -> None:
    work = tmp_path / "w"
    arguments = ["train", "--recipe", "painter", "-o", str(tmp_path / "o"), "--work", str(work)]
    for folder in folders:
        arguments += ["--drawings", str(folder)]
    arguments += ["--side", "32", "--autoencoder-minutes", "0.01", "--prepare", "--device", "cpu"]
    assert main([*arguments, "--pool", "20", "--quiet"]) == 0
    assert Drawings.load(work / "drawings.npz").side == 32
    assert (work / "autoencoder.pt").is_file()
