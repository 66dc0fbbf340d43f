"""Kill every process with SIGKILL at random moments, and account for what is left and lost.

A round kills the daemon at a random moment, also while it starts, then the source, the recorder,
the narrator worker and a subscriber of its successor in random order, starts each of them again,
and ends source, daemon and recorder gently. It checks:

1. no process of the round is left;
2. no file, socket or shared memory is left, once the next daemon has started and ended;
3. every spike that a living daemon received is binned, or counted as late or unknown, and of the
   source that was started last every spike that it sent was received;
4. a subscriber that is not killed sees every narration: ``seq`` has no hole;
5. the journal is readable, with every batch and narration but those of the last second before a
   kill, and those that were sent while no recorder ran; its numbers have holes of as many.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from contracts.narration import Narration
from contracts.statistics import Statistics
from evaluation.faults.inputs import FaultInputs
from evaluation.faults.observations import expect, wait_for
from evaluation.faults.recorded import N_SUBSCRIBERS, RoundRecorder
from evaluation.faults.trial import FaultDaemon, FaultProcess, FaultTrial
from evaluation.journals import Outage
from subscribers.listener import ANY_NUMBER, NARRATION_TOPICS, Listener

STARTING_SHARE = 0.4
STARTING_S = 3.0
"""This share of the daemons is killed so soon after its start: it listens after two or three."""

NARRATING_S = (1.0, 2.5)
"""The others are killed so long after their first narrations; statistics come every second."""

BETWEEN_S = 0.5
"""Longest time between the other kills."""

SPIKES = ("received", "binned", "late", "unknown")

PROCESSES = ("daemon", "source", "worker", "subscriber", "recorder")

SHARED_MEMORY = Path("/dev/shm")


@dataclass(slots=True)
class RoundCounts:
    """What one round counted."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    n_killed_while_starting: int = 0
    spikes: Counter[str] = field(default_factory=Counter)
    n_batches_lost: int = 0
    n_narrations: int = 0
    recorded: Counter[str] = field(default_factory=Counter)
    lost_before_kill_s: float = 0.0  # At most, before a kill of the recorder
    seconds: float = 0.0


def run_rounds(
    n_rounds: int, inputs: FaultInputs, folder: Path, *, seed: int, n_at_once: int
) -> Iterator[RoundCounts]:
    """Run rounds, several at once; yield what they counted, in their order.

    Raises
    ------
    ExpectationError, ChildError
        If a round finds what it should not, with the seed of that round.
    """
    with ThreadPoolExecutor(n_at_once) as pool:
        yield from pool.map(
            lambda number: run_round(inputs, folder / f"round-{number}", seed=seed + number),
            range(n_rounds),
        )


def run_round(inputs: FaultInputs, folder: Path, *, seed: int) -> RoundCounts:
    """Kill each process once."""
    begun = time.monotonic()
    counts = RoundCounts(seed)
    random = Random(seed)
    shared = set(SHARED_MEMORY.iterdir())
    with FaultTrial(inputs, folder) as trial:
        address = trial.address()
        source = _source(trial, address)
        with ExitStack() as stack:
            recorder = RoundRecorder(trial, address, publish=trial.address())
            stack.callback(recorder.close)
            _kill_a_daemon(trial, recorder, counts, random)
            round_ = _Round(trial, source, recorder, counts, random)
            stack.callback(round_.close)
            round_.kill_the_others()
            round_.end_gently()
            _count_recorded(recorder, counts)
        trial.leaves_no_process()
        left = sorted(path.name for path in trial.temporary.iterdir())
        expect(not left, f"no temporary file after the next start, got {left}")
    wait_for(
        lambda: True if set(SHARED_MEMORY.iterdir()) <= shared else None,
        lambda: f"no shared memory left, got {set(SHARED_MEMORY.iterdir()) - shared}",
    )
    counts.seconds = time.monotonic() - begun
    return counts


def _source(trial: FaultTrial, address: str) -> FaultProcess:
    return trial.source(address, "--wait-subscribers", N_SUBSCRIBERS)


def _kill_a_daemon(
    trial: FaultTrial, recorder: RoundRecorder, counts: RoundCounts, random: Random
) -> None:
    """Kill the first daemon, while it starts or while it narrates."""
    daemon = trial.daemon(recorder.source, publish=recorder.publish)
    counts.kills["daemon"] += 1
    if random.random() < STARTING_SHARE:
        time.sleep(random.uniform(0, STARTING_S))
        daemon.child.kill()
        counts.n_killed_while_starting += 1
        return
    with Listener(
        daemon.narrates().publish, NARRATION_TOPICS, setting="kills", queue=ANY_NUMBER
    ) as listener:
        time.sleep(random.uniform(*NARRATING_S))
        killed_ns = time.monotonic_ns()
        daemon.child.kill()
        recorder.of_daemons.append(Outage(killed_ns, time.monotonic_ns()))
        for message in listener.messages():
            recorder.sent.take(message)
            if isinstance(message.value, Statistics):
                _check_sum(message.content["counters"])


