"""The narrator's process, its model and its servers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from evaluation.faults.case import fault
from evaluation.faults.trial import FaultTrial

TINY_LLAVA = Path(__file__).parents[3] / "simulation" / "weights" / "tiny-llava"

DAEMON = "system/test_daemon.py"


@fault(
    lost="the window that it narrated, published as failed",
    tests=[f"{DAEMON}::test_killed_worker_is_replaced_and_windows_go_on"],
)
def worker_killed(trial: FaultTrial) -> None:
    """Killed (SIGKILL)."""
    source, daemon, _ = trial.pair()
    os.kill(daemon.worker_pid, signal.SIGKILL)
    daemon.logs("narrator worker died")
    daemon.is_not_ready("the narrator worker is loading its model")
    daemon.counts("neurrate_worker_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="the window that it narrated, published as failed",
    tests=["daemon/worker/test_client_processes.py::test_killed_worker_is_replaced"],
)
def worker_crashes(trial: FaultTrial) -> None:
    """Crashes (SIGSEGV), as a GPU driver makes it."""
    source, daemon, _ = trial.pair()
    os.kill(daemon.worker_pid, signal.SIGSEGV)
    daemon.logs("narrator worker died")
    daemon.counts("neurrate_worker_restarts_total", exactly=1)
    daemon.narrates()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="the windows of that time, counted",
    tests=[f"{DAEMON}::test_stopped_narrator_delays_nothing"],
)
def worker_stopped(trial: FaultTrial) -> None:
    """Stopped (SIGSTOP), then continued."""
    source, daemon, _ = trial.pair()
    worker = daemon.worker_pid
    os.kill(worker, signal.SIGSTOP)
    try:
        daemon.is_not_ready("the narrator worker has missed its heartbeat")
        daemon.logs("narrator worker has no heartbeat")
    finally:
        os.kill(worker, signal.SIGCONT)
    daemon.counts('neurrate_windows_dropped_total{reason="narrator_busy"}')
    daemon.is_ready()
    daemon.narrates()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="nothing: it happens before the first spike",
    tests=["daemon/narrators/llava/test_narrator.py::test_folder_without_weights_says_what_to_do"],
)
def model_is_broken(trial: FaultTrial) -> None:
    """The model cannot be loaded."""
    model = trial.folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{")
    daemon = trial.daemon(
        trial.address(),
        settings=["narrator.backend=llava", f"narrator.model={model}"],
    )
    daemon.ends(2, "the narrator cannot start")


@fault(
    lost="nothing: it happens before the first spike",
    tests=["daemon/narrators/vllm/test_start.py::test_no_server_is_a_missing_dependency"],
)
def no_vllm_server(trial: FaultTrial) -> None:
    """No vLLM server answers at the start."""
    url = trial.address().replace("tcp", "http")
    daemon = trial.daemon(
        trial.address(),
        settings=["narrator.backend=vllm", f"vllm.urls={url}", f"narrator.model={TINY_LLAVA}"],
    )
    daemon.ends(3, "127.0.0.1")
