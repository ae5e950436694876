"""What the documentation shows runs as it stands, in the folder of a clone.

Each block runs by itself. A comment in the block marks what cannot run here ("# downloads ...",
"# needs ...", "# takes ..."): at the end of a line that line, in front of lines all of them.
`ASIDE` lists those; that their words exist is still checked.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partialmethod
from pathlib import Path
from typing import Any

import pytest

import textseg
from textseg.cli import COMMANDS, CommandParser, main

pytestmark = pytest.mark.timeout(900)

REPO = Path(__file__).parent.parent
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/*.md"), REPO / "data" / "README.md"])
MARK = re.compile(r"#.*?\b((?:downloads|needs|takes)\b.*)")
SERVER = "http://127.0.0.1:8300"

ASIDE = {
    "README.md": {
        'import textseg model = textseg.load("sd-legacy/': "downloads",
        "textseg bench": "takes minutes",
        "textseg eval coco": "takes minutes",
        "textseg train": "takes hours",
    },
    "data/README.md": {
        "npm install": "downloads",
        "python -m textseg.training.mini.drawn_set": "downloads",
    },
    "docs/batch.md": {
        'textseg batch data/samples -q "the dog" -o out --ray': "needs Ray",
        "textseg batch s3:": "needs Ray, a store",
        "ray job submit": "needs Ray, a store or a cluster",
    },
    "docs/editing.md": {
        "textseg edit --from-prompt": "downloads",
        "textseg eval edit --images data/drawn": "takes an hour",
        "textseg eval edit --images sets": "needs the set",
    },
    "docs/evaluation.md": {
        "textseg models download": "downloads",
        "textseg eval coco --images val2017": "downloads; needs COCO and a GPU",
    },
    "docs/mini.md": {"textseg eval coco": "takes minutes"},
    "docs/models.md": {
        "import textseg park": "needs a GPU",
        "import textseg sd15": "downloads",
        'textseg segment data/samples/park.jpg -q "the dog" --model': "downloads",
    },
    "docs/server.md": {
        "export TEXTSEG_TOKEN": "needs a network",
        "textseg serve --host": "needs a network",
        "curl -H": "needs a network",
    },
    "docs/speed.md": {
        "textseg bench": "takes minutes",
        "git worktree add": "takes minutes",
        "OMP_NUM_THREADS=1 python eval/bench_startup.py": "takes minutes",
        "OMP_NUM_THREADS=1 python eval/plot_cost.py": "takes an hour",
        "python eval/bench_large.py": "takes minutes",
        "pip install pydensecrf2": "takes minutes",
        "OMP_NUM_THREADS=1 python eval/bench_crf.py": "takes minutes",
    },
    "docs/training.md": {
        "textseg train --annotations parts.json": "needs a GPU",
        "textseg segment bench.jpg": "needs a GPU",
        "textseg train ...": "needs a GPU",
        "accelerate launch": "needs a GPU",
        "python eval/bench_lora.py": "takes half an hour",
        "textseg train --annotations runs/lora": "takes half an hour",
        "textseg train --recipe painter": "takes hours",
        'textseg generate "a drawing of a dog" --model my-painter': "takes hours",
    },
}
"""What is not run, by page: how it starts, and how the text says why."""


@dataclass(frozen=True)
class Item:
    """A block of Python, or one command of a block of shell.

    Attributes:
        code: as it stands in the page.
        mark: why it is not run, "" where it is.
    """

    page: str
    line: int
    language: str
    code: str
    mark: str = ""

    @property
    def start(self) -> str:
        """The code in one line, without comments before it."""
        return " ".join(re.sub(r"^#.*$", "", self.code, flags=re.MULTILINE).split())

    @property
    def words(self) -> list[str]:
        """A command's words, without the variables set for it."""
        words = shlex.split(self.code.replace("\\\n", " "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        return words


def _blocks() -> Iterator[Item]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield Item(page.relative_to(REPO).as_posix(), line, found[1], found[2])


def _items(block: Item) -> Iterator[Item]:
    """The parts of a block, each with its mark."""
    before = ""
    for found in re.finditer(r"#[^\n]*\n|(?:[^\n]*\\\n)*[^\n]*\n", block.code):
        comment = MARK.search(found[0])
        if found[0].startswith("#"):
            before += f" {comment[1]}" if comment else ""
        elif block.language == "python":
            yield replace(block, mark=before)
            return
        elif found[0].strip():
            yield replace(block, code=found[0], mark=comment[1] if comment else before)


BLOCKS = [block for block in _blocks() if block.language != "text"]
ITEMS = [item for block in _blocks() for item in _items(block)]


def test_blocks_are_python_shell_or_plain_text() -> None:
    strange = [
        f"{b.page}:{b.line}" for b in _blocks() if b.language not in ("python", "sh", "text")
    ]
    assert not strange
    assert len(BLOCKS) > 30


def test_what_is_not_run_is_marked_and_listed() -> None:
    counted: set[tuple[str, str]] = set()
    for item in ITEMS:
        if not item.mark:
            continue
        listed = ASIDE.get(item.page, {})
        starts = [start for start in listed if item.start.startswith(start)]
        assert starts, f"{item.page}:{item.line} is marked, and not listed: {item.start}"
        reason = listed[max(starts, key=len)]
        assert reason in item.mark, f"{item.page}:{item.line} is marked {item.mark!r}"
        counted.add((item.page, max(starts, key=len)))
    gone = {(page, start) for page, starts in ASIDE.items() for start in starts} - counted
    assert not gone, "listed as not run, and no longer in the text"


def _parser(words: list[str]) -> tuple[CommandParser, list[str]]:
    """The parser of a command of textseg, and the words it is for."""
    name, *rest = words
    parser = CommandParser(prog=f"textseg {name}")
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    return parser, rest


def _check_options(words: list[str]) -> None:
    """That a command has the options it is shown with."""
    parser, rest = _parser(words)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and rest and rest[0] in action.choices:
            parser = action.choices[rest[0]]
    known = parser._option_string_actions
    for word in rest:
        if word.startswith("-") and word.strip("-."):
            assert word.split("=")[0] in known, f"textseg {shlex.join(words)}"


def _check_command(words: list[str]) -> None:
    """That a command which is not run could be: its options and scripts exist."""
    if "textseg" in words:
        words = words[words.index("textseg") + 1 :]
        _check_options(words)
        if "..." not in words:
            parser, rest = _parser(words)
            parser.parse(rest)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    elif words[0] == "python":
        source = (REPO / words[1]).read_text(encoding="utf-8")
        for word in words[2:]:
            assert not word.startswith("--") or f'"{word}"' in source, f"{words[1]} {word}"


@pytest.mark.parametrize("item", [i for i in ITEMS if i.mark or i.language == "text"],
                         ids=lambda item: f"{item.page}:{item.line}")  # fmt: skip
def test_the_words_of_what_is_not_run_exist(item: Item) -> None:
    if item.language != "python":
        _check_command(item.words)
        return
    options = {
        field.name
        for kind in (textseg.ContrastOptions, textseg.RefineOptions, textseg.EditOptions)
        for field in fields(kind)
    }
    for node in ast.walk(ast.parse(item.code)):
        if not (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "textseg"):
            continue
        assert hasattr(textseg, node.attr)
    for node in ast.walk(ast.parse(item.code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("textseg."):
            taken = inspect.signature(getattr(textseg, ast.unparse(node.func)[8:])).parameters
            open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
            names = set(taken) | (options if open_ended else set())
            assert {word.arg for word in node.keywords} <= names, ast.unparse(node)


def test_commands_in_the_prose_have_the_options_they_are_shown_with() -> None:
    checked = 0
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for found in re.finditer(r"(`+)((?:[A-Z_]+=\S+ )?(?:textseg|python) [^`]+)\1", prose):
            words = Item("", 0, "sh", " ".join(found[2].split())).words
            if words[1] in COMMANDS or words[1].endswith(".py"):
                _check_command([*words, "..."] if words[0] == "textseg" else words)
                checked += 1
    assert checked > 40


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what lies in a clone's."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPO / "data", folder / "data")
    for name in ("docs", "eval", "tests", "textseg", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(REPO / name)
    return folder


@pytest.fixture(scope="module")
def brisk() -> Iterator[None]:
    """`mini` is loaded once, edits and generates in 4 steps, not in 50, and captions from 20 nouns
    of its 188: whether a line runs does not depend on it."""
    from textseg import caption
    from textseg.backbone import loading
    from textseg.backbone.shared import load_once

    name_nouns = sys.modules[caption.__module__].name_nouns
    load, read = lru_cache(textseg.load), loading.read_calibration
    few = {"steps": 4}

    def calibration(*args: Any) -> dict[str, Any]:
        own = read(*args)
        return own | {"edit": own.get("edit", {}) | few, "generate": own.get("generate", {}) | few}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read_calibration", calibration)
        patch.setattr("textseg.backbone.load", load)
        patch.setattr(
            sys.modules[caption.__module__],
            "name_nouns",
            lambda model, image, nouns, **kwargs: name_nouns(model, image, nouns[:20], **kwargs),
        )
        load_once.cache_clear()
        yield
    load_once.cache_clear()


@contextlib.contextmanager
def _started(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A command that answers until it is stopped, and its address."""
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    servers: list[Any] = []
    build = uvicorn.Server.__init__
    codes: list[int] = []

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        servers.append(self)
        build(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(uvicorn.Server, "__init__", record)
        # No page is opened, and the port is a free one.
        patched.setattr("webbrowser.open", lambda url: True)
        more = ["--port", "0"] if words[0] == "serve" else []
        thread = threading.Thread(target=lambda: codes.append(main([*words, *more])), daemon=True)
        thread.start()
        deadline = time.monotonic() + 300
        while not (servers and servers[0].started):
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}"
    finally:
        servers[0].should_exit = True
        thread.join(60)
    assert codes == [0]


def _ask(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.status == 200
        return answer.read()


@pytest.fixture(scope="module")
def served(brisk: None) -> Iterator[str]:
    """What stands for a `textseg serve` in another terminal: its address."""
    with pytest.MonkeyPatch.context() as patch, _started(["serve", "--no-studio"], patch) as url:
        yield url


def _run_python(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradio: Any = None
    if ".launch()" in code:
        gradio = pytest.importorskip("gradio", reason="gradio is not installed")
        # As at a prompt, where it does not wait for Ctrl-C.
        quick = partialmethod(gradio.Blocks.launch, prevent_thread_lock=True, quiet=True)
        monkeypatch.setattr(gradio.Blocks, "launch", quick)
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("GRADIO_SERVER_PORT", str(free.getsockname()[1]))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<block>", "exec"), names)
    if gradio is not None:
        gradio.close_all()


def _run_command(item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    words = item.words
    if words[0] == "pip":
        asked = re.search(r"\[(.+)\]", words[-1])
        extras = (REPO / "pyproject.toml").read_text(encoding="utf-8")
        assert asked and all(f"\n{extra} = [" in extras for extra in asked[1].split(","))
    elif words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=REPO, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif words[:2] in (["textseg", "serve"], ["textseg", "studio"]):
        with _started(words[1:], monkeypatch) as url:
            assert b"<html" in _ask(url) or words[1] == "serve"
    else:
        assert words[0] == "textseg", f"nothing runs {words[0]!r} here"
        out = words[words.index(">") + 1] if ">" in words else None
        words = words[1 : words.index(">")] if out else words[1:]
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        if out is None:
            assert main(words) == 0
            return
        with open(out, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            assert main(words) == 0
        assert Path(out).stat().st_size > 0


def _run_in_shell(code: str, url: str, home: Path) -> None:
    (home / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code.replace(SERVER, url)],
        env={**os.environ, "CURL_HOME": str(home)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in re.findall(r" -o (\S+)", code):
        start = Path(name).read_bytes()[:4]
        assert start == (b"PK\3\4" if name.endswith(".zip") else b"\x89PNG"), name


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_the_documentation_runs(
    block: Item, clone: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
    tmp_path: Path, brisk: None,
) -> None:  # fmt: skip
    items = [item for item in _items(block) if not item.mark]
    monkeypatch.chdir(clone)
    if block.language == "python":
        for item in items:
            code = item.code
            if SERVER in code:
                code = code.replace(SERVER, request.getfixturevalue("served"))
            _run_python(code, monkeypatch)
    elif items and "curl" in block.code:
        for tool in ("bash", "curl", "jq"):
            if tool in block.code and shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed")
        _run_in_shell(block.code, request.getfixturevalue("served"), tmp_path)
    else:
        for item in items:
            _run_command(item, monkeypatch)


EDITING = REPO / "docs" / "editing.md"
SHOWN = re.findall(r"!\[[^]]*\]\(images/edit-(\w+)\.jpg\)", EDITING.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_of_edits_come_from_the_commands_above_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from PIL import Image

    commands = [i.words for i in ITEMS if (i.page, i.language) == ("docs/editing.md", "sh")]
    (command,) = (words for words in commands if words[-2:] == ["-o", f"{name}.png"])
    (tmp_path / "data").symlink_to(REPO / "data")
    monkeypatch.chdir(tmp_path)
    assert main(command[1:]) == 0
    made, shown = (
        np.asarray(Image.open(path).convert("RGB"), np.float32)
        for path in (f"{name}.png", EDITING.parent / "images" / f"edit-{name}.jpg")
    )
    assert np.abs(made - shown).mean() < 2.5


def test_there_are_pictures_of_edits() -> None:
    assert len(SHOWN) >= 4
