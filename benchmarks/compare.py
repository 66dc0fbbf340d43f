"""Run a benchmark on two commits, in turns.

    python -m benchmarks.compare main HEAD --bench bin_ring
    python -m benchmarks.compare v0.1.0 main --bench wire_ingest --rounds 5

Each commit is unpacked into a folder of its own with the benchmarks of this checkout, so that both
are measured in the same way, and runs in this Python. The commits take turns in alternating order.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import DEFAULT_SEED, FOLDER, markdown

BENCHMARKS = ("bin_ring", "wire_ingest", "window_cut")


def main() -> int:
    """Run both commits in turns and print the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commits", nargs=2, metavar="COMMIT", help="before, after")
    parser.add_argument("--bench", choices=BENCHMARKS, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--quick", action="store_true", help="seconds, for tests; not for numbers")
    given = parser.parse_args()
    command = [sys.executable, "-m", f"benchmarks.bench_{given.bench}", "--seed", str(given.seed)]
    command += ["--quick"] * given.quick
    with tempfile.TemporaryDirectory() as folder:
        trees = [_unpack(c, Path(folder) / str(i)) for i, c in enumerate(given.commits)]
        runs = _take_turns(command, trees, given.rounds)
    lines = _side_by_side(*runs)
    before, after = given.commits
    print(markdown(("case", "figure", before, after, "after / before"), lines))
    print(json.dumps({"bench": given.bench, "commits": given.commits, "lines": lines}))
    return 0


def _unpack(commit: str, tree: Path) -> Path:
    """Write a commit's files to `tree`, with the benchmarks of this checkout."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=FOLDER.parent, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(tree, filter="data")
    shutil.rmtree(tree / FOLDER.name, ignore_errors=True)
    shutil.copytree(FOLDER, tree / FOLDER.name)
    return tree


def _take_turns(command: list[str], trees: list[Path], n_rounds: int) -> list[list[dict[str, Any]]]:
    """Run the benchmark in each tree `n_rounds` times, whether or not it exceeds a budget."""
    runs: list[list[dict[str, Any]]] = [[] for _ in trees]
    order = list(range(len(trees)))
    for _ in range(n_rounds):
        for i in order:
            ran = subprocess.run(
                command, cwd=trees[i], stdout=subprocess.PIPE, text=True, check=False
            )
            if not ran.stdout:
                sys.exit(f"the benchmark does not run at the {('first', 'second')[i]} commit")
            runs[i].append(json.loads(ran.stdout.splitlines()[-1]))
        order.reverse()
    return runs


def _side_by_side(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> list[tuple[str, str, float, float, float]]:
    """Return the median over rounds of every p50 and every figure."""
    lines = []
    for (case, name), values in _numbers(before).items():
        others = _numbers(after)[case, name]
        a, b = statistics.median(values), statistics.median(others)
        lines.append((case, name, a, b, float(f"{b / a:.3g}")))
    return lines


def _numbers(documents: list[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    numbers: dict[tuple[str, str], list[float]] = {}
    for document in documents:
        for row in document["rows"]:
            numbers.setdefault((row["case"], f"{row['contender']}, p50 us"), []).append(
                row["p50_us"]
            )
        for figure in document["figures"]:
            numbers.setdefault((figure["case"], figure["name"]), []).append(figure["median"])
    return numbers


if __name__ == "__main__":
    sys.exit(main())
