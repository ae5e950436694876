"""`textseg segment` and its surroundings, run in this process."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
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
from textseg.masks import Segmentation
from textseg.options import ContrastOptions, EditOptions, RefineOptions
from textseg.rle import decode_rle

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
    for table in (cli.COMMANDS, cli.GROUPS["models"]):
        monkeypatch.setitem(table, "fly", ("textseg.cli.no_such_module", "take off"))
    assert main(["--help"]) == 0
    assert "take off" not in capsys.readouterr().out
    assert main(["fly"]) == 2
    assert "command must be one of segment, edit," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["segmant", "x.jpg"], "textseg: error: .*got 'segmant'; did you mean 'segment'"),
        (["edit", "--promt", "a cat"], "--promt; did you mean '--prompt'"),
        (["models", "dowload", "x"], "got 'dowload'; did you mean 'download'"),
        (["models", "nouns", "--jsn"], "textseg models nouns: error: .*did you mean '--json'"),
        (["eval", "coco", "--imges", "x"], "--imges; did you mean '--images'"),
        (["eval", "coca"], "got 'coca'; did you mean 'coco'"),
    ],
)
def test_the_nearest_word_is_named(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert re.search(meant, said) and said.count("\n") == 1


def headings(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The parts of a command's help, by heading."""
    assert main([command, "--help"]) == 0
    parts = re.split(r"^(\S.*):$", capsys.readouterr().out, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("command", ["segment", "edit", "outpaint", "generate", "batch"])
def test_help_has_ten_options_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = headings(command, capsys)
    assert list(parts)[:2] == ["positional arguments", "most used"]
    first = re.findall(r"^  (-.*?)(?:  |$)", parts["most used"], flags=re.MULTILINE)
    assert 8 <= len(first) - 1 <= 10
    assert {"--model", "--seed"} <= set(re.findall(r"--[\w-]+", " ".join(first)))


def test_help_shows_the_defaults_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    folder = Path(textseg.__file__).parent / "models" / "mini"
    minis = json.loads((folder / "textseg.json").read_text())
    assert RefineOptions().min_presence != minis["refine"]["min_presence"]
    shown = f"(default: {RefineOptions().min_presence:g}; mini: {minis['refine']['min_presence']})"
    assert f"0 never empties it {shown}" in text
    assert f"(default: 0.5; mini: {minis['contrast']['strength'][0]})" in text
    assert "mean-field steps, 1 to 50 (default: 5)" in text


def flags() -> dict[str, dict[str, tuple[Any, ...]]]:
    """Flag -> command -> what it takes: its unit, and how many values in which form."""
    found: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)

    def walk(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in action.choices.values():
                    walk(one)
            for flag in action.option_strings:
                takes = action.nargs, action.metavar, action.choices and sorted(action.choices)
                found[flag][parser.prog.removeprefix("textseg ")] = takes

    for name in cli.available_commands():
        walk(cli.command_parser(name))
    return found


DIFFERENT = {
    "--batch": "of scenes in training, of requests in serving",
    "--encode-ratio": "a measurement takes several",
    "--guidance-scale": "a measurement takes several",
    "--method": "a measurement takes several",
    "--output": "a folder, a file, or either",
    "-o": "a folder, a file, or either",
    "--protocol": "not every data set allows all",
    "--scenes": "of pictures in training, of images in serving",
    "--threshold": "a measurement takes several",
    "--workers": "processes, and threads in serving",
}
"""Flags that commands do not take in the same form, and why."""


def test_a_flag_means_the_same_everywhere() -> None:
    found = flags()
    differing = {flag for flag, by in found.items() if len({str(one) for one in by.values()}) > 1}
    assert differing == {*DIFFERENT}


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
        (["--nonsense"], "unrecognized arguments: --nonsense;"),
        (["--treshold", "0.5"], "--treshold; did you mean '--threshold'?"),
        (["--format", "overly"], "got 'overly'; did you mean 'overlay'?"),
        (["--measure", "contrats"], "contrast, evidence, got 'contrats'; did you mean 'contrast'?"),
        (["-o", "dog.png", "-q", "cat"], "-o dog.png takes one image, one query and one format"),
        (["-o", "dog.png", "--format", "rle"], "output must end in .json for rle, got 'dog.png'"),
        (["-o", "dog.json", "--format", "mask"], "output must end in .png for mask"),
        (["-o", "dog.jpg"], "output must end in .png for mask, got 'dog.jpg'"),
        (["-o", "dog.jpg", "--format", "cutout"], "must end in .png, .webp for cutout"),
        (["-o", "nowhere/dog.png"], "output must lie in a folder that is there"),
        (["--point", "3"], "argument --point: must be X,Y, or X,Y,- in pixels, got '3'"),
        (["--point", "3,nan"], "argument --point: must be X,Y, or X,Y,- in pixels"),
        (["--point", "3,4,5"], "argument --point: must be X,Y, or X,Y,- in pixels"),
        (["--box", "3,4,5"], "argument --box: must be X,Y,X,Y in pixels, got '3,4,5'"),
        (["--point", "3,4", "-q", "cat"], "--point and --box take one image and one query"),
        (["--box", "3,4,5,6", "--exclusive"], "--point and --box take one image and one query"),
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


@pytest.mark.parametrize(
    ("name", "words", "kind"),
    [
        ("dog.png", [], "mask"),
        ("dog.PNG", ["--format", "overlay"], "overlay"),
        ("dog.json", [], "rle"),
        ("dog.json", ["--format", "polygon"], "polygon"),
        ("dog.npz", [], "npz"),
    ],
)
def test_one_result_into_one_file(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    name: str, words: list[str], kind: str,
) -> None:  # fmt: skip
    common = ["segment", str(park), "-q", "dog", *words]
    assert main([*common, "-o", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / name}\tpresence ")
    assert main([*common, "--format", kind, "-o", str(tmp_path / "out")]) == 0
    (other,) = (tmp_path / "out").iterdir()
    if kind == "npz":
        results = [Segmentation.load(path) for path in (other, tmp_path / name)]
        assert np.array_equal(results[0].score, results[1].score)
    else:
        assert (tmp_path / name).read_bytes() == other.read_bytes()


def test_an_overlay_may_be_a_jpeg(model: FakeBackbone, park: Path, tmp_path: Path) -> None:
    out = tmp_path / "look.jpg"
    assert main(["segment", str(park), "-q", "dog", "--format", "overlay", "-o", str(out)]) == 0
    with Image.open(out) as look:
        assert (look.format, look.size) == ("JPEG", (80, 48))


def test_a_folder_may_be_called_as_a_file(model: FakeBackbone, park: Path, tmp_path: Path) -> None:
    (tmp_path / "dog.png").mkdir()
    assert main(["segment", str(park), "-q", "dog", "-o", str(tmp_path / "dog.png")]) == 0
    assert (tmp_path / "dog.png" / "park.dog.mask.png").is_file()


def test_points_and_boxes_are_those_of_the_library(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--point", "70,40", "--point", "60.5,42,+", "--point", "25,10,-", "--box", "5,2,79,46"]
    out = tmp_path / "dog.png"
    assert main(["segment", str(park), "-q", "dog", *words, "-o", str(out)]) == 0
    assert capsys.readouterr().err == ""
    points, boxes = [(70, 40, 1), (60.5, 42, 1), (25, 10, 0)], [(5, 2, 79, 46)]
    expected = textseg.segment(park, "dog", model=model, points=points, boxes=boxes)
    plain = textseg.segment(park, "dog", model=model)
    assert np.array_equal(read_mask(out) > 0, expected.mask)
    assert not np.array_equal(expected.mask, plain.mask)
    for more in (["--point", "80,3"], ["--box", "3,3,90,9"]):
        assert main(["segment", str(park), "-q", "dog", *more, "-o", str(out)]) == 2
        assert "in the picture of 80 x 48, got (" in capsys.readouterr().err


def test_verbose_says_what_is_done(
    model: FakeBackbone, park: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["segment", str(park), "-q", "dog", "-o", str(tmp_path / "out")]
    assert main([*words, "-v"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"^textseg: \d+ ms: 'dog': .*, presence [01]\.\d\d$", said, re.MULTILINE)
    assert re.search(r"measured with 8 evaluations of the model in \d", said)
    assert main(words) == 0
    assert capsys.readouterr().err == ""


COMPLETE = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
_shtab_textseg textseg
echo "${{COMPREPLY[@]}}"
"""


def test_the_shell_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab", reason="shtab comes with textseg[completion]")
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef textseg")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "textseg.bash"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "park.jpg").touch()

    def complete(words: str) -> list[str]:
        code = COMPLETE.format(script=script, words=words)
        done = subprocess.run(
            ["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        return done.stdout.split()

    assert complete("textseg s") == ["segment", "studio", "serve"]
    assert complete("textseg segment --thr") == ["--threshold"]
    assert "evidence" in complete("textseg segment --measure ''")
    assert complete("textseg eval co") == ["coco", "compare"]
    assert "park.jpg" in complete("textseg segment pa")


def test_completion_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'textseg[completion]'" in capsys.readouterr().err


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


def test_a_flag_is_not_taken_for_a_longer_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outpaint", "park.jpg", "--all", "10", "-o", "x.png"]) == 2
    assert "unrecognized arguments: --all" in capsys.readouterr().err
