"""Run the cases, and write the table."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluation.faults.case import FaultCase, FaultResult
from evaluation.faults.inputs import FaultInputs
from evaluation.faults.trial import FaultTrial


def run_cases(
    cases: Sequence[FaultCase], inputs: FaultInputs, folder: Path, *, n_at_once: int
) -> Iterator[FaultResult]:
    """Run cases, several at once, each in a folder of its own; yield them in their order."""
    with ThreadPoolExecutor(n_at_once) as pool:
        yield from pool.map(lambda case: run_case(case, inputs, folder / case.name), cases)


def run_case(case: FaultCase, inputs: FaultInputs, folder: Path) -> FaultResult:
    """Run one case; whatever it raises is its result."""
    begun = time.monotonic()
    trial = FaultTrial(inputs, folder)
    error = ""
    try:
        with trial:
            case.run(trial)
    except Exception:  # a failed case must not keep the others from being tried
        error = traceback.format_exc()
    return FaultResult(case, trial.observations, error, time.monotonic() - begun)
