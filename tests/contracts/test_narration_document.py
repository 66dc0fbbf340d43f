"""docs/narration-format.md is true: its fields, its stages and its subscriber."""

import json
import re
import subprocess
import sys
from pathlib import Path

import zmq

from contracts.narration import NARRATION_VERSION, STAGES, Stamps
from contracts.narration_wire import pack_narration
from contracts.statistics import STATS_VERSION
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.service.stats import StreamStats, stats_message
from tests.support.narrations import narration
from tests.support.wait_until import wait_until

DOCUMENT = (Path(__file__).parents[2] / "docs" / "narration-format.md").read_text(encoding="utf-8")


def _stats() -> list[bytes]:
    return stats_message(
        host_ns=1,
        uptime_s=1.0,
        session_s=None,
        counters=Counters(),
        latency_ms={},
        reasons=["no source"],
        streams={"probeA": StreamStats(0.5, "live")},
        queue={"waiting": 1, "unfinished": 2},
    )


def test_every_field_is_described():
    """Each property of a narration is a row of the table, and each of `window` is named."""
    message = json.loads(pack_narration(narration())[1])
    table = DOCUMENT.partition("| field |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(message)
    for name in [*message["window"], *message["provenance"]]:
        assert f"`{name}`" in table


def test_stages_are_those_of_the_code():
    """The table of stages has each stage with the stamps that it lies between."""
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|", DOCUMENT, flags=re.M)
    stamps = list(Stamps.__dataclass_fields__)
    assert rows == list(zip(STAGES, stamps[:-1], stamps[1:], strict=True))


def test_every_field_of_the_statistics_is_described():
    """Each property of `stats` is named under its heading."""
    section = DOCUMENT.partition("## Statistics")[2].partition("## A subscriber")[0]
    message = json.loads(_stats()[1])
    for name in [*message, *message["streams"]["probeA"], *message["queue"]]:
        assert f"`{name}`" in section


def test_versions_are_those_of_the_code():
    """The document describes the versions that the code speaks."""
    assert f"| `version` | {NARRATION_VERSION}. " in DOCUMENT
    assert f"`version` ({STATS_VERSION})" in DOCUMENT


def test_subscriber_of_the_document_hears(tmp_path):
    """The example runs as it stands; it prints each narration once, repeats and all."""
    script = tmp_path / "subscriber.py"
    script.write_text(re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)[0])
    printed = tmp_path / "printed"
    with zmq.Context() as context, printed.open("w") as output:
        publisher = Publisher(context, "tcp://127.0.0.1:0")
        publisher.publish(pack_narration(narration(seq=0, population="VISp")))
        subscriber = subprocess.Popen(
            [sys.executable, str(script), publisher.address], stdout=output
        )
        try:

            def has_printed(text: str) -> bool:
                publisher.serve()
                return text in printed.read_text()

            first = "0.20 s VISp: A car drives away. (60 ms)\n"
            wait_until(lambda: has_printed(first), what="the last value")
            publisher.publish(pack_narration(narration(seq=0, population="VISp")))
            publisher.publish(pack_narration(narration(seq=1, population="VISp", text="A dog.")))
            publisher.publish(_stats())
            wait_until(lambda: has_printed("not ready: ['no source']"), what="the statistics")
        finally:
            subscriber.kill()
            subscriber.wait()
            publisher.close()
    assert printed.read_text().splitlines()[:2] == [first.strip(), "0.70 s VISp: A dog. (60 ms)"]
