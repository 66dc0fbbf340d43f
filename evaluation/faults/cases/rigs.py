"""Acquisition systems, as their emulators play them: lost messages, silence, restarts, clocks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Lock

import numpy as np

from evaluation.faults.case import fault
from evaluation.faults.sockets import free_port
from evaluation.faults.trial import FaultDaemon, FaultProcess, FaultTrial

OPEN_EPHYS = "stream_sources/rigs/open_ephys"
SPIKEGLX = "stream_sources/rigs/spikeglx"
FAULT_AT_S = 6

JUMP_AT_S = 25
"""Later than the sorter has begun, as it loads for some seconds."""

N_CHANNELS, SAMPLES_PER_S = 8, 30_000
SECONDS = 90
"""Of voltages: longer than these cases take."""

VOLTAGES_LOCK = Lock()
"""Cases run at once, and the first of them writes the voltages."""


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


@fault(
    lost="nothing: what was due is written when it goes on",
    tests=[
        f"{SPIKEGLX}/test_source.py::test_silence_is_said_once_and_ends_the_source",
        f"{SPIKEGLX}/test_source.py::test_a_pause_is_no_gap",
    ],
)
def spikeglx_is_silent(trial: FaultTrial) -> None:
    """SpikeGLX: the file of a probe does not grow for a while."""
    writer, source, daemon = followed(trial)
    writer.child.signal(signal.SIGSTOP)
    source.logs("no data: the file has stopped growing", level="WARNING")
    daemon.is_not_ready("silent for too long: sorter")
    daemon.counts("neurrate_streams_blind_total", exactly=1)
    writer.child.signal(signal.SIGCONT)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="what follows, until the source is started again",
    tests=[
        f"{SPIKEGLX}/test_source.py::test_a_file_that_is_cut_ends_the_source_with_its_sizes",
        f"{SPIKEGLX}/test_growing_file.py::test_a_file_that_became_shorter_is_refused",
    ],
)
def spikeglx_truncated(trial: FaultTrial) -> None:
    """SpikeGLX: the file of a probe is cut while it is written."""
    writer, source, daemon = followed(trial)
    writer.child.signal(signal.SIGSTOP)
    path = next((trial.folder / "rig").rglob("*.ap.bin"))
    os.truncate(path, path.stat().st_size // 2)
    source.ends(2, "the file became shorter")
    writer.child.signal(signal.SIGCONT)
    daemon.is_not_ready("sorter")


@fault(
    lost="what was not saved, and the session time of before",
    tests=[f"{SPIKEGLX}/test_source.py::test_the_next_file_is_a_new_run"],
)
def spikeglx_jump(trial: FaultTrial) -> None:
    """SpikeGLX: 2 s are not saved, and the run goes on in its next file."""
    _, _, daemon = followed(trial, "--fault", f"jump@{JUMP_AT_S}:2")
    daemon.counts("neurrate_stream_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()


def followed(trial: FaultTrial, *words: str) -> tuple[FaultProcess, FaultProcess, FaultDaemon]:
    """Start a file that grows, the online sorter that follows it, and a daemon that narrates."""
    with VOLTAGES_LOCK:
        voltages, templates = write_voltages(trial)
    writer = trial.start("spikeglx", "emulate", "spikeglx", voltages, trial.folder / "rig", *words)
    path = writer.child.addresses(deadline_s=60.0)["file"]
    address = trial.address()
    source = trial.start(
        "source", "stream", "sorter", f"spikeglx:{path}", "--templates", templates, "--method",
        "nearest", "--bind", address,
    )  # fmt: skip
    return writer, source, trial.daemon(address).narrates()


def write_voltages(trial: FaultTrial) -> tuple[Path, Path]:
    """Plant the encoder's units in voltages; return the folders of these and of their templates."""
    from spikeinterface import NumpySorting

    from simulation.voltages import plant_units, save_voltages, voltage_recording
    from stream_sources.online_sorter.template_estimation import estimate_templates
    from stream_sources.online_sorter.template_files import write_templates

    voltages, templates = (
        trial.inputs.recording.parent / name for name in ("voltages", "templates")
    )
    if templates.exists():  # of another case
        return voltages, templates
    rng = np.random.default_rng(0)
    units = trial.inputs.population.units
    trains = [np.unique(rng.integers(100, SECONDS * SAMPLES_PER_S - 100, 600)) for _ in units]
    recording = voltage_recording(
        plant_units(len(units), N_CHANNELS, seed=0), trains, SECONDS * SAMPLES_PER_S, seed=0
    )
    saved = save_voltages(recording, voltages)
    sorting = NumpySorting.from_samples_and_labels(
        [np.concatenate(trains)], [np.repeat(range(len(units)), list(map(len, trains)))],
        SAMPLES_PER_S,
    )  # fmt: skip
    named = saved.rename_channels([f"imec0.ap#AP{channel}" for channel in range(N_CHANNELS)])
    made = estimate_templates(named, sorting, origin="planted", units=units)
    templates.mkdir()
    write_templates(templates, made)
    return voltages, templates
