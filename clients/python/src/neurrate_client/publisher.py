"""The publisher, for authors of sources: hello, batches, marks and the end of a run.

It numbers the batches, greets each new subscriber and everybody once a second, and counts the
totals; what breaks a rule of ``docs/wire-format.md`` raises and is not sent.
"""

from __future__ import annotations

import logging
import secrets
import time
from array import array
from collections.abc import Mapping, Sequence
from typing import Self

import zmq

from neurrate_client import source_messages as wire
from neurrate_client.addresses import check_bindable
from neurrate_client.host_clock import Pings, clock_id
from neurrate_client.keys import ClientCheck, FilePath
from neurrate_client.source_messages import InvalidMessageError, Unit

ADDRESS = "tcp://127.0.0.1:5570"
"""Where a daemon looks for a source unless it is told otherwise."""

QUEUE = 1_000
"""Messages that wait for one subscriber; beyond them a live source drops its next ones."""

MAX_REQUEST_BYTES = 1_024
"""A subscriber sends topics, which are short."""

HELLO_EVERY_NS = BATCH_EVERY_NS = 1_000_000_000
"""The daemon goes on without a source that is silent for two seconds."""

RETRY_MS = 20
"""A lossless source looks this often whether its slowest subscriber has caught up."""

FLUSH_S = 30.0
"""How long the last messages may take to leave after `Publisher.close`."""

logger = logging.getLogger(__name__)


