"""docs/wire-format.md is true: its test vectors, its limits, its reasons and its publisher."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest

from contracts import clock, population, spikes, wire, wire_header
from contracts.population import Population, Unit
from contracts.spikes import ClockEcho, Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from contracts.wire import pack, unpack
from daemon.counters import Counters
from daemon.ingest import Ingest
from daemon.stream_registry import StreamRegistry
from tests.support.manual_clock import ManualClock
from tests.support.wait_until import wait_until
from tests.support.wire_messages import is_same

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
RUN = "0123456789abcdef"

VECTORS: dict[str, SourceMessage] = {
    "spikes: three, the last one on the last nanosecond": SpikeBatch(
        "probeA", RUN, 7, 1_000_000_000, 1_010_000_000,
        np.array([1_000_000_000, 1_005_000_000, 1_009_999_999], np.int64),
        np.array([1, 0, 100_000], np.uint32), sent_host_ns=123_456_789,
    ),
    "spikes: none, and the answer to a ping": SpikeBatch(
        "probeA", RUN, 8, 1_010_000_000, 1_020_000_000,
        np.empty(0, np.int64), np.empty(0, np.uint32), sent_host_ns=134_456_789,
        echo=ClockEcho(81_985_529_216_486_895, 131_072_000),
    ),
    "spikes: none, before the session's zero": SpikeBatch(
        "rig-1_b", RUN, 0, -10_000_000, 0, np.empty(0, np.int64), np.empty(0, np.uint32)
    ),
    "hello: two units": Hello(
        "probeA", RUN, "nwb:715093703",
        Population([Unit("950901", "probeA"), Unit("950902", "probeA", "VISp", "PV", "good")]),
        next_seq=7,
    ),
    "hello: an id outside ASCII": Hello("probeA", RUN, "", Population([Unit('é"😀')])),
    "hello: of a source that waits": Hello(
        "probeA", RUN, "", Population([Unit("950901", "probeA")]), is_lossless=True
    ),
    "hello: of a source that answers pings": Hello(
        "probeA", RUN, "", Population([Unit("950901", "probeA")]), clock_id="fedcba9876543210"
    ),
    "hello: where its units are": Hello(
        "probeA", RUN, "nwb:715093703",
        Population([
            Unit("950901", "probeA", "VISp", "PV", "good", 120, 812.5, 43.0, 1240.0),
            Unit("950902", "probeA", channel=121),
        ]),
        session_start_utc="2019-01-19T08:54:18Z",
        table="units of session_715093703.nwb",
    ),
    "mark: a frame and its caption": Mark(
        "probeA", RUN, 1_000_000_000, 1_033_333_333, "natural_movie_one", 42, 17, "A car."
    ),
    "mark: neither frame nor caption": Mark("probeA", RUN, -5, 5, "spontaneous", 0),
    "end: totals": StreamEnd("probeA", RUN, 8, 2**40),
}  # fmt: skip


def printed() -> dict[str, list[bytes]]:
    """Return the messages that the document prints, by their headings."""
    section = DOCUMENT.partition("## Test vectors")[2]
    blocks = re.findall(r"^### (.+?)\n.*?^```hex\n(.*?)^```", section, flags=re.M | re.S)
    return {
        name: [bytes.fromhex(line.partition(":")[2]) for line in block.splitlines()]
        for name, block in blocks
    }


def as_text(name: str) -> str:
    """Return a message as the document prints it: what it says, then its parts."""
    message = VECTORS[name]
    parts = [bytes(part) for part in pack(message)]
    says = [json.dumps(msgpack.unpackb(parts[1]), ensure_ascii=False)]
    if isinstance(message, SpikeBatch):
        says.append(f"times {message.spike_time_ns.tolist()}, units {message.unit_index.tolist()}")
    labels = ("topic ", "header", "times ", "units ")
    lines = [f"{label}: {part.hex()}".rstrip() for label, part in zip(labels, parts, strict=False)]
    return "\n".join([f"### {name}\n", "```", *says, "```\n", "```hex", *lines, "```\n"])


def test_the_document_prints_the_vectors_and_no_others():
    """Every vector stands in the document, and nothing else does."""
    assert list(printed()) == list(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name):
    """A value packs to the printed bytes, and the printed bytes unpack to the value."""
    parts = printed()[name]
    assert [bytes(part) for part in pack(VECTORS[name])] == parts
    assert is_same(unpack(parts), VECTORS[name])
    assert as_text(name) in DOCUMENT


def test_limits_are_those_of_the_code():
    """The table of limits has each constant with its value."""
    rows = re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", DOCUMENT, flags=re.M)
    modules = (wire, wire_header, spikes, population, clock)
    in_code = {
        name: value for module in modules for name, value in vars(module).items()
        if name.startswith("MAX_") and name != "MAX_SEQ"
    }  # fmt: skip
    assert {name: int(value.replace(",", "")) for name, value in rows} == in_code


def test_reasons_are_those_of_the_code():
    """The table of reasons is that of `unpack`'s docstring."""
    rows = re.findall(r"^\| `(\w+)` \| ", DOCUMENT.partition("| reason |")[2], flags=re.M)
    documented = (unpack.__doc__ or "").partition("is one of")[2].replace("\n", " ")
    reasons = {word.strip(" `.") for word in documented.split(",")}
    assert set(rows[: len(reasons)]) == reasons


def test_version_is_that_of_the_code():
    """The document describes the version that the code speaks."""
    assert f"The version of this page is **{wire_header.WIRE_VERSION}**" in DOCUMENT


@pytest.mark.parametrize("name", VECTORS)
def test_every_field_is_described(name):
    """Each key of each header is named in the document's tables."""
    tables = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("| "))
    for key in msgpack.unpackb(bytes(pack(VECTORS[name])[1])):
        assert f"`{key}`" in tables


def test_publisher_of_the_document_is_as_short_as_its_title_says():
    """Blank lines count too."""
    section = DOCUMENT.partition("## A publisher in less than sixty lines\n")[2]
    script = section.partition("```python\n")[2].partition("```")[0]
    assert script.startswith('"""Publish random spikes')
    assert len(script.splitlines()) < 60


def test_publisher_of_the_document_is_heard(tmp_path):
    """The example runs as it stands, and the daemon's ingest takes every batch of it."""
    script = tmp_path / "publisher.py"
    script.write_text(re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.S)[0])
    counters = Counters()
    units = Population([Unit("950902", "probeA"), Unit("950901", "probeA")])
    registry = StreamRegistry(units, "refuse")
    heard: list[object] = []
    ingest = Ingest(registry, counters, ManualClock())
    address = f"ipc://{tmp_path}/s"
    ingest.connect([address])
    publisher = subprocess.Popen([sys.executable, str(script), address])
    try:

        def has_ended() -> bool:
            heard.extend(ingest.receive(max_messages=100))
            return any(isinstance(message, StreamEnd) for message in heard)

        wait_until(has_ended, deadline_s=100, what="the example's end")
        assert publisher.wait(100) == 0
    finally:
        publisher.kill()
        publisher.wait()
        ingest.close()
    assert isinstance(heard[0], Hello)
    batches = [message for message in heard if isinstance(message, SpikeBatch)]
    assert [batch.seq for batch in batches] == list(range(200))
    end = heard[-1]
    assert isinstance(end, StreamEnd)
    assert end.n_spikes == sum(batch.n_spikes for batch in batches) == counters.spikes_received
    assert (counters.batches_lost, counters.wire_errors) == (0, Counters().wire_errors)
    assert not registry.missing_units()
