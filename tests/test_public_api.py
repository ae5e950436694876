"""The public names: a change here is a change for users."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import textseg

NAMES = (Path(__file__).parent / "public_api.txt").read_text().split()
HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "cv2", "scipy", "skimage")


def test_the_names_are_those_of_the_checked_in_list():
    assert sorted(textseg.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_leads_somewhere(name):
    assert getattr(textseg, name) is not None
    assert name in dir(textseg)


def test_each_name_is_used_in_the_file_that_strict_pyright_reads():
    used = (Path(__file__).parent / "typed_use.py").read_text()
    missing = [name for name in NAMES if not re.search(rf"\b{name}\b", used)]
    assert used.startswith("# pyright: strict") and not missing


def test_each_name_is_on_a_page_of_the_api():
    pages = [page.read_text("utf-8") for page in Path(__file__).parent.parent.glob("docs/api/*.md")]
    shown = {name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    homes = {name: "errors" if name in vars(textseg.errors) else name for name in NAMES}
    missing = [name for name, home in homes.items() if f"textseg.{home}" not in shown]
    assert missing == ["__version__"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = textseg.nothing_like_it  # pyright: ignore[reportAttributeAccessIssue]


def test_functions_are_not_hidden_by_the_modules_they_come_from():
    from textseg.captioning import caption
    from textseg.generation import generate

    assert textseg.caption is caption and callable(caption)
    assert textseg.generate is generate and callable(generate)


def test_importing_textseg_imports_nothing_heavy():
    code = (
        "import sys, textseg; textseg.ContrastOptions(); textseg.InputError;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]"


def test_every_error_is_a_textseg_error():
    errors = [getattr(textseg, name) for name in NAMES if name.endswith("Error")]
    assert len(errors) == 9
    assert all(issubclass(error, textseg.TextsegError) for error in errors)


def test_the_version_is_the_installed_one():
    from importlib.metadata import PackageNotFoundError, version

    assert re.fullmatch(r"\d+\.\d+\.\d+", textseg.__version__)
    try:
        installed = version("textseg")
    except PackageNotFoundError:
        pytest.skip("textseg is run from its folder, not installed")
    assert installed == textseg.__version__