def _count_recorded(recorder: RoundRecorder, counts: RoundCounts) -> None:
    journal, missing = recorder.end()
    counts.kills["recorder"] += len(recorder.killed_ns)
    counts.lost_before_kill_s = missing.lost_before_kill_s
    n_sent = recorder.sent.batches.n_batches
    counts.recorded.update(
        sent=n_sent,
        batches=n_sent - missing.n_batches,
        missing=missing.n_batches,
        holes=journal.accounts.holes["spikes"],
        parts=journal.n_parts,
        unclosed=journal.n_unclosed,
    )


def _check_sum(counters: Mapping[str, Any]) -> None:
    """Check that every spike that a daemon has received is accounted for."""
    received, binned, late, unknown = (counters[f"spikes_{name}"] for name in SPIKES)
    text = f"{received} received = {binned} binned + {late} late + {unknown} unknown"
    expect(received == binned + late + unknown, text)


class _Round:
    """The second daemon of a round, and who is killed around it."""

    def __init__(
        self,
        trial: FaultTrial,
        source: FaultProcess,
        recorder: RoundRecorder,
        counts: RoundCounts,
        random: Random,
    ) -> None:
        self._trial = trial
        self._source = source
        self._recorder = recorder
        self._counts = counts
        self._random = random
        self._daemon: FaultDaemon = trial.daemon(recorder.source, publish=recorder.publish)
        self._received_before = 0
        self._subscriber = trial.subscriber(self._daemon.publish)
        self._listener = Listener(
            self._daemon.publish, NARRATION_TOPICS, setting="kills", queue=ANY_NUMBER
        )
        self._seqs: list[int] = []

    def close(self) -> None:
        """End the subscribers: that of this process, and the newest of its own."""
        self._listener.close()
        self._subscriber.child.kill()

    def kill_the_others(self) -> None:
        """Kill all but the daemon in random order; all must be back at the end."""
        self._daemon.narrates()
        kinds = ["source", "worker", "subscriber", "recorder"]
        self._random.shuffle(kinds)
        for kind in kinds:
            time.sleep(self._random.uniform(0, BETWEEN_S))
            {
                "source": self._kill_source,
                "worker": self._kill_worker,
                "subscriber": self._kill_subscriber,
                "recorder": self._kill_recorder,
            }[kind]()
        self._daemon.narrates()
        self._daemon.is_ready()
        wait_for(
            lambda: True if "all:" in self._subscriber.child.text() else None,
            lambda: f"narrations at the new subscriber: {self._subscriber.child.text()!r}",
        )

    def end_gently(self) -> None:
        """Stop source and daemon, and compare what they counted."""
        sent = self._trial.ends_with_every_spike(self._daemon, self._source)
        counters = self._daemon.summary()["counters"]
        received = counters["spikes_received"] - self._received_before
        expect(received == sent, f"{sent} spikes of the new source, got {received}")
        for name in SPIKES:
            self._counts.spikes[name] += counters[f"spikes_{name}"]
        self._counts.n_batches_lost += counters["batches_lost"]
        self._read()
        n_published = sum(counters["narrations"].values())
        expected = list(range(self._seqs[0], n_published))
        expect(self._seqs == expected, f"narrations {expected}, got {self._seqs}")
        self._counts.n_narrations += n_published

    def _kill_source(self) -> None:
        killed_ns = time.monotonic_ns()
        self._source.child.kill()
        self._counts.kills["source"] += 1
        self._recorder.of_sources.append(Outage(killed_ns, time.monotonic_ns()))
        self._received_before = self._trial.settled(self._daemon, "neurrate_spikes_received_total")
        self._source = _source(self._trial, self._recorder.source)

    def _kill_worker(self) -> None:
        os.kill(self._daemon.worker_pid, signal.SIGKILL)
        self._counts.kills["worker"] += 1

    def _kill_subscriber(self) -> None:
        self._subscriber.child.kill()
        self._counts.kills["subscriber"] += 1
        self._subscriber = self._trial.subscriber(self._daemon.publish)

    def _kill_recorder(self) -> None:
        self._recorder.kill(self._random)

    def _read(self) -> None:
        for message in self._listener.messages(wait_ms=1000):
            self._recorder.sent.take(message)
            if isinstance(message.value, Narration):
                self._seqs.append(message.value.seq)


def totals(rounds: Sequence[RoundCounts]) -> RoundCounts:
    """Add up what rounds counted."""
    total = RoundCounts(rounds[0].seed)
    for one in rounds:
        total.kills.update(one.kills)
        total.spikes.update(one.spikes)
        total.n_killed_while_starting += one.n_killed_while_starting
        total.n_batches_lost += one.n_batches_lost
        total.n_narrations += one.n_narrations
        total.recorded.update(one.recorded)
        total.lost_before_kill_s = max(total.lost_before_kill_s, one.lost_before_kill_s)
        total.seconds += one.seconds
    return total
