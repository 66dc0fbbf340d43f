"""What numba compiled for SpikeInterface is read again by the next process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from stream_sources.online_sorter.compiled_cache import cache_compiled
cache_compiled()
cache_compiled()  # once is enough
import numba
import numpy as np
from {module} import {name} as function
result = function(*{arguments})
print(getattr(function, "stats", None) and sum(function.stats.cache_hits.values()))
"""

OURS = {
    "module": "stream_sources.online_sorter.filter_kernels",
    "name": "subtract_median",
    "arguments": "(np.ones((3, 4), np.float32),)",
}
PLAIN = """
import numba

@numba.jit(nopython=True)
def with_options(x):
    return x + 1

@numba.njit
def without(x):
    return x + 2
"""


def hits(folder: Path, program: str, **environment: str) -> str:
    """Run a program; return how many of its functions were read from the disk."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["with_options", "without"])
def test_the_second_process_reads_what_the_first_has_compiled(tmp_path, name):
    """However the decorator was written."""
    (tmp_path / "plain.py").write_text(PLAIN)
    program = PROGRAM.format(module="plain", name=name, arguments="(1,)")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[3]}"
    assert hits(tmp_path, program, PYTHONPATH=path) == "0"
    assert hits(tmp_path, program, PYTHONPATH=path) == "1"


def test_our_own_loops_are_kept_too(tmp_path):
    """And nothing is kept where compiling is switched off."""
    program = PROGRAM.format(**OURS)
    assert hits(tmp_path, program, NUMBA_DISABLE_JIT="1") == "None"
    assert not (tmp_path / "cache").exists()
    assert hits(tmp_path, program) == "0"
    assert hits(tmp_path, program) == "1"
