"""A studio in a process of its own, and a Chromium to look at it. Run by `make test-browser`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 1000 * float(os.environ.get("TEXTSEG_BROWSER_SECONDS", "60"))
"""Milliseconds to wait for anything on the page."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    found = os.environ.get("TEXTSEG_CHROMIUM") or next(
        filter(None, map(shutil.which, BROWSERS)), ""
    )
    if not found:
        pytest.skip("needs a Chromium or Chrome on the path, or TEXTSEG_CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def studio() -> Iterator[str]:
    """The address of `textseg studio` with mini."""
    pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
    process = subprocess.Popen(
        [sys.executable, "-m", "textseg", "studio"],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert address, line
    yield address[0]
    process.terminate()
    process.wait(30)
    process.stdout.close()


class Visit:
    """One visitor's page, with what went wrong on it.

    Attributes:
        page: Playwright's page, at the first view.
        errors: console errors and uncaught exceptions.
        outside: addresses asked for that are not the studio's.
    """

    def __init__(self, context: Any, address: str) -> None:
        self.page, self.errors, self.outside = context.new_page(), [], []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self._address = address
        self.page.goto(address)
        self.page.wait_for_selector("#ts-found label")
        self.page.wait_for_selector("#ts-stage img")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self._address, "data:", "blob:")):
            self.outside.append(request.url)

    def says(self, text: str) -> None:
        """Wait until the status line says something."""
        self.page.wait_for_selector(f"#ts-status >> text={text}")

    def type(self, box: str, text: str) -> None:
        """Fill a text box."""
        self.page.fill(f"{box} textarea, {box} input", text)

    def turn(self, tab: str) -> None:
        """Bring a tab into sight."""
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def download(self, kind: str, folder: Path) -> Path:
        """Press a button of the last tab and keep what comes."""
        with self.page.expect_download() as coming:
            self.page.click(f"#ts-save-{kind}")
        path = folder / coming.value.suggested_filename
        coming.value.save_as(path)
        return path

    def is_clean(self) -> None:
        """Nothing went wrong, and nothing was fetched from elsewhere."""
        assert self.errors == []
        assert self.outside == []


@pytest.fixture
def visit(browser: Any, studio: str) -> Iterator[Any]:
    """visit(width=1280, height=860, scheme="light") -> Visit, in a session of its own."""
    contexts = []

    def open_page(width: int = 1280, height: int = 860, scheme: str = "light") -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            accept_downloads=True,
            has_touch=width < 600,
        )
        contexts.append(context)
        return Visit(context, studio)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def photograph() -> Any:
    """photograph(visit, name): a screenshot, kept where TEXTSEG_SCREENSHOTS names a folder."""

    def take(visit: Visit, name: str) -> None:
        folder = os.environ.get("TEXTSEG_SCREENSHOTS")
        if folder:
            visit.page.wait_for_timeout(600)
            visit.page.screenshot(path=Path(folder) / f"studio-{name}.png", full_page=True)

    return take
