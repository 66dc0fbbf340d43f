"""The site that ``make docs`` builds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FETCHED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="?((?:https?:)?//[^" >]*)')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning fails: a broken link or anchor, or a page in no list."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    """Those of docs/, README, and what they link to in other folders."""
    for page in (ROOT / "docs").rglob("*.md"):
        html = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / html).is_file() or (site / html).with_name("index.html").is_file()
    assert "Start here" in (site / "first-ten-minutes.html").read_text(encoding="utf-8")
    assert (site / "clients" / "python" / "index.html").is_file()
    assert (site / "configs" / "triggers" / "serial_pulse.sh").is_file()


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    """No font, script or picture of another server: the site is read beside a rig, too."""
    for page in site.rglob("*.html"):
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page.name


def test_links_out_of_docs_are_turned(site: Path) -> None:
    """What is right in the repository is right in the site."""
    text = (site / "consumers.html").read_text(encoding="utf-8")
    assert 'href="clients/python/index.html"' in text
    assert "../clients" not in text
    decision = next((site / "decisions").glob("0030-*.html")).read_text(encoding="utf-8")
    assert 'href="../benchmarks/index.html"' in decision
