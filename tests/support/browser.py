"""A real Chromium, driven by Playwright; tests skip where either is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SIZES: Mapping[str, tuple[int, int]] = {
    "desktop": (1440, 900),
    "projector": (1920, 1080),
    "phone": (390, 844),
}

AXE = Path(__file__).parents[1] / "browser" / "node_modules" / "axe-core" / "axe.min.js"

OPTIONS = (
    "--no-sandbox",  # as root, as CI is
    "--disable-gpu",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
)

PATIENCE_MS = 90_000
"""For what takes a moment on a quiet machine."""


def chromium() -> str:
    """Return where Chromium is, or skip the test."""
    found = os.environ.get("NEURRATE_TEST_CHROMIUM") or shutil.which("chromium")
    if found is None:
        pytest.skip("no Chromium: scripts/install-servers installs Debian's")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield one browser for the tests of a module; while it is there, no asyncio loop can run."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = chromium()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(OPTIONS), timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Return a function that opens an address; what goes wrong in the page fails the test."""
    problems: list[str] = []
    with _contexts(browser) as make:

        def opened(
            address: str, *, size: str = "desktop", theme: str = "dark", **options: Any
        ) -> Any:
            width, height = SIZES[size]
            context = make(
                viewport={"width": width, "height": height},
                color_scheme=theme,
                has_touch=size == "phone",
                device_scale_factor=2 if size == "phone" else 1,
                **options,
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "console",
                lambda line: (
                    problems.append(line.text)
                    if line.type == "error" and not _is_expected(line.text)
                    else None
                ),
            )
            page.goto(address)
            return page

        yield opened
    assert problems == []


@contextmanager
def _contexts(browser: Any) -> Iterator[Callable[..., Any]]:
    opened: list[Any] = []

    def make(**options: Any) -> Any:
        opened.append(browser.new_context(**options))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


def _is_expected(line: str) -> bool:
    """Whether a browser complains of a server that is away, or of a picture that is not there."""
    return line.startswith("Failed to load resource")
