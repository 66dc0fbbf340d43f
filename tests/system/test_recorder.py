"""The recorder as a process: kill -9, a full disk, and a replay that is narrated alike."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jsonschema
import pytest
import zmq

from contracts.clock import HostClock
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.manifest import Manifest
from contracts.narration_wire import load
from contracts.schemas import schema_of
from contracts.spikes import Hello, SpikeBatch
from contracts.wire import unpack
from stream_sources.journal import JournalSource
from stream_sources.publisher import SpikePublisher
from stream_sources.recordings.nwb import NwbSource
from tests.support.journals import BATCH_NS, RUN, batch, packed, population
from tests.support.processes import DEADLINE_S, Neurrate
from tests.support.wait_until import wait_until

ANY_PORT = "tcp://127.0.0.1:*"


@contextmanager
def sending() -> Iterator[str]:
    """Send batches, ten milliseconds of them in four, until the body ends."""
    addresses: list[str] = []
    must_stop = threading.Event()

    def send() -> None:
        with zmq.Context() as context:
            hello = Hello("probeA", RUN, "nwb:1", population())
            publisher = SpikePublisher(context, ANY_PORT, hello, HostClock())
            addresses.append(publisher.endpoint)
            seq = 0
            while not must_stop.wait(BATCH_NS / 4e9):
                publisher.send(batch(seq))
                seq += 1
            publisher.close(is_urgent=True)

    thread = threading.Thread(target=send, name="sending")
    thread.start()
    try:
        wait_until(lambda: addresses, what="a bound source")
        yield addresses[0]
    finally:
        must_stop.set()
        thread.join(DEADLINE_S)


def seqs_of(path: Path) -> list[int]:
    """Return the numbers of the batches in a journal, each of whose bytes is as it was sent."""
    seqs = []
    for message in JournalReader(path).messages(lambda origin, _: origin is Origin.SOURCE):
        value = unpack(message.parts)
        if isinstance(value, SpikeBatch):
            expected = packed(batch(value.seq), sent_host_ns=value.sent_host_ns)
            assert message.parts == expected
            seqs.append(value.seq)
    return seqs


def recorder(
    folder: Path, address: str, name: str, *words: object, before: Sequence[object] = ()
) -> Neurrate:
    return Neurrate(
        "record", folder / "j", "--spikes", address, "--min-free-mb", 1, *words,
        folder=folder, name=name, before=before,
    )  # fmt: skip


def test_recorder_that_is_killed_leaves_a_journal_without_a_hole(tmp_path: Path):
    """SIGKILL at random moments: whole messages in order; the next recorder goes on behind them."""
    chance = random.Random(0)
    with sending() as address:
        for number in range(3):
            path = tmp_path / "j" / f"part-{number:05d}.mcap"
            with recorder(tmp_path, address, f"r{number}", "--empty-connect") as process:
                process.addresses()
                wait_until(partial(seqs_of, path), deadline_s=DEADLINE_S, what="batches on disk")
                threading.Event().wait(chance.uniform(0, 0.7))
                process.signal(signal.SIGKILL)
                process.wait()
            seqs = seqs_of(path)
            assert seqs == list(range(seqs[0], seqs[-1] + 1))
    whole = seqs_of(tmp_path / "j")
    assert whole == sorted(set(whole))
    assert [one.seq for one in JournalSource(tmp_path / "j").batches()] == whole


def test_recording_is_written_as_nwb_when_it_ends(tmp_path: Path):
    """The spikes of the journal, in a file that reads as a recording."""
    out = tmp_path / "session.nwb"
    with (
        sending() as address,
        recorder(
            tmp_path, address, "r", "--empty-connect", "--seconds", 2, "--nwb", out
        ) as process,
    ):
        assert process.wait() == 0
    source = NwbSource(str(out))
    n_spikes = sum(batch.n_spikes for batch in JournalSource(tmp_path / "j").batches())
    assert sum(batch.n_spikes for batch in source.batches()) == n_spikes > 0
    source.close()


def test_full_disk_ends_the_recorder_and_says_what_is_lost(tmp_path: Path):
    """A limit on the size of files does what a full disk does; exit code 2."""
    limit = ("bash", "-c", 'exec > >(cat) 2>&1; ulimit -f 64; exec "$@"', "--")
    with (
        sending() as address,
        recorder(tmp_path, address, "r", "--empty-connect", before=limit) as process,
    ):
        assert process.wait() == 2
        assert "Cannot record to" in process.text()
        assert "file too large" in process.text()
        summary = process.summary()
    assert summary["n_unwritten"] > 0
    reader = JournalReader(tmp_path / "j")
    n_read = len(list(reader.messages()))
    assert n_read > 0
    assert [part.n_bytes_ignored for part in reader.unclosed] == [0]


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk that cannot be written to."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,ro", "tmpfs", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a disk needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_read_only_disk_is_refused(read_only_disk: Path):
    """Before anything is received, with the system's reason; exit code 2."""
    words = ("record", read_only_disk / "j", "--empty-connect", "--min-free-mb", 1)
    with Neurrate(*words, folder=read_only_disk.parent, name="r") as process:
        assert process.wait() == 2
        assert f"Cannot record to {read_only_disk}/j: read-only file system" in process.text()


