"""Stands in for ``sglx.py`` of SpikeGLX's SDK: the functions that are used, with its signatures.

Copied to a folder of its own by the test; what a "SpikeGLX" does is in `state`.
"""

# ruff: noqa: N802
import ctypes
from types import SimpleNamespace
from typing import Any

state = SimpleNamespace(
    samples=None,  # (n_samples, n_channels), int16; sample 0 is the first of the run
    n_buffered=10_000,  # older ones are gone
    n_acquired=0,
    rate_hz=30_000.0,
    n_channels=(4, 4, 1),
    error=b"",
    n_destroyed=0,
    n_connected=0,
    is_connected=True,
    kept=None,
)


def c_sglx_createHandle() -> int:
    return 7


def c_sglx_destroyHandle(handle: int) -> None:
    state.n_destroyed += 1


def c_sglx_connect(handle: int, host: bytes, port: int) -> bool:
    is_listening = port == 4142 and state.is_connected
    state.error = b"" if is_listening else b"connection refused"
    state.n_connected += is_listening
    return is_listening


def c_sglx_close(handle: int) -> bool:
    return True


def c_sglx_getError(handle: int) -> bytes:
    return bytes(state.error)


def c_sglx_getStreamSampleRate(handle: int, js: int, ip: int) -> float:
    return float(state.rate_hz) if (js, ip) == (2, 0) else 0.0


def c_sglx_getStreamAcqChans(n: Any, handle: int, js: int, ip: int) -> bool:
    n._obj.value = 3
    return True


def c_sglx_getint(handle: int, i: int) -> int:
    return int(state.n_channels[i])


def c_sglx_getStreamI16ToVolts(mult: Any, handle: int, js: int, ip: int, chan: int) -> bool:
    mult._obj.value = 2e-6 * (chan + 1)
    return bool(chan < state.n_channels[0])


def c_sglx_isRunning(running: Any, handle: int) -> bool:
    running._obj.value = state.n_acquired > 0
    return bool(state.is_connected)


def c_sglx_getStreamSampleCount(handle: int, js: int, ip: int) -> int:
    state.error = b"" if state.is_connected else b"connection reset"
    return int(state.n_acquired) if state.is_connected else 0


def c_sglx_fetch(
    data: Any, n_data: Any, handle: int, js: int, ip: int, start: int, max_samps: int,
    channels: Any, n_cs: int, downsample: int,
) -> int:  # fmt: skip
    if start < state.n_acquired - state.n_buffered:
        state.error = b"FETCH: Too late."
        return 0
    stop = min(start + max_samps, state.n_acquired)
    taken = state.samples[start:stop][:, list(channels)[:n_cs]]
    state.kept = (ctypes.c_short * taken.size)(*taken.ravel().tolist())
    data._obj.contents = ctypes.cast(state.kept, ctypes.POINTER(ctypes.c_short)).contents
    n_data._obj.value = taken.size
    return start
