"""The loop of a recorder: sockets to the queue, an account of itself once a second, the end."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from contracts.clock import NS_PER_S, Clock, ns_to_second
from contracts.errors import UserError
from contracts.journal import RECORDER_TOPIC, RECORDER_VERSION, Origin
from contracts.keys import ClientKeys
from contracts.narration_wire import dump
from subscribers.listener import (
    ANY_NUMBER,
    MARK_TOPICS,
    NARRATION_TOPICS,
    UNITS_TOPICS,
    Listener,
)
from subscribers.recorder.accounting import Accountant
from subscribers.recorder.journal_writer import JournalWriter, Taken
from subscribers.recorder.write_thread import WriteThread

DAEMON_TOPICS = (*NARRATION_TOPICS, *MARK_TOPICS, *UNITS_TOPICS, b"daemon")
"""All but sentences that grow: the narrator makes those only while somebody asks for them."""

POLL_MS = 100
AT_ONCE = 256
"""Messages taken from one socket before the others have their turn."""

AT_THE_END = 10_000

ACCOUNT_EVERY_NS = NS_PER_S

JUMP_NS = NS_PER_S // 10
"""A step of the wall clock against the monotonic one in a second; slewing makes 0.5 ms."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to record, and where.

    Attributes
    ----------
    sources, daemons : sequence of str
        Addresses of sources' spikes, and of daemons' narrations.
    queue_bytes : int
        What may wait while the disk does not answer.
    """

    folder: Path
    sources: Sequence[str]
    daemons: Sequence[str]
    # To connect to each source and then each daemon with; empty for none.
    keys: Sequence[ClientKeys | None] = ()
    part_bytes: int = 1 << 30
    min_free_bytes: int = 1 << 30
    queue_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class RecordReport:
    """What was recorded; `error` says why it ended if nobody asked."""

    folder: str
    n_parts: int
    n_bytes: int
    duration_s: float
    n_unwritten: int
    accounts: dict[str, Any]
    error: UserError | None


@dataclass(slots=True)
class _Connection:
    listener: Listener
    origin: Origin
    address: str


@dataclass(slots=True)
class _Recorder:
    """The components of one recording; used by one thread."""

    options: RecordOptions
    clock: Clock
    wall_ns: Callable[[], int]
    journal: JournalWriter
    writer: WriteThread
    connections: list[_Connection]
    accountant: Accountant = field(default_factory=Accountant)
    next_account_ns: int = 0
    wall_offset_ns: int | None = None
    n_lost_reported: int = 0

    def step(self) -> None:
        """Take what has arrived, and once a second write the account."""
        ready = [one for one in self.connections if not self._must_wait(one)]
        poller = zmq.Poller()
        for connection in ready:
            poller.register(connection.listener.socket, zmq.POLLIN)
        has_come = dict(poller.poll(POLL_MS))
        for connection in ready:
            if connection.listener.socket in has_come:
                self._take(connection)
        if self.clock.now_ns() >= self.next_account_ns:
            self.next_account_ns = self.clock.now_ns() + ACCOUNT_EVERY_NS
            for connection in self.connections:
                connection.listener.refusals.look()
            self._look_at_clock()
            self._report_losses()
            self.writer.put(self.account("recording"))

    def drain(self) -> None:
        """Take what has arrived before the end; of a source that does not pause, so much."""
        for connection in self.connections:
            self._take(connection, limit=AT_THE_END)

    def account(self, state: str, reason: str = "") -> Taken:
        """Return the recorder's own message."""
        message = {
            "version": RECORDER_VERSION,
            "state": state,
            "reason": reason,
            "host_ns": self.clock.now_ns(),
            "wall_ns": self.wall_ns(),
            **self.accountant.accounts.as_dict(),
            "queue_bytes": self.writer.n_bytes,
            "written_bytes": self.journal.n_bytes,
            "free_bytes": shutil.disk_usage(self.options.folder).free,
        }
        parts = (RECORDER_TOPIC.encode(), dump(message))
        return Taken(Origin.RECORDER, "", int(message["host_ns"]), parts)

    def _must_wait(self, connection: _Connection) -> bool:
        """Whether a source that loses nothing should be held until there is room."""
        return self.writer.is_full and connection.address in self.accountant.lossless

    def _take(self, connection: _Connection, limit: int = AT_ONCE) -> None:
        socket, n_taken = connection.listener.socket, 0
        while n_taken < limit and not self._must_wait(connection):
            try:
                parts = tuple(socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            n_taken += 1
            taken = Taken(connection.origin, connection.address, self.clock.now_ns(), parts)
            is_wanted = self.accountant.admit(connection.origin, connection.address, parts)
            if is_wanted and not self.writer.put(taken):
                self.accountant.overflow(parts)

    def _look_at_clock(self) -> None:
        offset_ns = self.wall_ns() - self.clock.now_ns()
        before_ns, self.wall_offset_ns = self.wall_offset_ns, offset_ns
        if before_ns is not None and abs(offset_ns - before_ns) > JUMP_NS:
            logger.warning(
                "wall clock jumped",
                extra={"by_s": round(ns_to_second(offset_ns - before_ns), 3)},
            )

    def _report_losses(self) -> None:
        accounts = self.accountant.accounts
        n_lost = accounts.holes.total() + accounts.overflowed.total()
        if n_lost > self.n_lost_reported:
            self.n_lost_reported = n_lost
            fields = {"holes": accounts.holes.total(), "overflowed": accounts.overflowed.total()}
            logger.warning("messages lost", extra=fields)


def record(
    options: RecordOptions,
    clock: Clock,
    *,
    should_stop: Callable[[], bool],
    on_begun: Callable[[], None] = lambda: None,
    wall_ns: Callable[[], int] = time.time_ns,
) -> RecordReport:
    """Record until asked to stop, or until nothing more can be written.

    Raises
    ------
    UserError
        If it cannot begin.
    """
    with ExitStack() as stack:
        connections = _connect(options, stack)
        journal = JournalWriter(
            options.folder,
            clock,
            part_bytes=options.part_bytes,
            min_free_bytes=options.min_free_bytes,
            wall_ns=wall_ns,
        )
        writer = WriteThread(journal, clock, max_bytes=options.queue_bytes)
        recorder = _Recorder(options, clock, wall_ns, journal, writer, connections)
        started_ns = clock.now_ns()
        reason = "internal error"
        try:
            logger.info("recording", extra={"folder": str(options.folder)})
            on_begun()
            while not should_stop() and writer.error is None:
                recorder.step()
            recorder.drain()
            reason = str(writer.error or "asked to stop")
        finally:
            writer.close(lambda: recorder.account("stopping", reason))
    report = RecordReport(
        folder=str(options.folder),
        n_parts=journal.n_parts,
        n_bytes=journal.n_bytes,
        duration_s=ns_to_second(clock.now_ns() - started_ns),
        n_unwritten=writer.n_unwritten,
        accounts=recorder.accountant.accounts.as_dict(),
        error=writer.error,
    )
    _log_end(report)
    return report


def _connect(options: RecordOptions, stack: ExitStack) -> list[_Connection]:
    """Subscribe to every source and daemon.

    Raises
    ------
    UserError
        If an address is not one, or there is none.
    """
    if not options.sources and not options.daemons:
        raise UserError(
            "There is nothing to record: name a source (--spikes) or a daemon (--connect)."
        )
    wanted = [
        *((Origin.SOURCE, address, (b"",), "--spikes") for address in options.sources),
        *((Origin.DAEMON, address, DAEMON_TOPICS, "--connect") for address in options.daemons),
    ]
    keys = options.keys or [None] * len(wanted)
    return [
        _Connection(
            # No bound of libzmq's, whose losses nobody counts: `WriteThread` has one.
            stack.enter_context(
                Listener(address, topics, setting=setting, queue=ANY_NUMBER, keys=of_address)
            ),
            origin,
            address,
        )
        for (origin, address, topics, setting), of_address in zip(wanted, keys, strict=True)
    ]


def _log_end(report: RecordReport) -> None:
    fields = {
        "folder": report.folder,
        "parts": report.n_parts,
        "mb": round(report.n_bytes / 1e6, 1),
        "not_written": report.n_unwritten,
    }
    if report.error is None:
        logger.info("recording ended", extra=fields)
    else:
        logger.error("recording ended: %s", report.error, extra=fields)
