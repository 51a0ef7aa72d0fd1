"""Chromium, and servers for its page: a scripted one, and one with a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pyml_nlp
from pyml_nlp.server import app

from ..server.live import Live
from .scripted import Script, scripted_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
Open = Callable[..., "Page"]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a window. Where CI is set it must be there."""
    missing = pytest.fail if os.environ.get("CI") else pytest.skip
    from playwright.sync_api import sync_playwright  # in the environment of these tests alone

    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        missing("chromium is not installed: sh scripts/browser.sh")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def served(application: Any) -> Iterator[str]:
    """The address of a server of this application."""
    live = Live(application, None)
    live.start()
    try:
        yield f"http://127.0.0.1:{live.port}"
    finally:
        live.stop()


@pytest.fixture
def script() -> Iterator[Script]:
    """How the scripted server answers."""
    made = Script()
    yield made
    made.released.set()


@pytest.fixture
def scripted(script: Script) -> Iterator[str]:
    """The address of the scripted server."""
    with served(scripted_app(script)) as address:
        yield address


@pytest.fixture
def smollm2(smollm2_gguf: Path) -> Iterator[str]:
    """The address of a server with SmolLM2."""
    with pyml_nlp.load(smollm2_gguf, threads=2) as lm, served(app(lm)) as address:
        yield address


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page of an address in a browser of its own; no page may have had an error.

    Further arguments are those of ``browser.new_context``; ``expected`` are parts of errors that may be on the console.
    """
    faults: list[str] = []
    with ExitStack() as contexts:

        def opened(address: str, *, expected: tuple[str, ...] = (), **options: Any) -> Page:
            context = browser.new_context(**options)
            contexts.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)

            def on_console(message: Any) -> None:
                if message.type in ("error", "warning") and not any(part in message.text for part in expected):
                    faults.append(message.text)

            page.on("console", on_console)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(address)
            return page

        yield opened
    assert faults == []
