"""`textseg segment` and its surroundings, run in this process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image

import textseg
from textseg import cli
from textseg.cli import main
from textseg.cli.options_arguments import given_options
from textseg.file_names import image_stems, query_slugs
from textseg.masks import Segmentation, decode_rle
from textseg.options import ContrastOptions, EditOptions, RefineOptions

DOG = (0.25, 0.1, 0.75, 0.4)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeBackbone:
    """Stands in for every model that a command loads."""
    backbone = FakeBackbone({"dog": DOG, "ball": (0.5, 0.6, 1.0, 0.9)})
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: backbone)
    return backbone


@pytest.fixture
def park(tmp_path: Path, tiny_image: np.ndarray) -> Path:
    path = tmp_path / "park.png"
    Image.fromarray(tiny_image).save(path)
    return path


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def test_help_is_quick_and_lists_commands() -> None:
    code = (
        "import sys, textseg.cli as c; c.main(['--help']); c.main(['segment', '--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "  segment" in done.stdout
    assert "--min-presence" in done.stdout


def test_missing_commands_are_not_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "fly", ("textseg.cli.no_such_module", "take off"))
    assert main(["--help"]) == 0
    assert "take off" not in capsys.readouterr().out
    assert main(["fly"]) == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"textseg {textseg.__version__}\n"


def test_every_option_field_is_a_flag_of_the_same_name() -> None:
    from textseg.cli import segment
    from textseg.cli.options_arguments import add_options

    parser = cli.CommandParser()
    segment.add_arguments(parser)
    plain = parser.parse(["a.png", "-q", "dog"])
    assert given_options(plain, ContrastOptions, RefineOptions) == {}
    flags = (
        "--strength 0.4,0.6 --samples 3 --measure evidence --reference absent --seed 5 --level 0.3 "
        "--batch-size 2 --threshold fixed --no-crf --min-presence 0.5 --crf-iterations 2"
    )
    words = ["a.png", "-q", "dog", *flags.split()]
    given = given_options(parser.parse(words), ContrastOptions, RefineOptions)
    assert given == {
        "strength": (0.4, 0.6), "samples": 3, "measure": "evidence", "reference": "absent",
        "seed": 5, "batch_size": 2, "threshold": "fixed", "level": 0.3, "crf": False,
        "min_presence": 0.5, "crf_iterations": 2,
    }  # fmt: skip

    edit = cli.CommandParser()
    add_options(edit, EditOptions, title="edit", exclude=("seed",))
    given = given_options(edit.parse(["--no-composite", "--seam", "2"]), EditOptions)
    assert given == {"composite": False, "seam": 2}


def test_no_refine_is_threshold_only_plus_what_is_asked_for() -> None:
    from textseg.cli import segment

    parser = cli.CommandParser()
    segment.add_arguments(parser)
    args = parser.parse(["a.png", "-q", "dog", "--no-refine", "--min-area", "0.01"])
    given = given_options(args, RefineOptions)
    assert RefineOptions(**given) == RefineOptions.off(min_area=0.01)
    # Also what the paper leaves off: a model may have been calibrated with it.
    assert given["guided"] == given["opening"] == given["closing"] == 0


def test_options_and_images_in_any_order(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "lake.png"
    other.write_bytes(park.read_bytes())
    assert main(["segment", str(park), "-q", "dog", str(other), "-o", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "lake.dog.mask.png",
        "park.dog.mask.png",
    ]


@pytest.mark.parametrize("threshold", ["otsu", 0.25])
def test_command_line_api_single_and_multi_query_give_the_same_bits(
    threshold: str | float,
    eps_backbone: Any,
    park: Path,
    tiny_image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("textseg.backbone.load", lambda *_, **__: eps_backbone)
    chosen: dict[str, Any] = {"samples": 3, "seed": 4, "threshold": threshold}
    flags = ["--samples", "3", "--seed", "4", "--threshold", str(threshold)]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main(["segment", str(park), "-q", "the dog", "-o", str(alone), *flags]) == 0
    assert main(["segment", str(park), "-q", "the cat", "-q", "the dog", "-o", str(together),
                 *flags]) == 0  # fmt: skip
    expected = textseg.segment(tiny_image, "the dog", model=eps_backbone, **chosen).mask
    listed = textseg.segment(str(park), ["a ball", "the dog"], model=eps_backbone, **chosen)[1].mask
    for path in (alone / "park.the-dog.mask.png", together / "park.the-dog.mask.png"):
        np.testing.assert_array_equal(read_mask(path) // 255, expected)
    np.testing.assert_array_equal(listed, expected)
    assert expected.any()


def test_every_format(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    code = main(["segment", str(park), "-q", "the dog", "-q", "a ball", "-o", str(out), "--format",
                 "mask,score,overlay,cutout,rle,polygon,coco,npz"])  # fmt: skip
    assert code == 0
    names = {p.name for p in out.iterdir()}
    kinds = (
        "mask.png",
        "score.png",
        "overlay.png",
        "cutout.png",
        "rle.json",
        "polygon.json",
        "npz",
    )
    assert names == {f"park.{q}.{k}" for q in ("the-dog", "a-ball") for k in kinds} | {
        "park.coco.json"
    }
    mask = read_mask(out / "park.the-dog.mask.png") > 0
    assert mask.shape == (48, 80)
    np.testing.assert_array_equal(Segmentation.load(out / "park.the-dog.mask.png").mask, mask)
    np.testing.assert_array_equal(Segmentation.load(out / "park.the-dog.rle.json").mask, mask)
    polygons = json.loads((out / "park.the-dog.polygon.json").read_text())["polygons"]
    assert polygons[0]["exterior"]
    with Image.open(out / "park.the-dog.cutout.png") as cutout:
        np.testing.assert_array_equal(np.array(cutout)[..., 3] > 0, mask)
    with Image.open(out / "park.the-dog.score.png") as score:
        assert np.array(score).max() > 60000

    coco = json.loads((out / "park.coco.json").read_text())
    assert coco["images"] == [{"id": 1, "file_name": "park.png", "height": 48, "width": 80}]
    assert [c["name"] for c in coco["categories"]] == ["the dog", "a ball"]
    np.testing.assert_array_equal(decode_rle(coco["annotations"][0]["segmentation"]), mask)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    files, presence, area = lines[0].split("\t")
    assert len(files.split()) == 8
    assert presence == "presence 1.00"
    assert area == f"area {mask.mean():.1%}"


def test_erase_without_a_caption_writes_one(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.calibration = {"nouns": ["dog", "cat", "boat"]}
    words = ["segment", str(park), "-q", "dog", "-o", str(tmp_path), "--reference", "erase"]
    assert main([*words, "--json"]) == 0
    prompts = json.loads(capsys.readouterr().out)["prompts"]
    assert "dog" in prompts["query"]
    assert "dog" not in prompts["reference"]
    assert main([*words, "--json", "--caption", "a dog and a ball"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"]["query"] == "a dog and a ball"


def test_coco_output_loads_in_pycocotools(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    assert main(["segment", str(park), "-q", "dog", "-o", str(tmp_path), "--format", "coco"]) == 0
    coco = COCO(str(tmp_path / "park.coco.json"))
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert coco.annToMask(annotation).sum() == annotation["area"]


def test_json_lines(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.png")
    words = ["segment", missing, str(park), "-q", "dog", "-q", "cat", "-o", str(tmp_path), "--json",
             "--min-presence", "0.5"]  # fmt: skip
    assert main(words) == 1
    captured = capsys.readouterr()
    failed, dog, cat = map(json.loads, captured.out.splitlines())
    assert failed["image"] == missing
    assert "existing file" in failed["error"]
    assert (dog["query"], dog["presence"], dog["size"]) == ("dog", 1.0, [48, 80])
    assert dog["options"]["refine"]["min_presence"] == 0.5
    assert dog["files"] == {"mask": str(tmp_path / "park.dog.mask.png")}
    assert cat["area"] == 0
    assert captured.err.count("textseg: error:") == 1
    assert "'cat': the mask is empty" in captured.err


def test_quiet(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(park), "-q", "the zorby dog", "-o", str(tmp_path)]
    assert main(words) == 0
    assert 'the model does not know "zorby"' in capsys.readouterr().err
    assert main([*words, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert read_mask(tmp_path / "park.the-zorby-dog.mask.png").any()


def test_standard_input_and_output(
    model: FakeBackbone, park: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe(io.TextIOWrapper):
        def __init__(self, data: bytes = b"") -> None:
            super().__init__(io.BytesIO(data))

    stdout = Pipe()
    monkeypatch.setattr("sys.stdin", Pipe(park.read_bytes()))
    monkeypatch.setattr("sys.stdout", stdout)
    assert main(["segment", "-", "-q", "dog", "-o", "-", "--format", "cutout"]) == 0
    written = stdout.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    with Image.open(io.BytesIO(written)) as cutout:
        assert (cutout.mode, cutout.size) == ("RGBA", (80, 48))

    monkeypatch.setattr("sys.stdin", Pipe(park.read_bytes()))
    assert main(["segment", "-", "-q", "dog", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "stdin.dog.mask.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "-", "--format", "mask,score"], "-o - takes one image, one query and one format"),
        (["-o", "-", "-q", "cat"], "-o - takes one image, one query and one format"),
        (["-o", "-", "--json"], "-o - cannot go with --json"),
        (["--format", "jpeg"], "must be one or more of mask,score,"),
        (["--strength", "abc"], "must be numbers with commas between, got 'abc'"),
        (["--strength", "1.5"], "strength must be one or more numbers in (0, 1], got (1.5,)"),
        (["--samples", "0"], "samples must be a whole number from 1 to 1000, got 0"),
        (["--threshold", "magic"], "threshold must be one of paper,"),
        (["--threshold", "1.5"], "or a number in [0, 1], got 1.5"),
        (["--threshold", "nan"], "or a number in [0, 1], got nan"),
        (["--threshold", "0.5", "--level", "0.4"], "level must be left out where threshold"),
        (["--crf-points", "3"], "--crf-points must be 0, or a whole number from 16 to 8192"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_usage_errors_take_one_line_and_exit_2(
    words: list[str], message: str, park: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No model is loaded for them.
    assert main(["segment", str(park), "-q", "dog", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_images_of_one_name_do_not_overwrite_each_other(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "park.png").write_bytes(park.read_bytes())
    images = [str(tmp_path / folder / "park.png") for folder in ("a", "b")]
    assert main(["segment", *images, "-q", "dog", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "park.dog.mask.png").is_file()
    assert (tmp_path / "park-2.dog.mask.png").is_file()


def test_names() -> None:
    assert image_stems(["x/A.png", "a.jpg", "a-2.jpg", "a.webp"]) == ["A", "a-3", "a-2", "a-4"]
    assert image_stems(["https://example.org/pics/Red Boat.jpg?size=2"]) == ["red-boat"]
    assert query_slugs(["a/b\\c: d", "собака", "..", "/"]) == ["a-b-c-d", "собака", "query",
                                                               "query-2"]  # fmt: skip
    (long,) = query_slugs(["犬" * 500])
    assert len(long.encode()) <= 80


def test_results_of_an_earlier_run_are_overwritten(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "park.dog.mask.png"
    target.write_bytes(b"old")
    assert main(["segment", str(park), "-q", "dog", "-o", str(tmp_path)]) == 0
    assert read_mask(target).any()


def test_a_reader_that_goes_away_ends_it_quietly(
    model: FakeBackbone, park: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        assert main(["segment", str(park), "-q", "dog", "-o", str(tmp_path)]) == 141
    assert capsys.readouterr().err == ""


def test_models_list_path_and_remove(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    monkeypatch.setenv("TEXTSEG_HOME", str(tmp_path))
    shutil.copytree(tiny_folder, tmp_path / "models" / "me--tiny")
    assert main(["models", "list"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("me/tiny")]
    assert line.split()[-3:] == ["latent-unet", "ready", str(tmp_path / "models" / "me--tiny")]
    assert main(["models", "list", "--json"]) == 0
    records = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert [r["complete"] for r in records if r["name"] == "me/tiny"] == [True]
    assert main(["models", "path", "me/tiny"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'models' / 'me--tiny'}\n"
    assert main(["models", "remove", "me/tiny"]) == 0
    assert capsys.readouterr().out.startswith("removed me/tiny, ")
    assert not (tmp_path / "models" / "me--tiny").exists()
    assert main(["models", "remove", "me/tiny"]) == 2
