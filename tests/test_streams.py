"""Standard streams that are closed or full, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TESTS = Path(__file__).parent
FULL = Path("/dev/full")

RUN = """
import sys
import textseg.backbone
from fake_backbone import FakeBackbone
from textseg.cli import main
textseg.backbone.load = lambda *_, **__: FakeBackbone({"dog": (0.25, 0.1, 0.75, 0.4)})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def park(tmp_path: Path) -> Path:
    path = tmp_path / "park.png"
    Image.linear_gradient("L").resize((64, 48)).convert("RGB").save(path)
    return path


def run(words: list[str], redirection: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command under a shell's redirection."""
    if "/dev/full" in redirection and not FULL.exists():
        pytest.skip("the system has no /dev/full")
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", RUN, *words],
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">&- <&-"])
@pytest.mark.parametrize("words", ["--help", "--version", "models list", "batch --help"])
def test_output_that_cannot_be_written_is_said(words: str, redirection: str) -> None:
    code, _, said = run(words.split(), redirection)
    assert code == 2
    assert said.startswith("textseg: error: cannot write standard output: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_files_stay_where_their_names_cannot_be_printed(
    park: Path, tmp_path: Path, redirection: str, more: list[str]
) -> None:
    out = tmp_path / "out"
    code, _, said = run(["segment", str(park), "-q", "the dog", "-o", str(out), *more], redirection)
    assert code == 2
    assert said.splitlines()[-1].startswith("textseg: error: cannot write standard output: ")
    with Image.open(out / "park.the-dog.mask.png") as mask:
        assert mask.size == (64, 48)


def test_a_quiet_command_needs_no_output(park: Path, tmp_path: Path) -> None:
    words = ["segment", str(park), "-q", "the dog", "-o", str(tmp_path / "out"), "--quiet"]
    assert run(words, ">&-") == (0, "", "")


def test_a_result_that_cannot_be_written_to_standard_output(park: Path) -> None:
    words = ["segment", str(park), "-q", "the dog", "-o", "-"]
    code, _, said = run(words, ">/dev/full")
    assert code == 2
    assert "cannot write standard output: No space left on device" in said


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_what_cannot_be_said_changes_no_exit_code(
    park: Path, tmp_path: Path, redirection: str
) -> None:
    assert run(["--version"], redirection)[0] == 0
    words = ["segment", str(park), str(tmp_path / "none.png"), "-q", "the dog",
             "-o", str(tmp_path / "out"), "--json"]  # fmt: skip
    code, printed, _ = run(words, redirection)
    assert code == 1
    assert len(printed.splitlines()) == 2
    assert run(["nosuch"], redirection) == (2, "", "")


@pytest.mark.parametrize(
    "words",
    [["segment", "-", "-q", "the dog"], ["edit", "-", "-q", "the dog", "-p", "a cat"],
     ["caption", "-"]],
)  # fmt: skip
def test_a_closed_standard_input_is_empty(words: list[str], tmp_path: Path) -> None:
    if words[0] != "caption":
        words = [*words, "-o", str(tmp_path / "out.png")]
    code, printed, said = run(words, "<&-")
    assert (code, printed) == (2, "")
    assert said.count("0 bytes") == 1 and "image is empty (0 bytes)" in said
    assert said.count("\n") == 1
