"""Two hundred single units: each narrated in its turn, and judged by a rule in every window.

    python -m benchmarks.single_units                         (two minutes)
    python -m benchmarks.single_units --quick                 (for tests)

What bounds it
--------------
The language model: of 64 sentences at once, whose populations take turns (`handover.populations`).
The encoder adds up over units, so that a population of one unit costs it a row of a few products.

The simulated animal and the trained encoder and language model of the package; two windows a
second; a rule on a probe for each unit. Source and daemon are processes of their own.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Figure, copy_bytes_per_s, figure, row
from benchmarks.record import Options, Result, read_options, report
from contracts.narration import latency_ms
from evaluation.simulated_encoder import SHIPPED_MODEL, write_shipped_bundle
from evaluation.trial import QUEUE_MESSAGES, TrialPlan, TrialResult, run_trial
from simulation.cortex.days import write_day

WINDOWS_PER_S = 2


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__)
    n_units, seconds = (70, 8.0) if options.is_quick else (200, 60.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = _plan(folder, n_units=n_units, seconds=seconds, seed=options.seed)
        result = run_trial(plan, folder / "trial", title="single units")
    return report(_result(result, plan, options), options)


def _plan(folder: Path, *, n_units: int, seconds: float, seed: int) -> TrialPlan:
    session = folder / "session.nwb"
    write_day(
        session, n_units=600, minutes=2, repeats=1, scene_frames=60, with_frames=False, seed=seed
    )
    manifest = write_shipped_bundle(folder / "bundle", command="benchmarks")
    units = manifest.population.units[:n_units]
    rules = folder / "rules.toml"
    rules.write_text(
        "".join(
            f"[triggers.unit{number}]\nwhen = 'probe \"car\" of unit{number} > 0.5'\n"
            for number in range(n_units)
        )
    )
    return TrialPlan(
        str(session),
        manifest.folder,
        str(SHIPPED_MODEL),
        {f"unit{number}": f"unit:{unit.unit_id}" for number, unit in enumerate(units)},
        stride_bins=round(manifest.window_spec.rate.bins_per_s / WINDOWS_PER_S),
        seconds=seconds,
        settings=(f"triggers.rules={rules}",),
        queue_messages=QUEUE_MESSAGES,
    )


def _result(result: TrialResult, plan: TrialPlan, options: Options) -> Result:
    narrations = result.narrations.values()
    ms = [latency_ms(narration.stamps) for narration in narrations]
    total_ns: NDArray[np.int64] = np.array([1e6 * one["total"] for one in ms], dtype=np.int64)
    n_windows = result.n_windows
    each = Counter(narration.population for narration in narrations)
    per_unit = [each[name] for name in plan.populations]
    case = f"{len(plan.populations)} single units"
    figures: list[Figure] = [
        figure(case, name, np.array([value]))
        for name, value in (
            ("windows", n_windows),
            ("windows judged by the rules, share", result.counters["windows_encoded"] / n_windows),
            ("windows narrated", len({seq for seq, _ in result.narrations})),
            ("narrations", len(ms)),
            ("narrations of the unit with fewest", min(per_unit)),
            ("narrations of the unit with most", max(per_unit)),
            ("fewest / most", min(per_unit) / max(per_unit)),
            ("triggers", len(result.triggers)),
        )
    ]
    return Result(
        benchmark="single_units",
        parameters={"windows_per_s": WINDOWS_PER_S, "seconds": plan.seconds},
        limits={"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)},
        rows=[row(case, "narration", total_ns)],
        figures=figures,
    )


if __name__ == "__main__":
    sys.exit(main())
