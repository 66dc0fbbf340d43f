"""Sources that die, stop, restart, send other units, or whose clocks jump."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluation.faults.case import fault
from evaluation.faults.scripted_source import ScriptedSource
from evaluation.faults.trial import FaultDaemon, FaultTrial

DAEMON = "system/test_daemon.py"


@fault(
    lost="what its process had not sent yet",
    tests=[f"{DAEMON}::test_silent_source_is_reported_and_its_return_is_taken"],
)
def source_killed(trial: FaultTrial) -> None:
    """Killed (SIGKILL), then started again."""
    source, daemon, address = trial.pair()
    source.child.kill()
    daemon.is_not_ready("silent for too long: nwb")
    daemon.logs("stream is blind")
    daemon.counts("neurrate_streams_blind_total", exactly=1)
    trial.source(address)
    daemon.counts("neurrate_stream_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="nothing: what it held back is sent when it continues",
    tests=["daemon/test_pipeline.py::test_blind_stream_is_not_waited_for_and_comes_back"],
)
def source_stopped(trial: FaultTrial) -> None:
    """Stopped (SIGSTOP), then continued (SIGCONT)."""
    source, daemon, _ = trial.pair()
    source.child.signal(signal.SIGSTOP)
    daemon.is_not_ready("silent for too long: nwb")
    daemon.counts("neurrate_streams_blind_total", exactly=1)
    source.child.signal(signal.SIGCONT)
    daemon.is_ready()
    daemon.narrates()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="nothing that was sent",
    tests=["daemon/test_stream_registry.py::test_restart_begins_from_the_new_hello"],
)
def source_restarted(trial: FaultTrial) -> None:
    """Stopped by its user (SIGTERM), and started again at once."""
    first, daemon, address = trial.pair()
    first.child.ask_to_stop()
    first.ends(0)
    second = trial.source(address)
    daemon.logs("stream restarted")
    daemon.counts("neurrate_stream_restarts_total", exactly=1)
    daemon.is_ready()
    daemon.narrates()
    trial.ends_with_every_spike(daemon, first, second)


@fault(
    lost="nothing was sent",
    tests=["daemon/service/test_http.py::test_not_ready_says_every_reason"],
)
def source_never_there(trial: FaultTrial) -> None:
    """Never there."""
    daemon = trial.daemon(trial.address())
    daemon.is_not_ready("no source has said hello")


@fault(
    lost="its spikes; the daemon waits for the right source",
    tests=[f"{DAEMON}::test_other_population_is_refused_with_the_missing_units"],
)
def source_of_other_units(trial: FaultTrial) -> None:
    """Another recording: none of its units are the encoder's."""
    other = other_recording(trial)
    address = trial.address()
    foreign, daemon = trial.source(address, recording=other), trial.daemon(address)
    daemon.is_not_ready("are not in the encoder's population")
    daemon.counts('neurrate_wire_errors_total{reason="population"}')
    foreign.child.kill()
    trial.source(address)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="windows: none is cut until every unit is announced",
    tests=[f"{DAEMON}::test_stream_that_lacks_units_is_refused_after_a_while"],
)
def source_lacks_units(trial: FaultTrial) -> None:
    """Half of the encoder's units are announced, the rest never."""
    address = trial.address()
    daemon = trial.daemon(address, settings=["ingest.population_timeout_s=1"])
    trial.source(address, "--units", "probe:probeA")
    daemon.is_not_ready("units of the encoder")


@fault(
    lost="nothing: the missing units are held at their mean",
    tests=["daemon/service/test_service.py::test_units_that_nobody_announces_are_done_without"],
)
def source_lacks_units_that_are_held(trial: FaultTrial) -> None:
    """The same with `ingest.missing_units = "mean"`."""
    address = trial.address()
    daemon = trial.daemon(address, settings=["ingest.missing_units=mean"])
    trial.source(address, "--units", "probe:probeA")
    daemon.narrates()
    daemon.notes("held at their mean")


@fault(
    lost="the spikes of the second; the first is read as before",
    tests=[
        "daemon/test_stream_registry.py::test_second_source_of_a_name_is_refused_while_the_first_lives",
        "system/test_stream_clocks.py::test_foreign_flood_of_hellos_and_a_namesake_disturb_nobody",
    ],
)
def two_sources_of_one_name(trial: FaultTrial) -> None:
    """Two sources under one name."""
    addresses = [trial.address(), trial.address()]
    trial.source(addresses[0])
    daemon = trial.daemon(*addresses).narrates()
    trial.source(addresses[1])
    daemon.is_not_ready("two sources send a stream named nwb")
    daemon.counts('neurrate_wire_errors_total{reason="taken"}')
    daemon.narrates()


@contextmanager
def two_probes(trial: FaultTrial) -> Iterator[tuple[FaultDaemon, ScriptedSource, ScriptedSource]]:
    """Run a daemon with two scripted probes."""
    units = trial.inputs.population.units
    half = len(units) // 2
    addresses = [trial.address(), trial.address()]
    with (
        ScriptedSource(addresses[0], units[:half], "probeA") as first,
        ScriptedSource(addresses[1], units[half:], "probeB") as second,
    ):
        yield trial.daemon(*addresses).narrates(), first, second


@fault(
    lost="the ten batches of that probe; windows go on with the other one",
    tests=[
        "daemon/test_stream_clocks.py::test_burst_from_nowhere_is_dropped",
        "system/test_stream_clocks.py::test_broken_clock_costs_its_own_probe_alone",
    ],
)
def clock_glitch(trial: FaultTrial) -> None:
    """The clock of one probe of two jumps an hour ahead for ten batches."""
    with two_probes(trial) as (daemon, _, second):
        second.send_shifted(10, 3600)
        daemon.logs("stream's time jumped", level="WARNING")
        daemon.counts('neurrate_wire_errors_total{reason="jump"}')
        daemon.narrates(10)
        daemon.is_ready()


@fault(
    lost="the spikes of that probe, until its clock agrees again",
    tests=["daemon/test_stream_clocks.py::test_stream_set_aside_is_followed_again"],
)
def clock_back(trial: FaultTrial) -> None:
    """The clock of one probe of two jumps an hour back and stays there."""
    with two_probes(trial) as (daemon, _, second):
        second.shift_s = -3600
        daemon.is_not_ready("probeB is set aside")
        daemon.logs("stream is set aside", level="WARNING")
        daemon.counts("neurrate_streams_aside_total", exactly=1)
        daemon.narrates(10)
        second.shift_s = 0
        daemon.is_ready()


@fault(
    lost="the spikes of that probe, until its clock agrees",
    tests=[
        "daemon/test_stream_clocks.py::test_stream_set_aside_is_followed_again",
        "daemon/service/test_monitor.py::test_stream_set_aside_is_named_with_its_offset",
    ],
)
def probe_ahead(trial: FaultTrial) -> None:
    """The clock of one probe of two is 60 s ahead."""
    with two_probes(trial) as (daemon, _, second):
        second.shift_s = 60
        daemon.is_not_ready("probeB is set aside")
        daemon.counts("neurrate_streams_aside_total", exactly=1)
        daemon.narrates(10)
        second.shift_s = 0
        daemon.counts('neurrate_wire_errors_total{reason="jump"}')
        daemon.is_ready()


def other_recording(trial: FaultTrial) -> Path:
    """Write a recording of other units."""
    from simulation.recording import write_recording

    path = trial.folder / "other.nwb"
    write_recording(path, seconds=30, n_units=20, seed=1)
    return path
