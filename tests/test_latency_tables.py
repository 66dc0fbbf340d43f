"""The table of other libraries in docs/latency.md is that of the committed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import latency_tables

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/runs").glob("*-peers-*.json")), ids=lambda path: path.stem
)
def test_table_in_the_page_is_of_the_run(path, capsys):
    """What the command prints is in the page, beside the name of the run."""
    assert latency_tables.main([str(path)]) == 0
    page = (ROOT / "docs/latency.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page
    assert path.name in page
