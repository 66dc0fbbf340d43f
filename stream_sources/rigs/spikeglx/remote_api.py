"""SpikeGLX's remote API as a source of voltages, through the user's own copy of its SDK.

The SDK's Python package (billkarsh/SpikeGLX-CPP-SDK, ``Linux/Python/sglx_pkg/sglx.py``) wraps a C
library and may not be shipped here. Its functions take ctypes references and return False or 0 on
failure. The API gives no ``imroTbl``, so that positions come from a probe file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Iterator
from ctypes import byref
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.address import TcpAddress
from contracts.clock import NS_PER_S, Clock, HostClock
from contracts.errors import DependencyError, UserError, shown
from contracts.spikes import Mark
from stream_sources.recordings.sorting import samples_to_ns
from stream_sources.rigs.probe_file import read_probe_file
from stream_sources.rigs.spikeglx.sync_pulses import SYNC_BIT, PulseReader
from stream_sources.rigs.unencrypted import warn_if_it_leaves
from stream_sources.rigs.voltages import VoltageChunk
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

IMEC = 2
"""``js`` of the streams of probes."""

CHUNK_S = 0.1
WAIT_NS = NS_PER_S // 100
STALL_NS = NS_PER_S
"""After so long without a look a run may have ended and another begun; its count is then lower, by
all samples of the first, than the time that has passed would make it."""

SILENT_NS = 2 * NS_PER_S

RECONNECT_NS = 30 * NS_PER_S
"""For so long a connection that was lost is opened again and again."""


@dataclass(slots=True)
class _RemoteRun:
    """What is known of the run that SpikeGLX is in."""

    run: str = field(default_factory=new_run)
    pulses: PulseReader = field(default_factory=PulseReader)
    next_sample: int = 0  # none yet
    looked_count: int = 0
    looked_ns: int = 0


class SpikeGlxRemote:
    """Fetches the samples of one probe; a `stream_sources.rigs.voltages.VoltageSource`.

    Parameters
    ----------
    package : Path
        Folder that has ``sglx.py``.
    probe_file : Path
        Positions of the channels, in the JSON format of probeinterface.
    host, port
        Of SpikeGLX's command server.
    probe : int
        Its number: 0 for imec0.
    end_silence_s : float, optional
        End after so long without samples; None: go on until closed.

    Raises
    ------
    DependencyError
        If there is no such package, its library cannot be loaded, or SpikeGLX does not answer.
    UserError
        If SpikeGLX has no such probe or channel.
    """

    def __init__(
        self,
        package: Path,
        probe_file: Path,
        *,
        host: str = "localhost",
        port: int = 4142,
        probe: int = 0,
        end_silence_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        # As the files of this probe name them, and hence templates that were made of them.
        self.layout, channels = read_probe_file(probe_file, f"imec{probe}.ap#AP{{}}".format)
        warn_if_it_leaves(TcpAddress(host, port))
        self.label = f"spikeglx-remote:{host}:{port}/imec{probe}"
        self.n_samples: int | None = None
        self.session_start_utc = ""
        self.n_gaps = 0
        self._clock = clock or HostClock()
        self._end_silence_ns = None if end_silence_s is None else round(end_silence_s * NS_PER_S)
        self._probe, self._address = probe, (host, port)
        self._lost_since_ns: int | None = None
        self._tried_ns = 0
        self._n_pulses = 0
        self._api: Any = load_sdk(package)
        self._handle = self._api.c_sglx_createHandle()
        self._is_closed = False
        try:
            self.rate_hz: float = self._connect()
            self._uv_per_bit = self._gains(channels)
            columns = [*channels, self._sync_channel(channels)]
            self._columns = (ctypes.c_int * len(columns))(*columns)
        except BaseException:
            self.close()
            raise

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield samples as they are acquired, marks among them, and None while there is nothing.

        Raises
        ------
        DependencyError
            If the connection is lost, and cannot be opened again.
        UserError
            If it is open again and SpikeGLX no longer has this probe at this rate.
        """
        now = _RemoteRun(looked_ns=self._clock.now_ns())
        newest_ns = now.looked_ns
        is_silent = False
        while not self._is_closed:
            count = self._count()
            now_ns = self._clock.now_ns()
            if count:
                now = self._follow(now, count, now_ns)
                n_before = now.next_sample
                yield from self._take(now, count)
                if now.next_sample != n_before:
                    newest_ns, is_silent = now_ns, False
                    continue
            if not is_silent and now_ns - newest_ns > SILENT_NS:
                is_silent = True
                logger.warning("no data: SpikeGLX does not acquire", extra={"source": self.label})
            if self._end_silence_ns is not None and now_ns - newest_ns > self._end_silence_ns:
                return
            yield None
            self._clock.sleep_ns(WAIT_NS if self._lost_since_ns is None else NS_PER_S // 20)

    def close(self) -> None:
        """Close the connection; `chunks` ends."""
        if not self._is_closed:
            self._is_closed = True
            self._api.c_sglx_close(self._handle)
            self._api.c_sglx_destroyHandle(self._handle)

    def _count(self) -> int:
        """Return the samples of the run; 0 while SpikeGLX does not run, or does not answer.

        Raises
        ------
        DependencyError
            If it has not answered for `RECONNECT_NS`.
        UserError
            If it has another sampling rate than before.
        """
        if self._lost_since_ns is not None:
            self._reconnect(self._lost_since_ns)
            return 0
        count = int(self._api.c_sglx_getStreamSampleCount(self._handle, IMEC, self._probe))
        is_running = ctypes.c_bool()
        # 0 is "not running" and "error": another question tells them apart.
        if not count and not self._api.c_sglx_isRunning(byref(is_running), self._handle):
            fields = {"source": self.label, "why": self._error()}
            logger.warning("the connection to SpikeGLX is lost", extra=fields)
            self._lost_since_ns = self._tried_ns = self._clock.now_ns()
        return count

    def _reconnect(self, lost_since_ns: int) -> None:
        now_ns = self._clock.now_ns()
        if now_ns - self._tried_ns < NS_PER_S:
            return
        self._tried_ns = now_ns
        self._api.c_sglx_close(self._handle)
        try:
            rate_hz = self._connect()
        except (DependencyError, UserError):
            if now_ns - lost_since_ns > RECONNECT_NS:
                raise
            return
        if rate_hz != self.rate_hz:
            raise UserError(
                f"{self.label} had {self.rate_hz:g} samples per second, and has {rate_hz:g} now. "
                "Start the source again."
            )
        self._lost_since_ns = None
        logger.warning("the connection to SpikeGLX is open again", extra={"source": self.label})

    def _follow(self, now: _RemoteRun, count: int, now_ns: int) -> _RemoteRun:
        """Return the run that a count belongs to: the one before, or a new one."""
        grown = (now_ns - now.looked_ns - STALL_NS) / NS_PER_S * self.rate_hz
        if now.next_sample and count < max(now.next_sample, now.looked_count + grown):
            logger.warning("new run", extra={"source": self.label, "samples": count})
            now = _RemoteRun()
        now.looked_ns, now.looked_count = now_ns, count
        now.next_sample = now.next_sample or count  # from now on
        return now

    def _take(self, now: _RemoteRun, count: int) -> Iterator[VoltageChunk | Mark]:
        samples, first = self._fetch(now.next_sample, count)
        if not len(samples):
            return
        if first != now.next_sample:
            now.pulses = PulseReader()
        now.next_sample = first + len(samples)
        yield VoltageChunk(now.run, first, samples[:, :-1] * self._uv_per_bit)
        words = np.ascontiguousarray(samples[:, -1])
        for edges in now.pulses.take(first, words):
            start_ns, stop_ns = samples_to_ns(np.array(edges), self.rate_hz).tolist()
            number, self._n_pulses = self._n_pulses, self._n_pulses + 1
            yield Mark("", now.run, start_ns, stop_ns, f"sync bit {SYNC_BIT}", number)

    def _connect(self) -> float:
        """Connect; return the sampling rate.

        Raises
        ------
        DependencyError
            If SpikeGLX does not answer.
        UserError
            If it has no such probe.
        """
        host, port = self._address
        if not self._api.c_sglx_connect(self._handle, host.encode(), port):
            raise DependencyError(
                f"SpikeGLX does not answer at {host}:{port}: {self._error()}. Enable its command "
                "server (Options), and give that address."
            )
        rate_hz = float(self._api.c_sglx_getStreamSampleRate(self._handle, IMEC, self._probe))
        if rate_hz <= 0:
            raise UserError(f"SpikeGLX has no probe imec{self._probe}: {self._error()}.")
        return rate_hz

    def _fetch(self, start: int, count: int) -> tuple[NDArray[np.int16], int]:
        """Return samples from `start`, shape (n_samples, n_channels + 1), and the first's number.

        Samples that SpikeGLX no longer holds are a gap.
        """
        n_wanted = min(count - start, round(CHUNK_S * self.rate_hz))
        none = np.empty((0, len(self._columns)), np.int16)
        if n_wanted <= 0:
            return none, start
        data, n_data = ctypes.POINTER(ctypes.c_short)(), ctypes.c_int()
        where = (self._handle, IMEC, self._probe)
        channels = (self._columns, len(self._columns), 1)
        first = self._api.c_sglx_fetch(
            byref(data), byref(n_data), *where, start, n_wanted, *channels
        )
        if not first:
            fields = {"from": start, "to": count, "why": self._error()}
            logger.warning("samples are gone: they were not fetched in time", extra=fields)
            first = self._api.c_sglx_fetch(
                byref(data), byref(n_data), *where, count - 1, 1, *channels
            )
            self.n_gaps += 1
        if not first or n_data.value <= 0:
            return none, start
        shape = (n_data.value // len(self._columns), len(self._columns))
        # The memory belongs to the library, and its next call changes it.
        return np.ctypeslib.as_array(data, (n_data.value,)).reshape(shape).copy(), int(first)

    def _gains(self, channels: list[int]) -> NDArray[np.float32]:
        steps = []
        for channel in channels:
            volts = ctypes.c_double()
            is_ok = self._api.c_sglx_getStreamI16ToVolts(
                byref(volts), self._handle, IMEC, self._probe, channel
            )
            if not is_ok or volts.value <= 0:
                raise UserError(
                    f"SpikeGLX has no channel {channel} of imec{self._probe}, which the probe file "
                    f"has: {self._error()}. Give the probe file of this probe."
                )
            steps.append(volts.value * 1e6)
        return np.array(steps, dtype=np.float32)

    def _sync_channel(self, channels: list[int]) -> int:
        """Return the channel of the digital word: the first after AP and LF.

        Raises
        ------
        UserError
            If there is none, or the probe has fewer channels than the probe file.
        """
        n_kinds = ctypes.c_int()
        is_ok = self._api.c_sglx_getStreamAcqChans(byref(n_kinds), self._handle, IMEC, self._probe)
        if not is_ok or n_kinds.value < 3:
            raise UserError(f"SpikeGLX does not give the channels of imec: {self._error()}.")
        n_ap, n_lf, n_sync = (self._api.c_sglx_getint(self._handle, kind) for kind in range(3))
        if max(channels) >= n_ap or not n_sync:
            raise UserError(
                f"imec{self._probe} has {n_ap} channels of action potentials and {n_sync} of sync; "
                f"the probe file has channel {max(channels)}. Give the probe file of this probe."
            )
        return int(n_ap + n_lf)

    def _error(self) -> str:
        text = self._api.c_sglx_getError(self._handle) or b"no reason given"
        return shown(text.decode(errors="replace"))


def load_sdk(package: Path) -> ModuleType:
    """Load ``sglx.py`` from a folder.

    Raises
    ------
    DependencyError
        If it is not there, or its library is not.
    """
    path = package / "sglx.py"
    where = (
        "It is part of SpikeGLX-CPP-SDK (Linux/Python/sglx_pkg), which its author distributes; "
        "name the folder of sglx.py in your copy, with libSglxApi.so on LD_LIBRARY_PATH."
    )
    if not path.is_file():
        raise DependencyError(f"{path}: there is no such file. {where}")
    spec = importlib.util.spec_from_file_location("sglx", path)
    assert spec is not None  # noqa: S101 - the name ends in .py
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise DependencyError(f"{path} cannot be loaded: {error}. {where}") from error
    return module
