"""What surrounds the library: the site of `make docs`, the notebook, the citation, the workflow."""

from __future__ import annotations

import ast
import html
import json
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

import textseg
from textseg.cli import main

REPO = Path(__file__).parent.parent
TOUR = REPO / "docs" / "tour.ipynb"
CELLS = [cell for cell in json.loads(TOUR.read_text("utf-8"))["cells"]
         if cell["cell_type"] == "code"]  # fmt: skip
SHELL = re.compile(r"^!textseg (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="mkdocs-material or mkdocstrings is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=REPO, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_has_a_place_on_the_site() -> None:
    placed = set(
        re.findall(r"[\w/-]+\.md$", (REPO / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    )
    pages = {page.relative_to(REPO / "docs").as_posix() for page in REPO.glob("docs/**/*.md")}
    assert pages <= placed and {"index.md", "tour.md"} <= placed


def test_the_site_has_every_page_and_every_method(site: Path) -> None:
    for page in REPO.glob("docs/**/*.md"):
        assert (site / page.relative_to(REPO / "docs").with_suffix(".html")).is_file()
    text = (site / "api/segmenting.html").read_text("utf-8")
    for name in ("segment", "Segmentation.to_pil", "Segmentation.show", "Segmenter.query"):
        assert f'id="textseg.{name}"' in text
    assert 'id="textseg.errors.InputError"' in (site / "api/errors.html").read_text("utf-8")


def test_the_api_has_an_entry_for_each_argument_and_blocks_for_examples(site: Path) -> None:
    text = (site / "api/segmenting.html").read_text("utf-8")
    coco = text[text.index('id="textseg.Segmentation.to_coco"') :]
    coco = coco[: coco.index('id="textseg.Segmentation.overlay"')]
    for name in ("image_id", "category_id", "annotation_id", "segmentation"):
        assert f"<code>{name}</code>" in coco
    assert not re.search(r"<blockquote>\s*<blockquote>", text)


def test_the_api_shows_the_defaults_of_options(site: Path) -> None:
    text = (site / "api/options.html").read_text("utf-8")
    signature = re.sub(r"<[^>]+>", "", text[text.index('id="textseg.RefineOptions"') :])
    signature = html.unescape(signature[: signature.index("How a contrast map")])
    for name, value in asdict(textseg.RefineOptions()).items():
        given = re.search(rf"\b{name}:[^=]*= ([^\n]*),\n", signature)
        assert given and ast.literal_eval(given[1]) == value, name


def test_the_site_fetches_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img)\b[^>]*?(?:src|href)=[\"']?(https?:[^\"' >]+)",
                             page.read_text("utf-8"))  # fmt: skip
        assert not fetched, f"{page.name} fetches {fetched}"


def test_the_tour_is_as_it_ran() -> None:
    assert TOUR.stat().st_size < 1_500_000
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"execute_result"}
    assert sum("image/png" in output["data"] for output in outputs) >= 4


@pytest.mark.timeout(600)
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, with the outputs that it shows, but for the figures in them."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "data").symlink_to(REPO / "data")
    monkeypatch.chdir(tmp_path / "docs")
    names: dict[str, Any] = {"shell": lambda line: main(shlex.split(line.format(**names)))}
    for cell in CELLS:
        source = SHELL.sub(
            lambda found: f"assert shell({found[1]!r}) == 0", "".join(cell["source"])
        )
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
        if last is None:
            assert not cell["outputs"]
            continue
        assert isinstance(last, ast.Expr)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
        (output,) = cell["outputs"]
        assert _shape(repr(value)) == _shape("".join(output["data"]["text/plain"]))
        assert hasattr(value, "_repr_png_") == ("image/png" in output["data"])


def _shape(text: str) -> str:
    """A value's text without its figures and line breaks."""
    text = re.sub(r" at 0x\w+", "", " ".join(text.split()))
    return re.sub(r"\d+(\.\d+)?", "#", text)


def test_the_citation_names_the_software_and_the_paper() -> None:
    cited = yaml.safe_load((REPO / "CITATION.cff").read_text("utf-8"))
    assert (cited["cff-version"], cited["title"], cited["type"]) == ("1.2.0", "textseg", "software")
    assert cited["message"] and cited["authors"]
    project = (REPO / "pyproject.toml").read_text("utf-8")
    assert f'license = "{cited["license"]}"' in project and cited["abstract"] in project
    (paper,) = cited["references"]
    assert paper["authors"][0]["family-names"] == "Couairon" and "2210.11427" in paper["url"]


def test_the_workflow_calls_what_the_documentation_does() -> None:
    flow = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text("utf-8"))
    called = [step["run"] for step in flow["jobs"]["test"]["steps"] if "run" in step]
    shown = "".join((REPO / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    assert {"make demo", "make test", "make docs"} <= {*called}
    for command in called:
        assert re.search(rf"^{re.escape(command)}\b", shown, re.MULTILINE), command
