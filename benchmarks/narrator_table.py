"""The tables and figures of "A narration" in README.md, from what ``bench_narrator`` wrote.

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

ROAD = ("plain", "generate, batched", "ours")
N_ROWS = (1, 2, 4, 8, 16)


def main(paths: Sequence[str]) -> int:
    """Print the tables of one file."""
    if len(paths) != 1:
        print(__doc__)
        return 2
    found = json.loads(Path(paths[0]).read_text(encoding="utf-8"))
    figures = {(each["case"], each["name"]): each for each in found["figures"]}
    rows = {(each["case"], each["contender"]): each for each in found["rows"]}
    load = ", ".join(f"{each:g}" for each in found["environment"]["load_average"])
    print(f"Threads: {found['parameters']['threads']}; load average at the end: {load}\n")
    print(road_table(rows, figures), end="\n\n")
    print(bound_table(rows, figures), end="\n\n")
    print(joins_table(figures))
    return 0


def road_table(rows: dict[Any, Any], figures: dict[Any, Any]) -> str:
    """Return each contender for each number of populations."""
    cases = list(dict.fromkeys(case for case, name in rows if name in ROAD))
    lines: list[list[object]] = []
    for case in cases:
        for name in ROAD:
            took = [rows[case, name][key] / 1e3 for key in ("p50_us", "p95_us", "p99_us")]
            ratios = ["", ""]
            if name != "ours":
                ratios = [
                    _span(figures[case, f"ours / {name}, {what}"])
                    for what in ("narrations/s", "latency")
                ]
            rate = figures[case, f"{name}, narrations/s"]["median"]
            lines.append([case, name, *took, rate, *ratios])
    headers = ["window", "made by", "p50 ms", "p95 ms", "p99 ms", "narrations/s"]
    return markdown([*headers, "ours / it, narrations/s", "ours / it, latency"], lines)


def bound_table(rows: dict[Any, Any], figures: dict[Any, Any]) -> str:
    """Return each model in each format against what the machine allows."""
    cases = [case for case, name in rows if name == "prompt"]
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
            each["median"],
        ]
        for (case, name), each in figures.items()
        if name.endswith(end)
    ]
    return markdown(["model", "under way", "windows/s, of one by one", "age, of one by one"], lines)


def _span(each: dict[str, Any]) -> str:
    return f"{each['median']:.3g} ({each['low']:.3g} to {each['high']:.3g})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
