"""Narrations and triggers as markers of the Lab Streaming Layer (LSL).

Two streams of type ``Markers``, one text each: what a population narrates, and the name of a rule
that has fired; or, on request, the JSON of either. Repeats, failed narrations and triggers of dry
rules are not passed on.

LSL's clock is the host's monotonic clock on Linux (liblsl takes it from ``std::chrono``'s
``steady_clock``), which is the clock of the daemon's stamps: a marker is stamped with the moment
at which the daemon published. A daemon on another machine has another clock; what comes from there
is stamped with its arrival, and counted.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contracts.clock import NS_PER_S, Clock, ns_to_second
from contracts.keys import ClientKeys
from contracts.narration import Narration, Status
from contracts.trigger import Trigger
from subscribers.listener import Listener, Received

TOPICS = (b"narration.", b"trigger.")

TYPE = "Markers"

MAX_AGE_NS = 5 * NS_PER_S
"""A message arrives some milliseconds after its stamp. One that seems older than this, or from the
future, was stamped by another clock."""

WAIT_MS = 100

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LslTotals:
    """What became of the messages."""

    n_narrations: int = 0
    n_triggers: int = 0
    n_stamped_on_arrival: int = 0
    n_failed_narrations: int = 0
    n_dry_triggers: int = 0
    n_repeats: int = 0
    n_unreadable: int = 0


class LslOutlets:
    """The two streams. Their ``source_id`` is the same at each start, so that recorders find them.

    `address` is the daemon's; `as_json` sends whole messages.
    """

    def __init__(self, address: str, *, as_json: bool = False) -> None:
        self.totals = LslTotals()
        self._as_json = as_json
        self._narrations = _outlet("narrations", address)
        self._triggers = _outlet("triggers", address)

    def push(self, received: Received) -> None:
        """Pass a narration or a trigger on, unless it is a repeat, has failed or is dry."""
        value = received.value
        if received.is_repeat:
            self.totals.n_repeats += 1
        elif isinstance(value, Narration) and value.utterance.status is Status.FAILED:
            self.totals.n_failed_narrations += 1
        elif isinstance(value, Narration):
            text = f"{value.population}: {value.utterance.text}"
            self._push(self._narrations, text, received, value.stamps.published)
            self.totals.n_narrations += 1
        elif isinstance(value, Trigger) and value.dry_run:
            self.totals.n_dry_triggers += 1
        elif isinstance(value, Trigger):
            self._push(self._triggers, value.name, received, value.stamps.published)
            self.totals.n_triggers += 1

    def _push(self, outlet: Any, text: str, received: Received, published_ns: int) -> None:
        stamp_ns = published_ns
        if not 0 <= received.host_ns - published_ns <= MAX_AGE_NS:
            stamp_ns = received.host_ns
            if not self.totals.n_stamped_on_arrival:
                logger.warning("the daemon has another clock: markers are stamped on arrival")
            self.totals.n_stamped_on_arrival += 1
        if self._as_json:
            text = json.dumps(received.content, ensure_ascii=False)
        # A text ends at a NUL in LSL's interface for C.
        outlet.push_sample([text.replace("\0", " ")], ns_to_second(stamp_ns))


def forward(
    address: str,
    clock: Clock,
    *,
    as_json: bool,
    should_stop: Callable[[], bool],
    keys: ClientKeys | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> LslTotals:
    """Pass on what a daemon publishes until asked to stop.

    Raises
    ------
    UserError
        If the address is not one.
    """
    with Listener(address, TOPICS, setting="--connect", keys=keys, clock=clock) as listener:
        outlets = LslOutlets(address, as_json=as_json)
        on_ready()
        while not should_stop():
            for received in listener.messages(wait_ms=WAIT_MS, limit=100):
                outlets.push(received)
        outlets.totals.n_repeats += listener.n_repeats
        outlets.totals.n_unreadable = listener.n_unreadable
        return outlets.totals


def _outlet(kind: str, address: str) -> Any:
    """Make one stream: a text now and then."""
    import pylsl

    info = pylsl.StreamInfo(
        f"neurrate-{kind}",
        TYPE,
        1,
        pylsl.IRREGULAR_RATE,
        pylsl.cf_string,
        f"neurrate-{kind}:{address}@{socket.gethostname()}",
    )
    info.desc().append_child_value("daemon", address)
    return pylsl.StreamOutlet(info)
