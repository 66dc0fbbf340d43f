"""The tables of the narrator benchmark are those of the committed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import narrator_table

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    "path",
    sorted((BENCHMARKS / "runs").glob("*-narrator-*core-*.json")),
    ids=lambda path: path.stem,
)
def test_tables_in_the_readme_are_of_the_run(path, capsys):
    """Each table that the command prints is in the README."""
    assert narrator_table.main([str(path)]) == 0
    _, *tables = capsys.readouterr().out.strip().split("\n\n")
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert len(tables) == 3
    assert all(table in readme for table in tables)


def test_no_run_says_how_to_make_one(capsys):
    """Without a file, the two commands are printed."""
    assert narrator_table.main([]) == 2
    assert "python -m benchmarks.bench_narrator --json" in capsys.readouterr().out
