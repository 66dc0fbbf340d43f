"""The recorder of a soak, which may be killed and started again, and what its journal has."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.clock import NS_PER_S, Clock
from evaluation.journals import Missing, Outage, Sent, missing_from, read_journal
from evaluation.processes import Child, read_json
from evaluation.trial import END_S, START_S, Trial

MIN_FREE_MB = 200


class SoakRecorder:
    """``neurrate record`` of every source and of the daemon of a trial; `stack` ends the process.

    Attributes
    ----------
    outages : list of Outage
        Of those that were killed here; the last one ends when its successor records.
    """

    def __init__(
        self, journal: Path, trial: Trial, folder: Path, clock: Clock, stack: ExitStack
    ) -> None:
        self.journal = journal
        self.outages: list[Outage] = []
        self._folder = folder
        self._clock = clock
        self._stack = stack
        self._words = [
            "record", str(journal), "--min-free-mb", str(MIN_FREE_MB), "--connect", trial.publish,
            *(word for address in trial.all_spikes for word in ("--spikes", address)),
        ]  # fmt: skip
        self._killed_ns: int | None = None
        self._n_started = 0
        self._child: Child | None = None
        self.start().addresses(deadline_s=START_S)

    @property
    def pid(self) -> int | None:
        """Process id; None while there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> Child:
        """Start it; it loads for a second or two."""
        self._name = f"recorder{self._n_started or ''}"
        self._n_started += 1
        child = Child(self._name, self._words, self._folder)
        self._child = self._stack.enter_context(child)
        return child

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._child is not None:
            self._killed_ns = self._clock.now_ns()
            self._child.kill()
            self._child = None

    def check(self) -> None:
        """Raise its error, if it has ended with one and nobody killed it."""
        if self._child is not None:
            self._child.check()

    def is_back(self) -> bool:
        """Whether the successor of one that was killed has begun to record; true once."""
        if self._killed_ns is None or self._child is None or not self._child.is_up:
            return False
        self.outages.append(Outage(self._killed_ns, self._clock.now_ns()))
        self._killed_ns = None
        return True

    def stop(self) -> dict[str, Any]:
        """Ask it to stop, and return its summary; empty if there is none."""
        if self._child is None:
            self.outages.append(Outage(self._killed_ns or 0, self._clock.now_ns()))
            return {}
        self._child.addresses(deadline_s=START_S)
        self.is_back()
        self._child.ask_to_stop()
        self._child.wait(deadline_s=END_S)
        return dict(read_json(self._folder / f"{self._name}.json"))


@dataclass(frozen=True, slots=True)
class SoakJournal:
    """What the journal of a soak has, and what of it is missing."""

    n_batches_sent: int
    n_spikes_sent: int  # By what this process received
    n_published: int  # Narrations and triggers
    n_batches: int
    n_spikes: int
    n_bytes: int
    n_parts: int
    n_unclosed: int
    holes: Mapping[str, int]  # Counted from the journal's own messages
    unrecorded_s: float  # From a kill until the next recorder had begun
    missing: Missing
    # What the recorder that ended last has counted; empty if it was killed
    accounts: Mapping[str, Any]


def soak_journal(recorder: SoakRecorder, sent: Sent, ended: Mapping[str, Any]) -> SoakJournal:
    """Compare the journal with what was sent; `ended` is what the last recorder wrote."""
    journal = read_journal(recorder.journal)
    outages = recorder.outages
    return SoakJournal(
        n_batches_sent=sent.batches.n_batches,
        n_spikes_sent=sent.batches.n_spikes,
        n_published=len(sent.published_ns),
        n_batches=journal.batches.n_batches,
        n_spikes=journal.batches.n_spikes,
        n_bytes=journal.n_bytes,
        n_parts=journal.n_parts,
        n_unclosed=journal.n_unclosed,
        holes=dict(journal.accounts.holes),
        unrecorded_s=sum(one.again_ns - one.killed_ns for one in outages) / NS_PER_S,
        missing=missing_from(journal, sent, outages),
        accounts=ended.get("accounts", {}),
    )
