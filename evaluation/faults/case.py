"""The table's rows: a function that makes a fault happen, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evaluation.faults.observations import Observations
from evaluation.faults.trial import FaultTrial

Run = Callable[[FaultTrial], None]


@dataclass(frozen=True, slots=True)
class FaultCase:
    """One fault."""

    lost: str  # What is gone, and what is not
    tests: Sequence[str]  # ``FILE::NAME`` below tests/
    run: Run

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.run.__name__

    @property
    def title(self) -> str:
        """What happens, as an operator would say it."""
        return (self.run.__doc__ or "").strip().rstrip(".")

    @property
    def section(self) -> str:
        """Name of the module that it stands in."""
        return self.run.__module__.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class FaultResult:
    """What became of one case; `error` is empty if every expectation was met."""

    case: FaultCase
    observations: Observations
    error: str
    seconds: float


SECTIONS = {
    "sources": "Sources",
    "rigs": "Acquisition systems, as `neurrate emulate` plays them",
    "peers": "Peers at an address that the daemon listens to",
    "narrator": "The narrator",
    "subscribers": "Subscribers",
    "daemon": "The daemon",
    "machine": "Files, disks, pipes, servers",
}
"""Modules of `evaluation.faults.cases` and their titles, in the order of the page."""

ADDED: list[FaultCase] = []
"""In the order in which the modules are imported."""


def fault(*, lost: str, tests: Sequence[str]) -> Callable[[Run], Run]:
    """Make a function a case of the table; its docstring says what happens."""

    def add(run: Run) -> Run:
        ADDED.append(FaultCase(lost, tests, run))
        return run

    return add
