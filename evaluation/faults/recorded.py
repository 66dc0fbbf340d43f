"""The recorder of a round of kills: what its journal has of what source and daemons sent."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Event, Thread

import numpy as np

from contracts.journal import Origin, parts_of
from contracts.journal_reader import JournalReader
from evaluation.faults.observations import DEADLINE_S, expect, wait_for
from evaluation.faults.trial import FaultProcess, FaultTrial
from evaluation.journals import (
    Journal,
    Missing,
    Outage,
    Sent,
    SpikeWitness,
    missing_from,
    read_journal,
)

STARTING_SHARE = 0.3
STARTING_S = 2.0
"""This share of the recorders is killed again so soon after its start: it records after one."""

BACK_SHARE = 0.5
"""So often nothing else is killed before it is back: only then do numbers show a hole."""

WATCH_MS = 50

N_SUBSCRIBERS = 3
"""Of the source: a daemon, the recorder, and the witness. It waits for all of them at each start,
so that each receives whatever it sends."""


class RoundRecorder:
    """A recorder of sources at one address and of daemons at another, and a witness of the sources.

    Attributes
    ----------
    of_sources, of_daemons : list of Outage
        Those that were killed meanwhile.
    killed_ns : list of int
        When it was killed itself, host clock.
    """

    def __init__(self, trial: FaultTrial, source: str, publish: str) -> None:
        self.source, self.publish = source, publish
        self.sent = Sent()
        self.of_sources: list[Outage] = []
        self.of_daemons: list[Outage] = []
        self.killed_ns: list[int] = []
        self._trial = trial
        self._must_end = Event()
        self._witness = Thread(target=self._watch, name="witness")
        self._witness.start()
        self._process = self._start()
        self._is_up()

    def kill(self, random: Random) -> None:
        """Kill it and start it again; some are killed again while they start."""
        self._kill()
        self._process = self._start()
        if random.random() < STARTING_SHARE:
            time.sleep(random.uniform(0, STARTING_S))
            self._kill()
            self._process = self._start()
        if random.random() < BACK_SHARE:
            self._is_up()

    def end(self) -> tuple[Journal, Missing]:
        """Stop it gently, and check what is in its journal."""
        self._is_up()
        self._process.child.ask_to_stop()
        self._process.child.wait(deadline_s=DEADLINE_S)
        accounts = self._process.summary()["accounts"]
        expect(not accounts["overflowed"], f"no overflow, got {accounts}")
        self.close()
        journal = read_journal(self._trial.journal)
        missing = missing_from(
            journal,
            self.sent,
            self._outages(),
            of_sources=self.of_sources,
            of_daemons=self.of_daemons,
        )
        self._check(journal, missing)
        return journal, missing

    def close(self) -> None:
        """End the witness."""
        self._must_end.set()
        self._witness.join()

    def _watch(self) -> None:
        """Note what sources send, on a thread: whoever does not read is not subscribed again."""
        with closing(SpikeWitness((self.source,), self.sent)) as witness:
            while not self._must_end.is_set():
                witness.read(wait_ms=WATCH_MS)
            witness.read()

    def _check(self, journal: Journal, missing: Missing) -> None:
        for run in journal.batches.runs:
            seqs = journal.batches.table(run)[:, 0]
            expect((np.diff(seqs) > 0).all(), f"the batches of {run} in order, got {seqs.tolist()}")
        expect(
            not missing.n_batches_unexplained + missing.n_published_unexplained,
            f"nothing lost but a second before a kill, and until the next start: {missing}",
        )
        expect(not missing.n_changed, f"every batch as it was sent: {missing}")
        # After the last number of a source that was killed, and before the first one of a source
        # that began without a recorder, no number shows what is missing.
        holes = journal.accounts.holes["spikes"]
        expect(
            missing.n_batches_between <= holes <= missing.n_batches,
            f"holes of all that is missing: {holes}, {missing}",
        )
        expect(not journal.accounts.unreadable, f"whole messages: {journal.accounts}")
        expect(journal.n_unclosed <= len(self.killed_ns), f"{journal.n_unclosed} parts not closed")

    def _outages(self) -> list[Outage]:
        """Return when no recorder ran: from each kill until the next one wrote of itself."""
        begun = sorted(filter(None, map(_begun_ns, parts_of(self._trial.journal))))
        outages: list[Outage] = []
        for killed_ns in self.killed_ns:
            if outages and killed_ns < outages[-1].again_ns:
                continue  # it had not begun when it was killed again
            outages.append(Outage(killed_ns, min(ns for ns in begun if ns > killed_ns)))
        return outages

    def _is_up(self) -> None:
        wait_for(lambda: self._process.child.is_up or None, lambda: "a recorder that has begun")

    def _start(self) -> FaultProcess:
        return self._trial.recorder(self.source, self.publish)

    def _kill(self) -> None:
        self.killed_ns.append(time.monotonic_ns())
        self._process.child.kill()


def _begun_ns(part: Path) -> int | None:
    """Return when the recorder of a part wrote of itself first; None if it was killed before."""
    messages = JournalReader(part).messages(lambda origin, _: origin is Origin.RECORDER)
    return next((message.host_ns for message in messages), None)
