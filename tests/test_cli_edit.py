"""`textseg edit`, `generate`, `caption` and `inspect`, run as a user runs them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

from textseg.assessing import assess
from textseg.cli import main
from textseg.editing import edit
from textseg.edits import Edit
from textseg.errors import InputError
from textseg.filling import grow_region
from textseg.options import EditOptions
from textseg.outpainting import outpaint
from textseg.provenance import COMPOSITE, TRAINED, read_label
from textseg.saving import read_provenance
from textseg.segmenter import Segmenter

FAST = ["--steps", "4", "--quiet"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    fake = FakeBackbone(
        {"dog": (0.25, 0.2, 0.75, 0.6)}, calibration={"nouns": ["dog", "ball", "cat"]}
    )
    monkeypatch.setattr("textseg.backbone.load", lambda name="mini", **_: fake)
    return fake


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (50, 83, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "park.png")
    return tmp_path / "park.png"


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_edit_writes_what_the_library_makes(model: FakeBackbone, picture: Path) -> None:
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out), "--seed", "3"]
    assert main([*command, *FAST]) == 0
    expected = edit(picture, "the dog", "a cat", model=model, steps=4, seed=3)
    np.testing.assert_array_equal(_pixels(out), expected.image)
    record = read_provenance(out)
    assert record is not None and record == expected.describe()
    assert read_label(out).source_type == COMPOSITE


def test_edit_says_whether_it_took(model: FakeBackbone, picture: Path, capsys: Any) -> None:
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out), "--steps", "2"]
    outcome = assess(edit(picture, "the dog", "a cat", model=model, steps=2), model=model)
    assert main(command) == 0
    assert capsys.readouterr().err == f"textseg: {outcome}\n"
    record = read_provenance(out)
    assert record is not None and record["outcome"] == outcome.describe()
    assert main([*command, "--no-assess"]) == 0
    assert capsys.readouterr().err == ""
    assert "outcome" not in (read_provenance(out) or {})


@pytest.mark.parametrize("verb", ["edit", "outpaint"])
def test_an_edit_stopped_while_it_is_assessed_is_kept(
    model: FakeBackbone, picture: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("textseg.assessing.assess", stop)
    out = picture.with_name("out.png")
    where = ["-q", "the dog"] if verb == "edit" else ["--left", "9"]
    command = [verb, str(picture), *where, "-p", "a cat", "-o", str(out), "--steps", "2"]
    assert main(command) == 130
    expected = (
        edit(picture, "the dog", "a cat", model=model, steps=2)
        if verb == "edit"
        else outpaint(picture, "a cat", left=9, model=model, steps=2)
    )
    np.testing.assert_array_equal(_pixels(out), expected.image)


def test_outpaint_writes_what_the_library_makes(
    model: FakeBackbone, picture: Path, capsys: Any
) -> None:
    out = picture.with_name("wide.png")
    command = ["outpaint", str(picture), "--left", "20", "--bottom", "50%", "-o", str(out)]
    expected = outpaint(picture, "a dog", left=20, bottom=25, model=model, steps=2)
    assert main([*command, "-p", "a dog", "--steps", "2", "--quiet"]) == 0
    np.testing.assert_array_equal(_pixels(out), expected.image)
    assert read_provenance(out) == expected.describe()
    assert read_label(out).source_type == COMPOSITE
    assert main([*command, "-p", "a dog", "--steps", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["extended"] == [20, 0, 0, 25]
    assert record["outcome"] == assess(expected, model=model).describe()
    assert main([*command, "--method", "fill"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.startswith(f"{out}\tarea ")
    filled = outpaint(picture, left=20, bottom=25, method="fill")
    np.testing.assert_array_equal(_pixels(out), filled.image)


def test_outpaint_reads_and_writes_streams(
    model: FakeBackbone, picture: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    assert main(["outpaint", "-", "--top", "9", "--method", "fill", "-o", "-"]) == 0
    shown = np.asarray(Image.open(io.BytesIO(capsysbinary.readouterr().out)).convert("RGB"))
    np.testing.assert_array_equal(shown, outpaint(picture, top=9, method="fill").image)


def test_outpaint_refuses_before_a_model_is_loaded(
    picture: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: pytest.fail("loaded"))
    out = ["-o", str(picture.with_name("wide.png"))]
    assert main(["outpaint", str(picture), "--left", "abc", *out]) == 2
    assert main(["outpaint", str(picture.with_name("none.png")), "--left", "9", *out]) == 2


def test_edit_takes_one_query_and_several_are_refused(
    model: FakeBackbone, picture: Path, capsys: Any
) -> None:
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "the dog", "-q", "the ball", "-p", "", "-o", str(out)]
    assert main(command) == 2
    assert "query must be one, got several" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "left, right, top or bottom must add a pixel or more"),
        (["--left", "much"], 'left must be a whole number of pixels of at least 0, or as "25%"'),
        (["--left", "5", "--steps", "0"], "steps must be"),
        (["--left", "5", "--grow", "0.1"], "--grow"),
    ],
)
def test_outpaint_refuses_in_one_line(
    words: list[str], message: str, model: FakeBackbone, picture: Path, capsys: Any
) -> None:
    out = picture.with_name("wide.png")
    assert main(["outpaint", str(picture), "-o", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_edit_reports(model: FakeBackbone, picture: Path, capsys: Any) -> None:
    out = picture.with_name("out.webp")
    command = ["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out), "--steps", "2"]
    assert main([*command, "--save-steps", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["files"] == {"image": str(out), "steps": str(out.with_suffix(".steps.png"))}
    assert record["prompt"] == "a cat"
    sheet = _pixels(out.with_suffix(".steps.png"))
    # Six panels of 384 x 231 or so, in two rows of three.
    assert sheet.shape[1] > 3 * 384 and 2 * 231 < sheet.shape[0] < 2 * 231 + 30


def test_edit_from_a_mask_and_from_a_saved_result(model: FakeBackbone, picture: Path) -> None:
    mask = np.zeros((50, 83), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(picture.with_name("mask.png"))
    found = Segmenter(model).set_image(picture).query("the dog")
    found.save(picture.with_name("found.npz"))
    for name, region in (
        ("mask.png", mask > 0),
        ("found.npz", grow_region(found.mask, EditOptions().grow)),
    ):
        out = picture.with_name("out.npz")
        command = ["edit", str(picture), "--mask", str(picture.with_name(name)), "-p", "a cat"]
        assert main([*command, "-o", str(out), *FAST]) == 0
        done = Edit.load(out)
        np.testing.assert_array_equal(done.mask, region)
        np.testing.assert_array_equal(done.image[~region], _pixels(picture)[~region])


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("no\n", 1), ("", 1)])
def test_edit_asks_before_it_edits(
    answer: str,
    code: int,
    model: FakeBackbone,
    picture: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _answer(monkeypatch, answer)
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out), "--approve"]
    assert main([*command, *FAST]) == code
    overlay = out.with_suffix(".overlay.png")
    assert str(overlay) in capsys.readouterr().err
    assert _pixels(overlay).shape == (50, 83, 3)
    assert out.exists() == (code == 0)


def test_edit_from_a_prompt_is_made_by_a_model_from_end_to_end(
    model: FakeBackbone, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    command = ["edit", "--from-prompt", "a dog", "-q", "the dog", "-p", "a cat", "-o", str(out)]
    assert main([*command, "--save-steps", *FAST]) == 0
    assert _pixels(out).shape == (64, 64, 3)
    assert read_label(out).source_type == TRAINED


def test_edit_captions_for_erase(model: FakeBackbone, picture: Path) -> None:
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out)]
    assert main([*command, "--reference", "erase", *FAST]) == 0
    record = read_provenance(out)
    assert record is not None
    assert record["segmentation"]["prompts"]["query"] == "a photograph of a dog"


def test_edit_reads_standard_input(
    model: FakeBackbone, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
    out = picture.with_name("out.png")
    assert main(["edit", "-", "-q", "the dog", "-p", "a cat", "-o", str(out), *FAST]) == 0


def test_what_is_not_found_is_not_edited(picture: Path, model: FakeBackbone, capsys: Any) -> None:
    out = picture.with_name("out.png")
    command = ["edit", str(picture), "-q", "a ball", "-p", "a cat", "-o", str(out)]
    assert main([*command, "--min-presence", "0.9", *FAST]) == 1
    assert "'a ball' was not found; nothing was edited" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["-q", "the dog", "--encode-ratio", "0"],
            "--encode-ratio must be a number in (0, 1], got 0.0",
        ),
        (["-q", "the dog", "--steps", "0"], "steps must be a whole number from 1 to 1000, got 0"),
        (["-p", ""], "give a --query or a --mask"),
        (
            ["-q", "the dog", "--from-prompt", "a dog"],
            "give an IMAGE or --from-prompt, and not both",
        ),
        (["-q", "the dog", "-o", "out.bmp"], "output must end in .png"),
        (
            ["-q", "the dog", "-o", "no/such/folder/out.png"],
            "output must lie in a folder that is there",
        ),
        (["-q", "the dog", "--method", "inpaint"], "needs a --mask"),
        (["-q", "the dog", "--ratio", "2"], "--encode-ratio must be a number in (0, 1], got 2.0"),
        (["-q", "the dog", "--threshold", "1.5"], "or a number in [0, 1], got 1.5"),
        (["-q", "the dog", "--threshold", "high"], "threshold must be one of paper"),
        (["-q", "the dog", "--threshold", "0.5", "--level", "0.4"], "level must be left out"),
        (["--mask", "mask.png", "--samples", "3"], "--samples is for finding the region"),
        (["--mask", "mask.png", "--no-refine"], "--no-refine is for finding the region"),
        (["-q", "the dog", "-o", "-", "--json"], "-o - cannot go with --json"),
        (["-q", "the dog", "-o", "-", "--save-steps"], "--save-steps writes beside OUT"),
        (["-q", "the dog", "-o", "-", "--approve"], "--approve writes beside OUT"),
        (["-q", "the dog", "--method", "poisson"], "patch must be an image"),
    ],
)
def test_edit_refuses(
    arguments: list[str], words: str, model: FakeBackbone, picture: Path, capsys: Any
) -> None:
    out = ["-o", str(picture.with_name("out.png"))]
    assert main(["edit", str(picture), "-p", "a cat", *out, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--mask", "found.npz"], ["--visible-label"]])
def test_edit_writes_a_png_to_standard_output(
    words: list[str],
    model: FakeBackbone,
    picture: Path,
    capsysbinary: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        model, "unknown_words", lambda prompt: ["zebra"] if "zebra" in prompt else []
    )
    Segmenter(model).set_image(picture).query("the dog").save(picture.with_name("found.npz"))
    words = [str(picture.with_name(w)) if w.endswith(".npz") else w for w in words]
    command = ["edit", str(picture), "-q", "the dog", "-p", "a zebra", "--steps", "2", *words]
    assert main([*command, "-o", str(picture.with_name("out.png"))]) == 0
    capsysbinary.readouterr()
    assert main([*command, "-o", "-"]) == 0
    shown = capsysbinary.readouterr()
    assert shown.out == picture.with_name("out.png").read_bytes()
    warning, said = shown.err.splitlines()
    assert warning == b"textseg: warning: words the model does not know: zebra"
    assert said.startswith(b"textseg: tried to turn the dog into 'a zebra'; fake sees the dog at ")
    assert not picture.with_name("-").exists() and not Path("-").exists()


def test_generate_writes_a_png_to_standard_output(
    model: FakeBackbone, tmp_path: Path, capsysbinary: Any
) -> None:
    command = ["generate", "a dog", "--steps", "1"]
    assert main([*command, "-o", str(tmp_path / "dog.png"), "--quiet"]) == 0
    assert main([*command, "-o", "-"]) == 0
    assert capsysbinary.readouterr().out == (tmp_path / "dog.png").read_bytes()
    for words, message in (
        (["-n", "2"], b"-o - takes one image, got 2"),
        (["--json"], b"-o - cannot go with --json"),
    ):
        assert main([*command, "-o", "-", *words]) == 2
        shown = capsysbinary.readouterr()
        assert shown.out == b"" and message in shown.err and shown.err.count(b"\n") == 1


def test_generate_keeps_what_is_made_before_it_is_stopped(
    model: FakeBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from textseg import generate

    decode, calls = FakeBackbone.decode, []

    def stopped(self: FakeBackbone, latents: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, latents)

    whole = generate("a dog", count=3, model=model, steps=1, seed=4)  # type: ignore[arg-type]
    monkeypatch.setattr(FakeBackbone, "decode", stopped)
    command = ["generate", "a dog", "-n", "3", "--steps", "1", "--seed", "4", "--quiet"]
    assert main([*command, "-o", str(tmp_path / "dog.png")]) == 130
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dog-1.png", "dog-2.png"]
    for number in (1, 2):
        np.testing.assert_array_equal(
            _pixels(tmp_path / f"dog-{number}.png"), whole[number - 1].image
        )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-q", "a ball", "--min-presence", "1"], 1, "'a ball' was not found"),
        (["-q", "the dog", "--method", "poisson"], 2, "patch must be an image"),
        (["-q", "the dog", "--approve"], 1, "not approved; nothing was edited"),
        (["-q", "?!"], 2, "query must name something"),
    ],
)
def test_the_generated_picture_is_kept_where_the_edit_does_not_come_about(
    words: list[str],
    code: int,
    message: str,
    model: FakeBackbone,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from textseg import generate

    _answer(monkeypatch, "no\n")
    out = tmp_path / "out.png"
    command = ["edit", "--from-prompt", "a dog", "-p", "a cat", "-o", str(out), "--seed", "5"]
    assert main([*command, *FAST, *words]) == code
    kept = tmp_path / "out.input.png"
    shown = capsys.readouterr()
    assert message in shown.err and str(kept) in shown.err and shown.out == ""
    assert not out.exists()
    made = generate("a dog", model=model, seed=5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(_pixels(kept), made.image)
    assert read_label(kept).source_type == TRAINED


def test_the_generated_picture_is_named_beside_the_edit(
    model: FakeBackbone, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out.png"
    command = ["edit", "--from-prompt", "a dog", "-q", "the dog", "-p", "a cat", "-o", str(out)]
    assert main([*command, "--steps", "4", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["files"]["input"] == str(tmp_path / "out.input.png")
    assert shown.err == "" and (tmp_path / "out.input.png").exists()
    assert main([*command[:-1], "-"]) == 2
    assert "--from-prompt writes beside OUT" in capsys.readouterr().err


def test_generate_numbers_its_files(model: FakeBackbone, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "dog.png"
    assert main(["generate", "a dog", "-o", str(out), "--steps", "1", "--count", "2"]) == 0
    files = [tmp_path / "dog-1.png", tmp_path / "dog-2.png"]
    assert capsys.readouterr().out == "".join(
        f"{f}\tseed {i}\ta dog\n" for i, f in enumerate(files)
    )
    assert all(read_label(file).source_type == TRAINED for file in files)
    assert main(["generate", "a dog", "-o", str(out), "--steps", "1", "--quiet"]) == 0
    assert out.exists()
    assert main(["generate", "a dog", "-o", str(tmp_path / "dog.gif")]) == 2


def test_caption_prints_one_line(model: FakeBackbone, picture: Path, capsys: Any) -> None:
    assert main(["caption", str(picture)]) == 0
    assert capsys.readouterr().out == "a photograph of a dog\n"
    for nouns in (["--nouns", "ball, dog"], ["--nouns", "ball", "--nouns", "dog"]):
        assert main(["caption", str(picture), *nouns]) == 0
        assert capsys.readouterr().out == "a photograph of a dog\n"
    assert main(["caption", str(picture), "--json", "--nouns", "ball, dog"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [noun for noun, _ in record["nouns"]] == ["dog", "ball"]
    assert record["evaluations"] == 2 * 3
    assert main(["caption", str(picture), str(picture) + ".none"]) == 1


def test_inspect_shows_the_label_and_the_record(
    model: FakeBackbone, picture: Path, capsys: Any
) -> None:
    out = picture.with_name("out.png")
    main(["edit", str(picture), "-q", "the dog", "-p", "a cat", "-o", str(out), *FAST])
    assert main(["inspect", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "edited with a trained model" in shown and '"prompt": "a cat"' in shown
    assert main(["inspect", str(out), "--json", "--xmp"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["digital_source_type"] == COMPOSITE and COMPOSITE in record["xmp"]
    assert main(["inspect", str(picture)]) == 1
    assert main(["inspect", str(picture.with_name("none.png"))]) == 2


def test_inspect_names_a_file_that_is_no_picture(tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert main(["inspect", str(text)]) == 2
    said = "image is in no known format, or its header is damaged"
    assert capsys.readouterr().err == f"textseg: error: {said}: {str(text)!r}\n"
    with pytest.raises(InputError, match=r"^cannot read '.*text\.png': it is in no known image"):
        read_provenance(text)


@pytest.mark.parametrize("name", ["most", "samples"])
def test_caption_refuses_a_bad_number_once_and_loads_nothing(
    name: str, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: pytest.fail("loaded"))
    assert main(["caption", str(picture), str(picture), f"--{name}", "0"]) == 2
    assert capsys.readouterr().err == f"textseg: error: {name} must be at least 1, got 0\n"
