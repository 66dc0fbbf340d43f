"""Narrations and triggers as LSL markers: a daemon's socket at one end, an inlet at the other."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread

import pytest

from contracts.clock import HostClock
from contracts.narration import Narration, Status
from contracts.narration_wire import as_repeat, pack_narration
from contracts.trigger import pack_trigger
from daemon.publisher import Publisher
from neurrate.cli import main
from subscribers.lsl import LslTotals, forward
from tests.support.daemon_components import Context
from tests.support.lsl import inlet_of, pylsl
from tests.support.narrations import narration
from tests.support.subscribing import take_subscriptions
from tests.support.triggers import trigger

CLOCK = HostClock()


class Bridge:
    """A bridge in a thread, and the inlets of its two streams."""

    def __init__(self, address: str, *, as_json: bool) -> None:
        self.totals = LslTotals()
        self._stop, ready = Event(), Event()

        def run() -> None:
            self.totals = forward(
                address, CLOCK, as_json=as_json, should_stop=self._stop.is_set, on_ready=ready.set
            )

        self._thread = Thread(target=run)
        self._thread.start()
        assert ready.wait(60)
        host = socket.gethostname()
        self.narrations = inlet_of(f"neurrate-narrations:{address}@{host}")
        self.triggers = inlet_of(f"neurrate-triggers:{address}@{host}")

    def stop(self) -> LslTotals:
        """Stop it, and return what it has passed on."""
        self._stop.set()
        self._thread.join(60)
        return self.totals


@contextmanager
def _bridged(context: Context, *, as_json: bool = False) -> Iterator[tuple[Publisher, Bridge]]:
    daemon = Publisher(context, "tcp://127.0.0.1:*")
    bridge = Bridge(daemon.address, as_json=as_json)
    try:
        assert take_subscriptions(daemon, 2) == [b"narration.", b"trigger."]
        yield daemon, bridge
    finally:
        bridge.stop()
        daemon.close()


def _spoken(seq: int, *, published_ns: int | None = None, text: str = "A car.") -> Narration:
    one = narration(seq=seq, text=text)
    now_ns = CLOCK.now_ns() if published_ns is None else published_ns
    return replace(one, stamps=replace(one.stamps, published=now_ns))


def test_markers_have_the_daemons_stamps(context):
    """On LSL's clock, which is the clock of the stamps; one text each."""
    assert abs(pylsl.local_clock() - time.monotonic()) < 1.0
    with _bridged(context) as (daemon, bridge):
        said = _spoken(0, text="Straße, 車")
        fired = trigger("car_seen", published_ns=CLOCK.now_ns())
        daemon.publish(pack_narration(said))
        daemon.publish(pack_trigger(fired))
        text, narrated_s = bridge.narrations.pull_sample(timeout=60)
        name, fired_s = bridge.triggers.pull_sample(timeout=60)
        assert (text, name) == (["all: Straße, 車"], ["car_seen"])
        assert narrated_s == pytest.approx(said.stamps.published / 1e9, abs=1e-6)
        assert fired_s == pytest.approx(fired.stamps.published / 1e9, abs=1e-6)
        info = bridge.triggers.info()
        assert (info.type(), info.nominal_srate(), info.channel_count()) == ("Markers", 0, 1)


def test_what_nobody_should_act_on_is_not_passed_on(context):
    """Repeats, failed narrations, triggers of dry rules and junk; each is counted."""
    with _bridged(context) as (daemon, bridge):
        failed = _spoken(1)
        failed = replace(failed, utterance=replace(failed.utterance, status=Status.FAILED))
        topic, payload = pack_narration(_spoken(0))
        daemon.publish([topic, as_repeat(payload)])
        daemon.publish(pack_narration(failed))
        daemon.publish([b"narration.all", b"{"])
        daemon.publish(pack_trigger(trigger("dry", dry_run=True, published_ns=CLOCK.now_ns())))
        daemon.publish(pack_narration(_spoken(2, text="last")))
        daemon.publish(pack_trigger(trigger("last", published_ns=CLOCK.now_ns())))
        assert bridge.narrations.pull_sample(timeout=60)[0] == ["all: last"]
        assert bridge.triggers.pull_sample(timeout=60)[0] == ["last"]
        totals = bridge.stop()
    assert totals == LslTotals(
        n_narrations=1,
        n_triggers=1,
        n_failed_narrations=1,
        n_dry_triggers=1,
        n_repeats=1,
        n_unreadable=1,
    )


@pytest.mark.parametrize("offset_s", [-3600, 3600])
def test_a_daemon_with_another_clock_is_stamped_on_arrival(context, offset_s):
    """Its stamps would lie an hour off; the marker says when it came, and it is counted."""
    with _bridged(context) as (daemon, bridge):
        before_s = CLOCK.now_ns() / 1e9
        published_ns = max(0, CLOCK.now_ns() + offset_s * 10**9)
        daemon.publish(pack_narration(_spoken(0, published_ns=published_ns)))
        _, stamp_s = bridge.narrations.pull_sample(timeout=60)
        assert before_s <= stamp_s <= CLOCK.now_ns() / 1e9
        assert bridge.stop().n_stamped_on_arrival == 1


def test_whole_messages_on_request(context):
    """What is recorded beside the voltages is then all that the daemon said."""
    with _bridged(context, as_json=True) as (daemon, bridge):
        parts = pack_narration(_spoken(0))
        daemon.publish(parts)
        (text,), _ = bridge.narrations.pull_sample(timeout=60)
    assert json.loads(text) == json.loads(parts[1])


def test_the_command_wants_to_be_told_that_lsl_is_open(capsys):
    """LSL listens on all interfaces, which is never done unasked."""
    assert main(["bridge", "lsl"]) == 2
    assert "--insecure" in capsys.readouterr().err


def test_the_command_passes_on_until_its_time_is_over(capsys, tmp_path):
    """And says what it did, also without a daemon."""
    words = ["bridge", "lsl", "--insecure", "--connect", "tcp://127.0.0.1:9", "--seconds", "0.1"]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["n_narrations"] == 0
    assert "n_triggers" in capsys.readouterr().out
