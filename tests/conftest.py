"""What holds for every test: nothing may be left behind."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

# One thread for numerical libraries, here and in the processes that tests start: two test workers
# and their children share two cores, and threads that wait for each other take many times as long.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import psutil
import pytest
import zmq

from tests.support.threads import one_thread

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is behind nohup and `&` of a shell: the processes of tests would ignore Control-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collection makes a million objects that stay: looking through them for garbage, again and
# again, takes a quarter of the time. `pytest_runtestloop` switches the collector on again.
gc.disable()

pytest_plugins = ["tests.support.browser", "tests.support.tiny_bundle"]

REPOSITORY = Path(__file__).parent.parent
REAL_RECORDINGS = REPOSITORY.parent / "shared" / "data"
"""Real recordings, where they lie beside the checkout; never part of it."""

LIBRARY_THREADS = frozenset({"tqdm_monitor", "log"})
"""Threads that are kept for the whole process."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Leave what imports and collection made out of every garbage collection."""
    # Shared memory, as SpikeInterface uses it, starts it, and it is kept for the whole process.
    resource_tracker.ensure_running()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Plugins of pytest load numpy before this file, so the variables alone come too late here."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process."""
    threads_before = set(threading.enumerate())
    children_before = set(psutil.Process().children())
    yield
    threads = [t for t in threading.enumerate() if t not in threads_before and not _is_idle(t)]
    children = [c for c in psutil.Process().children() if c not in children_before]
    for child in children:
        child.kill()
    assert not threads, f"threads left behind: {threads}"
    assert not children, f"processes left behind: {children}"


def _is_idle(thread: threading.Thread) -> bool:
    """Whether a thread belongs to a library that keeps it for the whole process."""
    thread.join(0.5)
    return not thread.is_alive() or thread.name in LIBRARY_THREADS


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A ZeroMQ context that closes every socket left in it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def real_recordings() -> Path:
    """The folder of real recordings, or a skip that says so."""
    if not REAL_RECORDINGS.is_dir():
        pytest.skip("no real recordings beside the checkout")
    return REAL_RECORDINGS
