"""The tables and figures of "A narration" in README.md, from the JSON of ``bench_narrator``.

python -m benchmarks.bench_narrator --json narrator.json
python -m benchmarks.narrator_table narrator.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import markdown

CONTENDERS = ("plain", "generate, batched", "ours")
N_ROWS = (1, 2, 4, 8, 16)
FORMER_FORMATS = (" bfloat16", " int8")
"""Narrower formats on a CPU, which older runs have and the narrator no longer has."""


def main(paths: Sequence[str]) -> int:
    """Print the tables of one file."""
    if len(paths) != 1:
        print(__doc__)
        return 2
    document = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
    figures = {(line["case"], line["name"]): line for line in document["figures"]}
    rows = {(line["case"], line["contender"]): line for line in document["rows"]}
    load = ", ".join(f"{value:g}" for value in document["environment"]["load_average"])
    print(f"Threads: {document['parameters']['threads']}; load average at the end: {load}\n")
    print(contender_table(rows, figures), end="\n\n")
    print(bound_table(rows, figures), end="\n\n")
    print(joins_table(figures))
    return 0


def contender_table(rows: dict[Any, Any], figures: dict[Any, Any]) -> str:
    """Return each contender for each number of populations."""
    cases = list(dict.fromkeys(case for case, name in rows if name in CONTENDERS))
    lines: list[list[object]] = []
    for case in cases:
        for name in CONTENDERS:
            took = [rows[case, name][key] / 1e3 for key in ("p50_us", "p95_us", "p99_us")]
            ratios = ["", ""]
            if name != "ours":
                ratios = [
                    _with_range(figures[case, f"ours / {name}, {figure}"])
                    for figure in ("narrations/s", "latency")
                ]
            rate = figures[case, f"{name}, narrations/s"]["median"]
            lines.append([case, name, *took, rate, *ratios])
    headers = ["window", "made by", "p50 ms", "p95 ms", "p99 ms", "narrations/s"]
    return markdown([*headers, "ours / this, narrations/s", "ours / this, latency"], lines)


def bound_table(rows: dict[Any, Any], figures: dict[Any, Any]) -> str:
    """Return each model compared with the limit of the machine."""
    cases = [case for case, name in rows if name == "prompt" and not case.endswith(FORMER_FORMATS)]
    counts = [n for n in N_ROWS if (cases[0], f"step, {n} rows") in rows]
    lines = [
        [
            case,
            rows[case, "prompt"]["p50_us"] / 1e3,
            figures[case, "bound / prompt"]["median"],
            *(rows[case, f"step, {n} rows"]["p50_us"] / 1e3 for n in (counts[0], counts[-1])),
            *(figures[case, f"bound / ours, {n} rows"]["median"] for n in counts),
        ]
        for case in cases
    ]
    steps = [f"step ms, rows: {n}" for n in (counts[0], counts[-1])]
    bounds = [f"bound / ours, rows: {counts[0]}", *map(str, counts[1:])]
    return markdown(["model", "prompt ms", "bound / prompt", *steps, *bounds], lines)


def joins_table(figures: dict[Any, Any]) -> str:
    """Return the rate and the age of windows that join, over those of windows one by one."""
    end = " / one by one, age"
    lines = [
        [
            case,
            name.removesuffix(end),
            figures[case, f"{name.removesuffix(end)} / one by one, windows/s"]["median"],
            line["median"],
        ]
        for (case, name), line in figures.items()
        if name.endswith(end)
    ]
    return markdown(["model", "under way", "windows/s, of one by one", "age, of one by one"], lines)


def _with_range(line: dict[str, Any]) -> str:
    return f"{line['median']:.3g} ({line['low']:.3g} to {line['high']:.3g})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
