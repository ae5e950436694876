"""A studio in a process of its own, and a Chromium to look at it. Run by `make test-browser`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
PATIENCE = 1000 * float(os.environ.get("TEXTSEG_BROWSER_SECONDS", "60"))
"""Milliseconds to wait for anything on the page."""
START_SECONDS = 180


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


class Program:
    """A `textseg` command that says on what address it answers.

    Attributes:
        address: with a "/" at the end.
    """

    def __init__(self, *arguments: str, token: str = "") -> None:
        pytest.importorskip("gradio", reason="needs the extra textseg[studio]")
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "textseg", *arguments],
            stdout=self._said, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2],
            env=os.environ | {"TEXTSEG_TOKEN": token},
        )  # fmt: skip
        self.address = self._wait()

    def _wait(self) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", self.said())
            if found:
                return f"{found[0]}/"
            time.sleep(0.1)
        raise AssertionError(f"it did not start: {self.stop()}")

    def said(self) -> str:
        """Everything it wrote so far."""
        self._said.seek(0)
        return self._said.read()

    def stop(self) -> str:
        """Ask it to end; everything it wrote."""
        self._process.terminate()
        self._process.wait(60)
        with self._said:
            return self.said()


@pytest.fixture
def start() -> type[Program]:
    """start("studio", "--sample", "park") -> Program, which the test is to stop."""
    return Program


@pytest.fixture(scope="session")
def studio() -> Iterator[str]:
    """The address of `textseg studio` with mini, which says nothing but that to the end."""
    program = Program("studio")
    yield program.address
    said = program.stop().splitlines()
    assert said == [
        "textseg studio: starting with mini...",
        f"textseg studio: {program.address} (Ctrl-C ends it)",
    ]


@pytest.fixture
def server() -> Iterator[tuple[str, str]]:
    """The address of `textseg serve` with mini, which says nothing but that, and its token."""
    token = "a-token-of-the-browser-tests"
    program = Program("serve", "--port", "0", token=token)
    yield program.address, token
    assert program.stop() == f"textseg: mini answers at {program.address[:-1]}\n"


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

    def set(self, slider: str, value: str) -> None:
        """Write into a slider's number."""
        self.page.fill(f"{slider} input[type=number]", value)
        self.page.keyboard.press("Tab")

    def turn(self, tab: str) -> None:
        """Bring a tab into sight."""
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def looks_at(self, view: str) -> None:
        """Choose a view by the keyboard and wait for its picture."""
        before = self.shown()
        self.page.focus(f"#ts-view input[value='{view}']")
        self.page.keyboard.press("Space")
        self.page.wait_for_selector(f"#ts-view label.selected >> text={view}")
        self.page.wait_for_function(
            "before => document.querySelector('#ts-stage img').src !== before", arg=before
        )

    def settles(self) -> None:
        """Wait until the stage has shown the same picture for two seconds."""
        before = ""
        while (now := self.shown()) != before:
            before = now
            self.page.wait_for_timeout(2000)

    def shown(self) -> str:
        """The address of the picture on the stage."""
        return self.page.get_attribute("#ts-stage img", "src")

    def takes(self, tool: str) -> None:
        """Choose what the pointer does: plus, minus, box, brush or eraser."""
        self.page.click(f"#ts-tool label:has(input[value={tool}])")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where fractions of the picture are on the page."""
        over = self.page.locator("svg.ts-over")
        over.scroll_into_view_if_needed()
        inner = over.evaluate(
            """(svg) => {
              const { width, height } = svg.viewBox.baseVal, at = svg.getScreenCTM();
              return [at.e, at.f, at.a * width, at.d * height];
            }"""
        )
        return inner[0] + x * inner[2], inner[1] + y * inner[3]

    def clicks(self, x: float, y: float, **how: Any) -> None:
        """Click on the picture, at fractions of it."""
        self.page.mouse.click(*self.at(x, y), **how)

    def drags(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag over the picture."""
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=8)
        self.page.mouse.up()

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
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """visit(width=1280, height=860, scheme="light", at=None) -> Visit, in a session of its own; of
    the studio, or of an address with a token."""
    contexts = []

    def open_page(
        width: int = 1280,
        height: int = 860,
        scheme: str = "light",
        at: tuple[str, str] | None = None,
    ) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            accept_downloads=True,
            has_touch=width < 600,
            permissions=["clipboard-read", "clipboard-write"],
            http_credentials=None if at is None else {"username": "me", "password": at[1]},
        )
        contexts.append(context)
        return Visit(context, request.getfixturevalue("studio") if at is None else at[0])

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
