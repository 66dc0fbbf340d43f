"""The output of a benchmark: tables for people, one JSON document for programs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, MeasuredRow

FOLDER = Path(__file__).parent
DEFAULT_SEED = 20261123


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of every benchmark."""

    is_quick: bool
    seed: int
    json_path: Path | None
    more: dict[str, Any] = field(default_factory=dict)
    """Options of one benchmark alone."""
    words: tuple[str, ...] = ()
    """Those that were given, as typed."""


@dataclass(frozen=True, slots=True)
class Result:
    """The results of a benchmark.

    Attributes
    ----------
    benchmark : str
        Name of its module and of its table in ``budgets.toml``.
    parameters : dict
        What was fixed: units, rate, sizes.
    limits : dict
        Physical limits measured in the same run.
    """

    benchmark: str
    parameters: dict[str, Any]
    limits: dict[str, float]
    rows: list[MeasuredRow]
    figures: list[Figure]


def read_options(
    doc: str | None, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> Options:
    """Read the command line.

    Parameters
    ----------
    doc : str
        The benchmark's own docstring.
    add : callable, optional
        Adds the options of this benchmark alone.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds, for tests; not for numbers")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write the JSON document here too"
    )
    if add is not None:
        add(parser)
    given = vars(parser.parse_args())
    is_quick, seed, json_path = (given.pop(name) for name in ("quick", "seed", "json"))
    words = [
        f"--{name}" if value is True else f"--{name} {value}"
        for name, value in given.items()
        if value != parser.get_default(name)
    ]
    return Options(is_quick, seed, json_path, given, tuple(words))


def report(result: Result, options: Options) -> int:
    """Print the tables and, as the last line, the JSON document.

    Returns
    -------
    exit_code : int
        1 if a budget is exceeded; a quick run has none.
    """
    budgets = [] if options.is_quick else _check_budgets(result)
    document = {
        "benchmark": result.benchmark,
        "is_quick": options.is_quick,
        "environment": _environment(result.benchmark, options),
        "parameters": result.parameters,
        "limits": {name: _rounded(value) for name, value in result.limits.items()},
        "rows": [_rounded(asdict(row)) for row in result.rows],
        "figures": [_rounded(asdict(figure)) for figure in result.figures],
        "budgets": budgets,
    }
    _print_tables(document)
    line = json.dumps(document)
    if options.json_path:
        options.json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(line)
    return int(any(not budget["is_met"] for budget in budgets))


def markdown(headers: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Format a table that is readable in a terminal and in Markdown."""
    cells = [list(headers), *([_cell(value) for value in line] for line in lines)]
    is_text = [isinstance(value, str) for value in lines[0]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(headers))]
    rule = [
        "-" * w if left else "-" * (w - 1) + ":" for w, left in zip(widths, is_text, strict=True)
    ]
    padded = [
        [c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, is_text, strict=True)]
        for line in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _print_tables(document: dict[str, Any]) -> None:
    columns: tuple[str, ...] = (
        "case",
        "contender",
        "n",
        "p50_us",
        "p95_us",
        "p99_us",
        "max_us",
        "spikes_per_s",
    )
    print(markdown(columns, [[row[key] for key in columns] for row in document["rows"]]))
    print()
    columns = ("case", "name", "median", "low", "high", "n_rounds")
    print(markdown(columns, [[line[key] for key in columns] for line in document["figures"]]))
    print()
    print(markdown(("limit", "value"), list(document["limits"].items())))
    print()
    for budget in document["budgets"]:
        verdict = "met" if budget["is_met"] else "EXCEEDED"
        bound = "at least" if "at_least" in budget else "at most"
        print(
            f"budget {verdict}: {budget['case']}, {budget['name']} is {budget['found']:.3g}, "
            f"{bound} {budget.get('at_least', budget.get('at_most'))} ({budget['reason']})"
        )


def _check_budgets(result: Result) -> list[dict[str, Any]]:
    """Compare the figures with ``budgets.toml``."""
    tables = tomllib.loads((FOLDER / "budgets.toml").read_text(encoding="utf-8"))
    medians = {(line.case, line.name): line.median for line in result.figures}
    checked = []
    for budget in tables[result.benchmark]:
        value = medians[budget["case"], budget["name"]]
        is_met = budget.get("at_least", value) <= value <= budget.get("at_most", value)
        checked.append({**budget, "found": _rounded(value), "is_met": is_met})
    return checked


def _environment(benchmark: str, options: Options) -> dict[str, Any]:
    command = f"python -m {_module(benchmark)} --seed {options.seed}"
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([command, *options.words]) + " --quick" * options.is_quick,
        "seed": options.seed,
        "commit": _git("rev-parse", "HEAD"),
        "is_dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "pyzmq", "msgpack")},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "n_cores": len(os.sched_getaffinity(0)),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def _module(benchmark: str) -> str:
    """Return the module that was run; by the benchmark's name if it was not run as a command."""
    spec = sys.modules["__main__"].__spec__
    is_ours = spec is not None and spec.name.startswith("benchmarks.")
    return spec.name if spec is not None and is_ours else f"benchmarks.bench_{benchmark}"


def _git(*arguments: str) -> str | None:
    """Run git in this checkout; None outside one, as in `benchmarks.compare`."""
    ran = subprocess.run(
        ["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip() if ran.returncode == 0 else None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _rounded(value: Any) -> Any:
    """Round floats to four digits; more would be noise."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def stop(message: str) -> None:
    """Stop a benchmark whose contenders disagree, since a fast wrong result is worthless."""
    sys.exit(f"the contenders disagree: {message}")
