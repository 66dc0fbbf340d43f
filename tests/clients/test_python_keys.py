"""neurrate-client with keys: the daemon's own publisher and reader at the other end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import neurrate_client as client
import pytest
from neurrate_client import Narration, Unit

from contracts.address import check_connectable
from contracts.allow_list import load_server_keys
from contracts.keys import ClientKeys
from contracts.narration_wire import pack_narration
from daemon.publisher import Publisher
from peer_guard.source_reader import SourceReader
from peer_guard.source_stream import SourceLimits
from tests.support.daemon_components import Context
from tests.support.keys import allow, new_pair, write_pair
from tests.support.narrations import narration
from tests.support.wait_until import wait_until

LIMITS = SourceLimits(part_bytes=1 << 20, message_bytes=2 << 20, parts=5)
UNITS = [Unit("1", "probeA")]


def receives(subscriber: client.Subscriber, daemon: Publisher) -> Callable[[], bool]:
    def has_come() -> bool:
        daemon.serve()
        return isinstance(subscriber.receive(0.02), Narration)

    return has_come


def test_subscriber_with_keys_receives(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """From files, as the command makes them; without the right ones nothing comes, and why."""
    write_pair(tmp_path, "daemon")
    me, stranger = (write_pair(tmp_path / name, name) for name in ("me", "stranger"))
    allow(tmp_path, me=me.public)
    assert stranger != me
    keys = load_server_keys(str(tmp_path / "daemon.key_secret"), setting="test")
    daemon = Publisher(context, "tcp://127.0.0.1:*", keys=keys)
    try:
        daemon.publish(pack_narration(narration()))
        for name in ("me", "stranger"):
            with client.Subscriber(
                daemon.address,
                key=tmp_path / name / f"{name}.key_secret",
                server_key=tmp_path / "daemon.key",
            ) as subscriber:
                if name == "me":
                    wait_until(receives(subscriber, daemon))
                else:
                    wait_until(lambda: subscriber.receive(0.1) or "refuses us" in caplog.text)
                    assert daemon.dropped["key"] > 0
                    assert subscriber.receive(0.1) is None
    finally:
        daemon.close()


def test_publisher_with_keys_is_read(tmp_path: Path):
    """The daemon's reader is let in by its key, and another's is not until it is allowed."""
    source_pair, mine, late = write_pair(tmp_path, "probe"), new_pair(), new_pair()
    folder = allow(tmp_path, mine=mine.public)
    with client.Publisher(
        "tcp://127.0.0.1:0", stream="probeA", units=UNITS,
        key=tmp_path / "probe.key_secret", allowed=folder,
    ) as source:  # fmt: skip
        target = check_connectable(source.address, setting="test")
        first, second = (
            SourceReader(target, LIMITS, ClientKeys(own, source_pair.public))
            for own in (mine, late)
        )

        def is_read(reader: SourceReader) -> bool:
            source.serve(0.02)
            reader.read()
            return reader.has_messages

        try:
            wait_until(lambda: is_read(first))
            wait_until(lambda: is_read(first) and second.dropped["key"] > 0)
            assert not second.has_messages
            allow(tmp_path, late=late.public)
            wait_until(lambda: is_read(second))
        finally:
            for reader in (first, second):
                reader.close()
                reader.wait()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"key": "pair"}, "together"),
        ({"key": "open", "server_key": "public"}, "chmod 600"),
        ({"key": "public", "server_key": "public"}, "holds no secret"),
        ({"key": "missing", "server_key": "public"}, "No such file"),
    ],
)
def test_wrong_files_are_refused(given: dict[str, str], problem: str, tmp_path: Path):
    """Each with its reason, and no socket is left open."""
    write_pair(tmp_path, "pair")
    write_pair(tmp_path, "open")
    (tmp_path / "open.key_secret").chmod(0o644)
    paths = {
        "pair": tmp_path / "pair.key_secret", "open": tmp_path / "open.key_secret",
        "public": tmp_path / "pair.key", "missing": tmp_path / "missing.key_secret",
    }  # fmt: skip
    paths["public"].chmod(0o600)
    files: dict[str, Any] = {name: paths[value] for name, value in given.items()}
    with pytest.raises((ValueError, OSError), match=problem):
        client.Subscriber("tcp://127.0.0.1:5999", **files)


def test_publisher_off_loopback_needs_keys(tmp_path: Path):
    """Or the word."""
    write_pair(tmp_path, "probe")
    with pytest.raises(ValueError, match="keys"):
        client.Publisher("tcp://0.0.0.0:0", stream="a", units=UNITS)
    with pytest.raises(ValueError, match="together"):
        client.Publisher("tcp://0.0.0.0:0", stream="a", units=UNITS, allowed=tmp_path)
    source = client.Publisher(
        "tcp://0.0.0.0:0", stream="a", units=UNITS,
        key=tmp_path / "probe.key_secret", allowed=allow(tmp_path),
    )  # fmt: skip
    source.close(flush_s=0)


def test_both_packages_watch_refusals_with_the_same_code():
    """The client needs nothing of the daemon's package, so that it has a copy of the module."""
    root = Path(__file__).parents[2]
    ours = root / "subscribers" / "refusals.py"
    copy = root / "clients" / "python" / "src" / "neurrate_client" / "refusals.py"
    assert copy.read_bytes() == ours.read_bytes()
