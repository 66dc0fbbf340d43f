"""Acquisition systems, as their emulators play them: lost messages, silence, restarts, clocks."""

from __future__ import annotations

from evaluation.faults.case import fault
from evaluation.faults.sockets import free_port
from evaluation.faults.trial import FaultDaemon, FaultProcess, FaultTrial

OPEN_EPHYS = "stream_sources/rigs/open_ephys"
FAULT_AT_S = 6


@fault(
    lost="the time from what was sent to the end of the block after the hole, as a gap",
    tests=[
        f"{OPEN_EPHYS}/test_acquisition.py::test_time_in_which_messages_were_lost_is_not_covered",
        "system/test_open_ephys.py::test_planted_faults_lose_what_they_must_and_it_is_counted",
    ],
)
def gui_loses_messages(trial: FaultTrial) -> None:
    """Open Ephys: 40 messages of the plugin are lost."""
    _, source, daemon = rig(trial, f"gap@{FAULT_AT_S}:40")
    source.logs("messages lost", level="WARNING")
    source.logs("gap", level="WARNING")
    daemon.counts("neurrate_gap_bins_total")
    daemon.narrates()
    daemon.is_ready()


@fault(
    lost="nothing: what was due is sent when it goes on",
    tests=[
        f"{OPEN_EPHYS}/test_source.py::test_planted_faults_are_counted_to_the_spike",
        "daemon/test_pipeline.py::test_blind_stream_is_not_waited_for_and_comes_back",
    ],
)
def gui_is_silent(trial: FaultTrial) -> None:
    """Open Ephys: the probe is silent for 5 s."""
    _, source, daemon = rig(trial, f"pause@{FAULT_AT_S}:5")
    source.logs("no data: the acquisition has stopped", level="WARNING")
    daemon.is_not_ready("silent for too long: open-ephys")
    daemon.counts("neurrate_streams_blind_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="the session time of before: the session begins anew",
    tests=[f"{OPEN_EPHYS}/test_source.py::test_planted_faults_are_counted_to_the_spike"],
)
def gui_begins_again(trial: FaultTrial) -> None:
    """Open Ephys: the acquisition is stopped and started; samples count from 0 again."""
    _, source, daemon = rig(trial, f"restart@{FAULT_AT_S}")
    source.logs("new run", level="WARNING")
    daemon.logs("stream restarted")
    daemon.counts("neurrate_stream_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="what the GUI did not acquire, and the session time of before",
    tests=[f"{OPEN_EPHYS}/test_source.py::test_the_gui_may_be_closed_and_opened"],
)
def gui_killed(trial: FaultTrial) -> None:
    """Open Ephys: the GUI is killed (SIGKILL), and opened again."""
    gui, source, daemon = rig(trial)
    address = gui.child.addresses(deadline_s=60.0)["data"]
    gui.child.kill()
    source.logs("no data: the acquisition has stopped", level="WARNING")
    daemon.is_not_ready("silent for too long: open-ephys")
    emulated(trial, address)
    source.logs("new run", level="WARNING")
    daemon.counts("neurrate_stream_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()


def rig(trial: FaultTrial, *faults: str) -> tuple[FaultProcess, FaultProcess, FaultDaemon]:
    """Start a GUI that plays the recording, its source, and a daemon that narrates it."""
    gui = emulated(trial, f"tcp://127.0.0.1:{free_port()}", *faults)
    data = gui.child.addresses(deadline_s=60.0)["data"]
    address = trial.address()
    source = trial.start(
        "source", "stream", "open-ephys", trial.folder / "units.csv", "--connect", data, "--bind",
        address,
    )  # fmt: skip
    return gui, source, trial.daemon(address).narrates()


def emulated(trial: FaultTrial, address: str, *faults: str) -> FaultProcess:
    """Start a GUI that begins once its source listens."""
    planted = [word for text in faults for word in ("--fault", text)]
    return trial.start(
        "gui", "emulate", "open-ephys", trial.inputs.recording, "--table",
        trial.folder / "units.csv", "--bind", address, *planted,
    )  # fmt: skip
