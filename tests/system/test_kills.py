"""Every process killed at random moments: nothing is left, nothing is lost unseen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from contracts.clock import NS_PER_S
from contracts.manifest import Manifest
from evaluation import journals
from evaluation.faults.inputs import FaultInputs
from evaluation.faults.kills import PROCESSES, run_rounds, totals
from tests.support.nwb_files import write_units
from tests.support.tiny_bundle import tiny_population

N_ROUNDS = 3
"""Kills of each process; scripts/faults.py kills fifty times."""

BUSY_NS = 10 * NS_PER_S

SECONDS = 600.0
"""Of the recording: no source ends before it is asked to."""


def test_killed_processes_leave_nothing_and_lose_nothing_unseen(
    tiny_bundle: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """kill -9 of each process: no orphan, no leftover, all that is missing is counted."""
    # scripts/faults.py allows the recorder a second, of which a busy machine may take all.
    for name in ("LOST_BEFORE_KILL_NS", "CONNECTED_NS"):
        monkeypatch.setattr(journals, name, BUSY_NS)
    population = tiny_population()
    rng = np.random.default_rng(0)
    recording = write_units(
        tmp_path / "session.nwb",
        [np.sort(rng.random(3_000) * SECONDS) for _ in population.units],
        ids=[int(unit.unit_id) for unit in population.units],
        columns={"probe": [unit.probe for unit in population.units]},
    )
    inputs = FaultInputs(recording, tiny_bundle.folder, population)
    with tempfile.TemporaryDirectory(prefix="kills-") as short:  # paths of sockets end at 107 bytes
        rounds = run_rounds(N_ROUNDS, inputs, Path(short), seed=0, n_at_once=2)
        counts = totals(list(rounds))
    assert set(counts.kills) == set(PROCESSES)
    assert all(n >= N_ROUNDS for n in counts.kills.values())
    assert counts.spikes["received"] > 0
    assert counts.n_batches_lost == 0
    assert counts.recorded["batches"] > 0
    assert counts.lost_before_kill_s <= 1
