"""neurrate-client on both sides of a running daemon: its source, and its subscriber."""

from __future__ import annotations

import time
from pathlib import Path

import neurrate_client as client

from contracts.manifest import Manifest
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.tiny_bundle import tiny_population

BATCH_NS = 20_000_000


def test_a_daemon_between_a_source_and_a_subscriber_of_the_client(
    tmp_path: Path, tiny_bundle: Manifest
):
    """It narrates what the source sends, passes its marks and units on, and drops nothing."""
    units = [
        client.Unit(unit.unit_id, unit.probe, unit.area, unit.cell_type, unit.quality)
        for unit in tiny_population().units
    ]
    with client.Publisher("tcp://127.0.0.1:0", stream="rig", units=units, lossless=True) as source:
        run = (
            "run", "--bundle", tiny_bundle.folder, "--connect", source.address,
            "--publish", "tcp://127.0.0.1:*", "--narrator", "retrieval", "--set", "http.port=0",
        )  # fmt: skip
        with Neurrate(*run, folder=tmp_path, name="daemon") as daemon:
            with client.Subscriber(daemon.addresses()["publish"]) as subscriber:
                assert source.wait_for_subscriber(DEADLINE_S)
                source.mark(0, 10**9, "movie", 3, frame=17)
                seen = _until_all_came(source, subscriber)
            assert set(seen) == {"Narration", "Mark", "Units", "Statistics", "Daemon"}
            narration, mark, table = seen["Narration"], seen["Mark"], seen["Units"]
            assert isinstance(narration, client.Narration)
            assert isinstance(mark, client.Mark)
            assert isinstance(table, client.Units)
            assert narration.status == "ok"
            assert (mark.run, mark.stimulus, mark.frame) == (source.run, "movie", 17)
            assert table.unit_id == tuple(unit.unit_id for unit in units)
            statistics = seen["Statistics"]
            assert isinstance(statistics, client.Statistics)
            errors = statistics.counters["wire_errors"]
            assert isinstance(errors, dict)
            assert set(errors.values()) == {0}
            assert subscriber.reader.n_unreadable == subscriber.reader.n_lost == 0


def _until_all_came(
    source: client.Publisher, subscriber: client.Subscriber
) -> dict[str, client.Event]:
    """Send spikes until a message of each kind has come; return the last of each."""
    seen: dict[str, client.Event] = {}
    deadline_s = time.monotonic() + DEADLINE_S
    start_ns = 0
    while len(seen) < 5 and time.monotonic() < deadline_s:
        times = range(start_ns, start_ns + BATCH_NS, BATCH_NS // 12)
        source.batch(start_ns, start_ns + BATCH_NS, times[:12], range(12))
        start_ns += BATCH_NS
        while (event := subscriber.receive(0.005)) is not None:
            seen[type(event).__name__] = event
    return seen
