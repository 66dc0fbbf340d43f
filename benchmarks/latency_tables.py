"""The tables of docs/latency.md, from the output of ``neurrate bench`` and of ``make bench-peers``.

neurrate bench latency --json latency.json
neurrate bench soak --minutes 10 --disturb --json soak.jsonl
python -m benchmarks.bench_peers --json peers.json
python -m benchmarks.latency_tables latency.json soak.jsonl peers.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import markdown

STAGES = ("cut", "encode", "wait", "prefill", "decode", "publish")


def main(paths: Sequence[str]) -> int:
    """Print a table for each file; a soak's ends with ``.jsonl``."""
    if not paths:
        print(__doc__)
        return 2
    for path in map(Path, paths):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            print(soak_table(json.loads(text.splitlines()[-1])))
            continue
        document = json.loads(text)
        if document.get("benchmark") == "peers":
            print(peers_table(document["rows"], document["figures"]))
        else:
            print(latency_tables(document))
    return 0


def latency_tables(document: dict[str, Any]) -> str:
    """Return narrations by rate, then triggers by rate, then the knee."""
    narrations = [_narration_line(rate) for rate in document["rates"]]
    headers = ["windows/s", "narrated", "narrations/s", "p50 ms", "p95", "p99", "max"]
    parts = [markdown([*headers, *(f"{s} p50" for s in STAGES)], narrations)]
    triggers = [
        [f"{rate['pace']['rate']:g}", kind, *_line(triggers["stages_ms"])]
        for rate in document["rates"]
        for kind, triggers in rate["triggers"].items()
    ]
    if triggers:
        headers = ["windows/s", "rules on", "p50 ms", "p95", "p99", "max", "encode p50"]
        parts.append(markdown(headers, triggers))
    lines = [
        [f"{rate['pace']['rate']:g}", *_ends(rate[key])]
        for key in ("sent_to_received_ms", "published_to_here_ms")
        for rate in document["rates"]
    ]
    n = len(document["rates"])
    beside = [[*sent, *here[1:]] for sent, here in zip(lines[:n], lines[n:], strict=True)]
    headers = ["windows/s", "sent > received p50 ms", "p99", "published > here p50 ms", "p99"]
    parts += [markdown(headers, beside), f"{document['knee']['sentence']} {document['command']}"]
    return "\n\n".join(parts)


def soak_table(ended: dict[str, Any]) -> str:
    """Return the verdicts."""
    words = {True: "ok", False: "NOT OK", None: "too short"}
    rows = [[rule["name"], words[rule["is_ok"]], rule["text"]] for rule in ended["verdicts"]]
    return markdown(["rule", "", "found"], rows)


def peers_table(rows: list[dict[str, Any]], figures: list[dict[str, Any]]) -> str:
    """Return a row for each library: messages and processor time by size, then at a rig's rate."""
    medians = {(line["case"], line["name"]): line["median"] for line in figures}
    sizes = list(dict.fromkeys(line["case"] for line in figures if line["case"] != "rig"))
    headers = ["receiver"]
    headers += [f"{size}: messages/s" if size == sizes[0] else size for size in sizes]
    headers += [f"{size}: cpu us" if size == sizes[0] else size for size in sizes]
    headers += ["rig: p50 ms", "p99 ms", "cpu, % of a core"]
    lines = [
        [
            row["contender"],
            *(medians[size, f"{row['contender']}, messages/s"] for size in sizes),
            *(medians[size, f"{row['contender']}, receiver cpu, us a message"] for size in sizes),
            row["p50_us"] / 1000,
            row["p99_us"] / 1000,
            medians["rig", f"{row['contender']}, receiver cpu, % of a core"],
        ]
        for row in rows
    ]
    return markdown(headers, lines)


def _narration_line(rate: dict[str, Any]) -> list[object]:
    stages = rate["stages_ms"]
    if not stages:
        return [f"{rate['pace']['rate']:g}", "0%", 0.0, *[None] * (4 + len(STAGES))]
    total = stages["total"]
    return [
        f"{rate['pace']['rate']:g}",
        f"{rate['share_narrated']:.1%}",
        rate["narrations_per_s"],
        *(total[name] for name in ("p50", "p95", "p99", "max")),
        *(stages[stage]["p50"] for stage in STAGES),
    ]


def _line(stages: dict[str, Any]) -> list[object]:
    total = stages["total"]
    return [*(total[name] for name in ("p50", "p95", "p99", "max")), stages["encode"]["p50"]]


def _ends(ms: dict[str, float] | None) -> list[object]:
    return [None, None] if ms is None else [ms["p50"], ms["p99"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