@pytest.mark.timeout(3 * DEADLINE_S)
def test_replay_of_a_journal_is_narrated_in_the_same_words(
    tmp_path: Path, recording: Path, tiny_bundle: Manifest
):
    """Every window of every population: the same text from the recording and from its journal."""
    play = ("--speed", "max", "--bind", ANY_PORT, "--wait-subscribers")
    first = narrations_of(tmp_path, tiny_bundle, "live", ("nwb", recording, *play, 2))
    journal = tmp_path / "live-journal"
    again = narrations_of(tmp_path, tiny_bundle, "again", ("journal", journal, *play, 2))
    assert len(first) > 50
    assert again == first
    topics = set()
    for message in JournalReader(journal).messages():
        topics.add(message.topic)
        if message.origin is not Origin.SOURCE:
            jsonschema.validate(load(message.parts[1]), schema_of(message.kind))
    assert topics >= {"daemon", "stats", "units.nwb", "hello.nwb", "end.nwb", "recorder"}


def narrations_of(
    folder: Path, bundle: Manifest, name: str, source_words: tuple[object, ...]
) -> dict[tuple[str, int], str]:
    """Narrate and record a source; return the texts by population and window."""
    with Neurrate("stream", *source_words, folder=folder, name=f"{name}-source") as source:
        spikes = source.addresses()["spikes"]
        run = (
            "run", "--bundle", bundle.folder, "--connect", spikes, "--publish", ANY_PORT,
            "--narrator", "retrieval", "--populations", "all,VISp", "--set", "http.enabled=false",
            "--set", "handover.policy=all", "--exit-at-end",
        )  # fmt: skip
        with Neurrate(*run, folder=folder, name=f"{name}-daemon") as daemon:
            publish = daemon.addresses()["publish"]
            words = ("record", folder / f"{name}-journal", "--spikes", spikes)
            with Neurrate(
                *words, "--connect", publish, "--min-free-mb", 1, folder=folder, name=f"{name}-rec"
            ) as process:
                assert daemon.wait() == 0
                process.signal(signal.SIGINT)
                assert process.wait() == 0
                summary = process.summary()
    assert not any(summary["accounts"][kind] for kind in ("holes", "overflowed", "unreadable"))
    assert summary["accounts"]["n_spikes"] == 1200
    texts = {}
    for message in JournalReader(folder / f"{name}-journal").messages():
        if message.kind == "narration":
            content = load(message.parts[1])
            texts[content["population"], content["window"]["seq"]] = content["text"]
    return texts
