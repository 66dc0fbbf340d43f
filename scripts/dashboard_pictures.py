#!/usr/bin/env python3
"""Draw the pictures of the dashboard in the documents, from a running demo.

    .venv/bin/python scripts/dashboard_pictures.py docs/images

`neurrate demo` replays its simulated session, and a real Chromium (`scripts/install-servers`)
opens its page in each size and theme. What is drawn is what a visitor sees towards the end of it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

AT_S = 34.6
"""Session time: late in a scene, so that the sentence and the frame are of the same one."""
PICTURES = {
    "dashboard-dark": ("dark", 1440, 900, 1),
    "dashboard-light": ("light", 1440, 900, 1),
    "dashboard-phone": ("dark", 390, 844, 2),
}
"""By name: theme, width and height in CSS pixels, device pixels for each."""

PATIENCE_MS = 120_000


def main() -> None:
    """Run the demo once, and draw every picture at the same moment of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    chromium = shutil.which("chromium") or sys.exit("no Chromium: scripts/install-servers")
    svg = str(folder / "demo.svg")
    command = [sys.executable, "-u", "-m", "neurrate", "demo", "--plain", "--svg", svg]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as demo,
        sync_playwright() as playwright,
    ):
        lines = demo.stdout or ()
        address = next(found[0] for line in lines if (found := re.search(r"http://127\S+/", line)))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        _draw(browser, address, folder)
        browser.close()
        for _ in lines:
            pass


def _draw(browser: Browser, address: str, folder: Path) -> None:
    pages = {}
    for name, (theme, width, height, scale) in PICTURES.items():
        context = browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme="dark" if theme == "dark" else "light",
        )
        pages[name] = context.new_page()
        pages[name].set_default_timeout(PATIENCE_MS)
        pages[name].goto(address)
    for name, page in pages.items():
        page.wait_for_function(f"() => window.neurrate.store.head >= {AT_S}")
        page.screenshot(path=folder / f"{name}.png")
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main()
