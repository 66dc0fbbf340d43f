"""Try every fault on real processes and write docs/faults.md: ``python scripts/faults.py``.

Fifteen minutes on two quiet cores, half of them for the kills. With ``--only`` nothing is written,
but for ``--only-kills``, which writes that part of the page anew.
Exit code 1 if anything was not as expected; then nothing is written either.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import NeurrateError
from evaluation.faults.case import FaultResult
from evaluation.faults.cases import CASES
from evaluation.faults.inputs import prepare_fault_inputs
from evaluation.faults.kills import RoundCounts, run_rounds
from evaluation.faults.page import make_page, with_kills
from evaluation.faults.run import run_cases

PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
COMMAND = "python scripts/faults.py"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of cases, or parts of them")
    parser.add_argument("--only-kills", action="store_true", help="no case, and the kills anew")
    parser.add_argument("--kills", type=int, default=50, help="times that each process is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the first round of kills")
    parser.add_argument("--jobs", type=int, default=2, help="cases or rounds at once")
    parser.add_argument("--folder", type=Path, help="where logs are kept; else a temporary folder")
    options = parser.parse_args()
    parts = [] if options.only_kills else options.only
    is_whole = parts is None
    chosen = [case for case in CASES if parts is None or any(part in case.name for part in parts)]
    results, rounds, problem = [], [], ""
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = options.folder or Path(temporary)
        inputs = prepare_fault_inputs(Path(temporary))
        for result in run_cases(chosen, inputs, folder, n_at_once=options.jobs):
            results.append(result)
            print_result(result)
        try:
            for one in run_rounds(
                options.kills, inputs, folder, seed=options.seed, n_at_once=options.jobs
            ):
                rounds.append(one)
                print_round(one)
        except NeurrateError as error:
            problem = str(error)
            print(f"FAILED round {options.seed + len(rounds)}: {problem}", flush=True)
    n_failed = sum(bool(result.error) for result in results)
    print(f"{len(results) - n_failed} of {len(results)} faults, {len(rounds)} rounds as expected")
    if n_failed or problem:
        return 1
    date = datetime.now(UTC).date().isoformat()
    if options.only_kills:
        page = PAGE.read_text(encoding="utf-8")
        page = with_kills(page, rounds, date=date, command=f"{COMMAND} --only-kills")
        PAGE.write_text(page, encoding="utf-8")
    elif is_whole:
        PAGE.write_text(make_page(results, rounds, date=date, command=COMMAND), encoding="utf-8")
    return 0


def print_result(result: FaultResult) -> None:
    """Print what was observed of one fault."""
    print(f"{'FAILED' if result.error else 'ok':6} {result.seconds:5.1f} s {result.case.name}")
    seen = result.observations
    for quote in (*seen.sees, *seen.counted, *seen.lost):
        print(f"         {quote}")
    print(result.error, end="", flush=True)


def print_round(counts: RoundCounts) -> None:
    """Print what one round of kills counted."""
    received, binned = counts.spikes["received"], counts.spikes["binned"]
    print(
        f"ok     {counts.seconds:5.1f} s round {counts.seed}: {binned} of {received} spikes binned"
    )


if __name__ == "__main__":
    sys.exit(main())
