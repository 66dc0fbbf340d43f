"""The second recording as a rig would give it: a SpikeGLX file that grows, in real time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.clock import Clock, HostClock
from contracts.errors import ChildError
from stream_sources.rigs.spikeglx.emulator import SpikeGlxWriter, WriterOptions

START_S = 60.0


class EmulatedRig:
    """A probe whose file is there before its first sample is.

    Attributes
    ----------
    path : Path
        The file that grows.
    started_host_ns : int
        When its first sample was taken, host clock; 0 before `begin`.
    """

    def __init__(self, recording: Any, folder: Path, clock: Clock) -> None:
        self._writer = SpikeGlxWriter(recording, folder, WriterOptions(), clock)
        self._clock = clock
        self._is_open, self._may_begin = threading.Event(), threading.Event()
        self._is_stopped = False
        self._error: BaseException | None = None
        self.path: Path = self._writer.path
        self.started_host_ns = 0

    def begin(self) -> None:
        """Let the probe record, at its own pace from now on."""
        self._may_begin.set()

    def stop(self) -> None:
        """End the recording."""
        self._is_stopped = True
        self._may_begin.set()

    def run(self) -> None:
        """Write until the recording is over or stopped; a thread of its own does."""
        try:
            self._writer.play(self._should_stop)
        except BaseException as error:  # raised in the thread that waits, by `check`
            self._error = error
        finally:
            self._is_open.set()

    def wait_until_open(self) -> None:
        """Wait for the file.

        Raises
        ------
        ChildError
            If it does not come in time.
        """
        if not self._is_open.wait(START_S):
            raise ChildError(f"the emulated rig did not open {self.path} within {START_S:g} s")
        self.check()

    def check(self) -> None:
        """Raise the error that ended the recording, if one has."""
        if self._error is not None:
            raise self._error

    def _should_stop(self) -> bool:
        # The writer asks after it has opened the file, and before it takes its first sample.
        if not self.started_host_ns:
            self._is_open.set()
            self._may_begin.wait()
            self.started_host_ns = self._clock.now_ns()
        return self._is_stopped


@contextmanager
def emulated_rig(recording: Any, folder: Path) -> Iterator[EmulatedRig]:
    """Lend a rig whose file is open; its thread ends with the block."""
    rig = EmulatedRig(recording, folder, HostClock())
    thread = threading.Thread(target=rig.run, name="rig")
    thread.start()
    try:
        rig.wait_until_open()
        yield rig
    finally:
        rig.stop()
        thread.join()
