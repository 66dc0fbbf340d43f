"""Marks and unit facts from a recording to a subscriber of the daemon: one socket for a display."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np

from contracts.manifest import Manifest
from contracts.spikes import Hello, Mark
from subscribers.listener import MARK_TOPICS, UNITS_TOPICS, Listener
from tests.support.nwb_files import write_presentations
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until

N_MARKS = 60


def test_marks_reach_a_subscriber_of_the_daemon_in_order(
    tmp_path: Path, recording: Path, tiny_bundle: Manifest
):
    """Every presentation to the nanosecond, and where the units are; who is late gets the last."""
    path = Path(shutil.copy(recording, tmp_path / "session.nwb"))
    start_s = 0.5 + 0.25 * np.arange(N_MARKS)
    frames = np.arange(N_MARKS)
    write_presentations(
        path, "movie_presentations", start_time=start_s, stop_time=start_s + 0.25, frame=frames
    )
    with h5py.File(path, "a") as file:
        file["session_start_time"] = "2019-01-19T00:54:18-08:00"
        file["units/depth_um"] = 20.0 * np.arange(len(file["units/id"]))
    spikes = ("stream", "nwb", path, "--bind", "tcp://127.0.0.1:*", "--wait-subscribers", 2)
    with Neurrate(*spikes, "--speed", 10, folder=tmp_path, name="source") as source:
        address = source.addresses()["spikes"]
        run = (
            "run", "--bundle", tiny_bundle.folder, "--connect", address,
            "--publish", "tcp://127.0.0.1:*", "--narrator", "retrieval", "--set", "http.port=0",
        )  # fmt: skip
        with Neurrate(*run, folder=tmp_path, name="daemon") as daemon:
            publish = daemon.addresses()["publish"]
            topics = MARK_TOPICS + UNITS_TOPICS
            marks, hellos = [], []
            with (
                Listener(publish, topics, setting="--connect") as listener,
                Listener(address, (b"spikes.",), setting="--connect"),
            ):

                def have_all_come() -> bool:
                    for received in listener.messages():
                        if isinstance(received.value, Mark) and not received.is_repeat:
                            marks.append(received.value)
                        elif isinstance(received.value, Hello):
                            hellos.append(received.value)
                    return len(marks) == N_MARKS

                wait_until(have_all_come, deadline_s=DEADLINE_S, what="marks")
                assert listener.n_unreadable == 0
            assert [mark.frame for mark in marks] == list(range(N_MARKS))
            assert [mark.start_ns for mark in marks] == [round(s * 1e9) for s in start_s]
            assert {(mark.stream, mark.stimulus) for mark in marks} == {("nwb", "movie")}
            assert hellos[0].session_start_utc == "2019-01-19T08:54:18Z"
            assert "depth_um: units/depth_um" in hellos[0].table
            units = hellos[0].population.units
            assert [unit.depth_um for unit in units] == [20.0 * row for row in range(len(units))]
            with Listener(publish, topics, setting="--connect") as late:
                values: list[object] = []

                def is_told() -> bool:
                    values.extend(received.value for received in late.messages())
                    return len(values) >= 2

                wait_until(is_told, deadline_s=DEADLINE_S, what="the last mark and the units")
            assert marks[-1] in values
            assert hellos[0] in values
