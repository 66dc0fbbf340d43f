"""A queue with a bound in bytes, and the thread that empties it onto the disk.

A disk may take seconds to answer; sockets are read meanwhile. What does not fit into the queue is
refused, and the caller counts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

from contracts.clock import NS_PER_S, Clock
from contracts.errors import UserError
from subscribers.recorder.journal_writer import CannotRecordError, JournalWriter, Taken

FLUSH_NS = NS_PER_S // 4
"""What was received is on its way to the disk after so long, and on it well within a second."""

OVERHEAD_BYTES = 1024
"""Memory of a message beside its parts."""


class WriteThread:
    """Writes messages to a journal on a thread of its own.

    Attributes
    ----------
    error : UserError or None
        Why nothing more is written.
    n_unwritten : int
        After `close`: messages that were queued and are not in the journal.
    """

    def __init__(self, journal: JournalWriter, clock: Clock, *, max_bytes: int) -> None:
        self.error: UserError | None = None
        self.n_unwritten = 0
        self._journal = journal
        self._clock = clock
        self._max_bytes = max_bytes
        self._queue: deque[Taken] = deque()
        self._n_bytes = 0
        self._batch: deque[Taken] = deque()  # taken from the queue, by the thread alone
        self._n_added = 0
        self._n_safe = 0
        self._is_closing = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def n_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._n_bytes

    @property
    def is_full(self) -> bool:
        """Whether the queue has no room for another message of a usual size."""
        return self._n_bytes >= self._max_bytes

    def put(self, taken: Taken) -> bool:
        """Queue a message; False if there is no room."""
        with self._changed:
            if self.is_full:
                return False
            self._queue.append(taken)
            self._n_bytes += taken.n_bytes + OVERHEAD_BYTES
            self._changed.notify()
        return True

    def close(self, last: Callable[[], Taken]) -> None:
        """End the thread, write what is queued and `last`, and finish the journal."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        n_received = self._n_added + len(self._batch) + len(self._queue)
        if self._journal.is_open:  # also on a disk that is nearly full: there is room for the end
            try:
                for taken in (*self._batch, *self._queue, last()):
                    self._journal.add(taken)
                self._journal.close()
                self._n_safe = n_received
            except OSError as error:
                self._fail(error)
        self.n_unwritten = n_received - self._n_safe

    def _run(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._fail(error)
        except UserError as error:
            self.error = error

    def _fail(self, error: OSError) -> None:
        self.error = CannotRecordError(self._journal.path, error)
        self._journal.abandon()

    def _write(self) -> None:
        due_ns = self._clock.now_ns() + FLUSH_NS
        while not self._is_closing:
            self._wait(due_ns)
            # All of it, before one flush: where that takes longer than they are apart, a flush for
            # a part of what waits would leave the rest further and further behind.
            while self._batch:
                self._n_added += 1
                self._journal.add(self._batch.popleft())
            if self._clock.now_ns() >= due_ns:
                due_ns = self._flush()

    def _flush(self) -> int:
        """Bring the chunk to the disk; return when the next one is due."""
        due_ns = self._clock.now_ns() + FLUSH_NS
        self._journal.flush()
        self._n_safe = self._n_added
        self._journal.check_free()
        return due_ns

    def _wait(self, due_ns: int) -> None:
        """Take what is queued; wait for it, or until the chunk is due."""
        with self._changed:
            wait_s = max(0, due_ns - self._clock.now_ns()) / NS_PER_S
            if not self._queue and not self._is_closing:
                self._changed.wait(wait_s)
            self._batch, self._queue = self._queue, deque()
            self._n_bytes = 0