class Publisher:
    """Sends one stream of spikes. For one thread, which never waits unless it is lossless.

    Parameters
    ----------
    address : str
        Where to bind. Port 0 is any free one; `address` then says which.
    stream : str
        Its name, usually of the probe: letters, digits, ``_`` and ``-``.
    units : sequence of Unit
        What the unit indices of the batches count.
    source, table, session_start_utc : str
        For people: where the spikes come from, how the table was made, when session time was zero.
    lossless : bool
        Wait for the slowest subscriber, and while there is none: for replays, never for a rig.
    insecure : bool
        Allow an address that other machines can reach, without keys.
    key, allowed : path
        ``NAME.key_secret`` of this source, and a folder with the ``.key`` of each client that may
        connect: then it is encrypted, and nobody else is let in. The folder is looked at each time.

    Raises
    ------
    InvalidMessageError
        If a name, a text or the table of units breaks a rule.
    ValueError
        If the address is not one, or can be reached from other machines; or a file is no key.
    OSError
        If it cannot be bound, or a key not read.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        stream: str,
        units: Sequence[Unit],
        source: str = "",
        table: str = "",
        session_start_utc: str = "",
        lossless: bool = False,
        insecure: bool = False,
        key: FilePath | None = None,
        allowed: FilePath | None = None,
    ) -> None:
        if not isinstance(stream, str) or not wire.STREAM.fullmatch(stream):
            raise InvalidMessageError(
                f"a stream has a name of 1 to 64 letters, digits, _ and -, got {stream!r:.80}"
            )
        if (key is None) != (allowed is None):
            raise ValueError("key and allowed are given together, or neither")
        check_bindable(address, insecure=insecure, has_keys=key is not None)
        facts = {
            "session_start_utc": wire.utc(session_start_utc) if session_start_utc else "",
            "table": wire.text("table", table),
            "clock_id": clock_id(),
        }
        columns = wire.unit_columns(units)
        self.n_subscribers = 0
        self._pings = Pings()
        self._stop_ns: int | None = None
        self._stream, self._n_units, self._lossless = stream, len(units), lossless
        self._source = wire.text("source", source)
        self._table = {
            "fingerprint": columns.pop("fingerprint"),
            **({"lossless": 1} if lossless else {}),
            **{key: value for key, value in facts.items() if value},
            **columns,
        }
        self._begin()
        wire.pack(self._hello())  # its size is checked before anything is bound
        self._bind(address, key, allowed)

    def restart(self) -> None:
        """Begin a new run: after a pause of the recording, or if session time begins anew."""
        self._begin()

    def serve(self, wait_s: float = 0.0) -> None:
        """Greet new subscribers, and everybody once a second; waits for one to come or go.

        `batch` and `mark` do so too: this is for the time in which there is nothing to send.
        """
        if wait_s > 0:
            self._wait(round(1000 * wait_s))
        self._read_subscriptions()
        if not self.has_ended:
            self._greet()

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Return whether somebody listens to the spikes, as soon as that is so."""
        deadline_s = time.monotonic() + timeout_s
        self.serve()
        while not self.n_subscribers and (left_s := deadline_s - time.monotonic()) > 0:
            self.serve(min(left_s, 1.0))
        return self.n_subscribers > 0

    def batch(
        self, start_ns: int, stop_ns: int, times_ns: object = (), unit_index: object = ()
    ) -> None:
        """Send the spikes of one span, also if there were none.

        Parameters
        ----------
        start_ns, stop_ns : int
            The span, half open, session nanoseconds; at most a second, and after the batch before.
        times_ns : integers, shape (n_spikes,)
            In the span, in any order: a list, an `array.array` or a NumPy array.
        unit_index : integers, shape (n_spikes,)
            Row of each spike's unit in the table.

        Raises
        ------
        InvalidMessageError
            If that is not so, or the run has ended.
        """
        self._check_running()
        start_ns = wire.integer("start_ns", start_ns, -wire.MAX_SESSION_NS, wire.MAX_SESSION_NS)
        stop_ns = wire.integer("stop_ns", stop_ns, -wire.MAX_SESSION_NS, wire.MAX_SESSION_NS)
        self._check_span(start_ns, stop_ns)
        times, units = self._spikes(start_ns, stop_ns, times_ns, unit_index)
        self._read_subscriptions()
        now_ns = time.monotonic_ns()
        fields = {
            "seq": self.n_batches,
            "start_ns": start_ns,
            "stop_ns": stop_ns,
            "n_spikes": len(times),
            "sent_host_ns": now_ns,
            **self._pings.answer(),
        }
        self._warn_of_silence(now_ns)
        self._send("spikes", fields, wire.little_endian(times), wire.little_endian(units))
        self.n_batches += 1
        self.n_spikes += len(times)
        self._stop_ns, self._batch_host_ns = stop_ns, now_ns

    def mark(
        self,
        start_ns: int,
        stop_ns: int,
        stimulus: str,
        presentation_id: int,
        *,
        frame: int | None = None,
        caption: str | None = None,
    ) -> None:
        """Send one stimulus presentation: row `presentation_id` of the table `stimulus`.

        Raises
        ------
        InvalidMessageError
            If a value is beyond its limits, or the run has ended.
        """
        self._check_running()
        low, high = -wire.MAX_SESSION_NS, wire.MAX_SESSION_NS
        start_ns = wire.integer("start_ns", start_ns, low, high)
        row, number = wire.MAX_SEQ, frame
        if number is not None:
            number = wire.integer("frame", number, -row, row)
        fields = {
            "start_ns": start_ns,
            "stop_ns": wire.integer("stop_ns", stop_ns, start_ns, high),
            "stimulus": wire.text("stimulus", stimulus),
            "presentation_id": wire.integer("presentation_id", presentation_id, -row, row),
            "frame": number,
            "caption": None if caption is None else wire.text("caption", caption),
        }
        self._send("mark", fields)

    def end(self) -> None:
        """Send the totals of the run; nothing more can be sent until `restart`.

        Raises
        ------
        InvalidMessageError
            If the run has ended.
        """
        self._check_running()
        self._send("end", {"n_batches": self.n_batches, "n_spikes": self.n_spikes})
        self.has_ended = True

    def close(self, flush_s: float = FLUSH_S) -> None:
        """Close the socket; what is queued still leaves, while subscribers take it in time.

        It waits for `flush_s` at most, and logs a warning if it did: for a subscriber that does not
        read, or for one that left at this moment (libzmq may miss that).
        """
        began_s = time.monotonic()
        self._socket.close(linger=round(1000 * flush_s))
        if self._client_check is not None:
            self._client_check.close()
        self._context.term()
        if 0 < flush_s <= time.monotonic() - began_s:
            logger.warning("not all was taken within %g s; what was left is dropped", flush_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error: the run is over, and its totals are what was sent.
        try:
            if not self.has_ended:
                self.end()
        finally:
            self.close()

    def _begin(self) -> None:
        self.run = secrets.token_hex(8)
        self.n_batches = self.n_spikes = 0
        self.has_ended = False
        self._stop_ns = None
        self._batch_host_ns = 0
        self._next_hello_ns = 0

    def _bind(self, address: str, key: FilePath | None, allowed: FilePath | None) -> None:
        self._context = zmq.Context()
        self._client_check = None
        self._socket = self._context.socket(zmq.XPUB)
        # For a publisher that is dropped without `close`, as after an error: libzmq waits for its
        # subscribers for ever unless it is told otherwise.
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, QUEUE)
        self._socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        # Every subscription and its end arrives here, also the second and later of one topic.
        self._socket.set(zmq.XPUB_VERBOSER, 1)
        # With it a full queue is an error that `_try` sees; without it a silent drop.
        self._socket.set(zmq.XPUB_NODROP, int(self._lossless))
        try:
            if key is not None and allowed is not None:
                self._client_check = ClientCheck(self._context, allowed)
                self._client_check.guard(self._socket, key)
            self._socket.bind(address)
        except (ValueError, OSError):  # of a key
            self.close(flush_s=0)
            raise
        except zmq.ZMQError as error:
            self.close(flush_s=0)
            raise OSError(
                error.errno, f"Cannot bind {address}: {error}. Use another port."
            ) from error
        self.address = self._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def _hello(self) -> dict[str, object]:
        return {
            **self._header(),
            "next_seq": self.n_batches,
            "source": self._source,
            **self._table,
        }

    def _header(self) -> dict[str, object]:
        return {"version": wire.VERSION, "stream": self._stream, "run": self.run}

    def _check_running(self) -> None:
        if self.has_ended:
            raise InvalidMessageError("nothing follows the end of a run; call restart() for a next")

    def _check_span(self, start_ns: int, stop_ns: int) -> None:
        if not start_ns < stop_ns <= start_ns + wire.MAX_SPAN_NS:
            raise InvalidMessageError(
                f"a batch covers 1 to {wire.MAX_SPAN_NS} ns, got {start_ns} to {stop_ns}; send "
                "several for more"
            )
        if self._stop_ns is None:
            return
        if start_ns < self._stop_ns:
            raise InvalidMessageError(
                f"a batch begins where the one before ended, {self._stop_ns}, or later; got "
                f"{start_ns}. If the clock began anew, call restart() first"
            )
        if start_ns > self._stop_ns + wire.MAX_SPAN_NS:
            raise InvalidMessageError(
                f"a batch begins within a second of the end of the one before, {self._stop_ns}; "
                f"got {start_ns}. After a pause of the recording, call restart() first"
            )

    def _spikes(
        self, start_ns: int, stop_ns: int, times_ns: object, unit_index: object
    ) -> tuple[array[int], array[int]]:
        """Return times and units as they are sent.

        Raises
        ------
        InvalidMessageError
            If one is no integer, or does not belong in the span or the table.
        """
        times = wire.integers("times_ns", times_ns, "q")
        units = wire.integers("unit_index", unit_index, "I")
        if len(times) != len(units) or len(times) > wire.MAX_SPIKES:
            raise InvalidMessageError(
                f"a batch has one unit for each time, and at most {wire.MAX_SPIKES:,} spikes; got "
                f"{len(times):,} times and {len(units):,} units"
            )
        if times and not (start_ns <= min(times) and max(times) < stop_ns):
            raise InvalidMessageError(
                f"spikes lie in [{start_ns}, {stop_ns}), got {min(times)} to {max(times)}"
            )
        if units and max(units) >= self._n_units:
            raise InvalidMessageError(
                f"a unit index is a row of the table, 0 to {self._n_units - 1}, got {max(units)}"
            )
        return times, units

    def _warn_of_silence(self, now_ns: int) -> None:
        silent_ns = now_ns - self._batch_host_ns
        if self._batch_host_ns and silent_ns > 2 * BATCH_EVERY_NS and not self._lossless:
            logger.warning(
                "no batch for %.1f s: a source sends one at least once a second, empty or not, "
                "and the daemon goes on without it after two",
                silent_ns / 1e9,
            )

    def _send(self, kind: str, fields: Mapping[str, object], *buffers: bytes) -> None:
        """Send once, newcomers greeted before: a batch is useless to who has no unit table."""
        parts = [
            f"{kind}.{self._stream}".encode(),
            wire.pack({**self._header(), **fields}),
            *buffers,
        ]
        self._read_subscriptions()
        # The end does not wait for somebody to come: it is also sent after an error.
        may_wait = self._lossless and kind != "end"
        while (may_wait and not self.n_subscribers) or not (self._greet() and self._try(parts)):
            self._wait(RETRY_MS)
            self._read_subscriptions()

    def _greet(self) -> bool:
        """Send a hello if it is due; False if it is, and a subscriber cannot take it."""
        now_ns = time.monotonic_ns()
        if now_ns < self._next_hello_ns:
            return True
        if not self._try([f"hello.{self._stream}".encode(), wire.pack(self._hello())]):
            return False
        self._next_hello_ns = now_ns + HELLO_EVERY_NS
        return True

    def _try(self, parts: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _wait(self, wait_ms: int) -> None:
        """Wait for a subscriber to come or go, or to ask whether it may."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        if self._client_check is not None:
            poller.register(self._client_check.socket, zmq.POLLIN)
        poller.poll(wait_ms)

    def _read_subscriptions(self) -> None:
        """Count subscriptions to spikes (first byte 1) and their ends (0)."""
        if self._client_check is not None:
            self._client_check.answer()
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            request = self._socket.recv()
            self._pings.take_request(request)
            if not b"spikes".startswith(request[1:7]):
                continue
            if request[:1] == b"\x01":
                self.n_subscribers += 1
                self._next_hello_ns = 0
            elif request[:1] == b"\x00":
                self.n_subscribers -= 1
