"""Disks, pipes, files and programs around the daemon."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import h5py

from evaluation.faults.case import fault
from evaluation.faults.trial import FaultDaemon, FaultProcess, FaultTrial

NWB = "stream_sources/recordings/test_nwb.py"
POPULATIONS = ", ".join(f'{name} = "all"' for name in "abcdefgh")
"""Eight log lines a window."""


@fault(
    lost="log lines, counted; windows and narrations go on",
    tests=["daemon/service/test_logs.py::test_a_reader_that_does_not_read_stops_nobody"],
)
def stderr_not_read(trial: FaultTrial) -> None:
    """Nobody reads the daemon's standard error."""
    fifo = trial.folder / "stderr"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # A pipe that is full from the start.
        writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(writer, bytes(4096))
        except BlockingIOError:
            pass
        prefix = ("bash", "-c", f'exec "$@" 2>{fifo}', "--")
        settings = ["log.level=DEBUG", f"populations={{{POPULATIONS}}}"]
        source, daemon, _ = trial.pair(speed="10", settings=settings, prefix=prefix)
        daemon.counts("neurrate_log_lines_dropped_total")
        daemon.is_ready()
        trial.ends_with_every_spike(daemon, source)
        os.close(writer)
    finally:
        os.close(reader)


@fault(
    lost="the summary",
    tests=["contracts/test_atomic_files.py::test_a_write_that_fails_leaves_what_was_there"],
)
def disk_full(trial: FaultTrial) -> None:
    """The disk is full when the summary is written."""
    address = trial.address()
    trial.source(address)
    # The limit of 1,024 bytes a file does for the summary what a full disk does; the log leaves
    # through a program that was started before it.
    limited = 'exec > >(cat) 2>&1; ulimit -f 1; exec "$@"'
    daemon = trial.daemon(address, prefix=("bash", "-c", limited, "--")).narrates()
    daemon.child.ask_to_stop()
    daemon.ends(2, "annot write")


@fault(
    lost="what came since the last flush, and what waited; the daemon and other subscribers go on",
    tests=[
        "system/test_recorder.py::test_full_disk_ends_the_recorder_and_says_what_is_lost",
        "subscribers/recorder/test_journal_writer.py::test_full_disk_ends_the_journal_at_its_last_flush",
    ],
)
def disk_of_the_recorder_full(trial: FaultTrial) -> None:
    """The disk that a recorder writes to is full."""
    source, daemon, address = trial.pair()
    limited = 'exec > >(cat) 2>&1; ulimit -f 64; exec "$@"'
    recorder = trial.recorder(address, daemon.publish, prefix=("bash", "-c", limited, "--"))
    recorder.ends(2, "Cannot record to")
    n_unwritten = recorder.summary()["n_unwritten"]
    trial.observations.counted.append(f"`n_unwritten` {n_unwritten}")
    daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="nothing that came before; the daemon and other subscribers go on",
    tests=[
        "subscribers/recorder/test_journal_writer.py::test_recording_stops_before_the_disk_is_full"
    ],
)
def disk_of_the_recorder_nearly_full(trial: FaultTrial) -> None:
    """The disk that a recorder writes to has less left than `--min-free-mb`."""
    source, daemon, address = trial.pair()
    recorder = trial.recorder(address, daemon.publish, "--min-free-mb", 1_000_000)
    recorder.ends(2, "--min-free-mb")
    daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="log lines",
    tests=["cli/test_process.py::test_closed_and_full_descriptors_change_nothing_else"],
)
def log_on_a_full_disk(trial: FaultTrial) -> None:
    """The disk that the log goes to is full."""
    prefix = ("bash", "-c", 'exec "$@" 2>/dev/full', "--")
    source, daemon, _ = trial.pair(prefix=prefix)
    daemon.narrates(10)
    daemon.is_ready()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="connections beyond the limit, and the window that the worker narrated",
    tests=["daemon/worker/test_process.py::test_start_that_the_system_refuses_is_tried_again"],
)
def descriptors_run_out(trial: FaultTrial) -> None:
    """More connections than the process may have open (ulimit -n), and a worker that dies then."""
    source, daemon, _ = trial.pair(prefix=("bash", "-c", 'ulimit -n 64; exec "$@"', "--"))
    parts, worker = urlsplit(daemon.http), daemon.worker_pid
    host, _, port = daemon.publish.removeprefix("tcp://").rpartition(":")
    with ExitStack() as stack:
        for address in 100 * [(parts.hostname, parts.port), (host, int(port))]:
            stack.enter_context(socket.create_connection(address))
        os.kill(worker, signal.SIGKILL)
        daemon.logs("narrator worker cannot be started", level="ERROR")
    daemon.counts("neurrate_worker_restarts_total")
    daemon.is_ready()
    daemon.narrates()
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="nothing: it does not start",
    tests=["daemon/worker/test_client.py::test_folder_too_deep_for_a_socket_is_the_users_error"],
)
def no_temporary_folder(trial: FaultTrial) -> None:
    """The path of the temporary folder is too long for a socket."""
    folder = trial.folder / ("long" * 30)
    folder.mkdir()
    daemon = trial.daemon(trial.address(), environment={"TMPDIR": str(folder)})
    daemon.ends(2, "temporary folder")


@fault(lost="nothing", tests=[f"{NWB}::test_a_path_to_nothing_is_refused"])
def recording_missing(trial: FaultTrial) -> None:
    """The recording is not there."""
    source = trial.source(trial.address(), recording=trial.folder / "none.nwb")
    source.ends(2, "none.nwb")


@fault(
    lost="nothing",
    tests=["stream_sources/recordings/test_nwb.py::test_a_file_that_was_cut_says_so"],
)
def recording_truncated(trial: FaultTrial) -> None:
    """The recording was cut off while it was copied."""
    path = trial.folder / "cut.nwb"
    content = trial.inputs.recording.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    trial.source(trial.address(), recording=path).ends(2, "cut.nwb")


@fault(
    lost="nothing",
    tests=[
        "stream_sources/recordings/test_nwb_opening.py::test_a_file_that_a_writer_holds_open_is_not_called_damaged"
    ],
)
def recording_held_open(trial: FaultTrial) -> None:
    """The recording is held open by a program that writes it."""
    path = trial.folder / "held.nwb"
    shutil.copy(trial.inputs.recording, path)
    with h5py.File(path, "r+", locking=True):
        trial.source(trial.address(), recording=path).ends(2, "open")


@fault(
    lost="what was not sent",
    tests=["system/test_daemon.py::test_silent_source_is_reported_and_its_return_is_taken"],
)
def recording_truncated_in_play(trial: FaultTrial) -> None:
    """The recording is truncated while it is played."""
    path = trial.folder / "played.nwb"
    shutil.copy(trial.inputs.recording, path)
    address = trial.address()
    source = trial.source(address, "--speed", "100", recording=path)
    daemon = trial.daemon(address).narrates()
    os.truncate(path, 10_000)
    source.ends(-signal.SIGBUS)  # the file is mapped, and no page is behind the address any more
    daemon.is_not_ready("silent for too long")


@fault(
    lost="nothing: it does not start",
    tests=["contracts/test_manifest.py::test_all_files_at_once"],
)
def bundle_changed(trial: FaultTrial) -> None:
    """A file of the bundle was changed."""
    bundle = _copy_of_the_bundle(trial)
    with (bundle / "encoder.onnx").open("ab") as file:
        file.write(b"\0")
    trial.daemon(trial.address(), bundle=bundle).ends(2, "encoder.onnx")


@fault(
    lost="narrations, until the daemon is restarted or the bundle is back; windows go on",
    tests=[
        "daemon/worker/test_client_processes.py::test_bundle_that_was_replaced_is_the_users_error"
    ],
)
def bundle_replaced(trial: FaultTrial) -> None:
    """The bundle is replaced while the daemon runs, and the narrator's process restarts."""
    bundle = _copy_of_the_bundle(trial)
    _, daemon, _ = trial.pair(bundle=bundle)
    manifest = bundle / "manifest.json"
    original = manifest.read_text()
    manifest.write_text(original.replace('"recording": "faults"', '"recording": "another"'))
    os.kill(daemon.worker_pid, signal.SIGKILL)
    daemon.is_not_ready("it was replaced since the daemon started")
    manifest.write_text(original)
    daemon.is_ready()
    daemon.narrates()


@fault(
    lost="nothing: it does not start",
    tests=["daemon/encoders/test_graph_file.py::test_either_mark_of_external_data_is_enough"],
)
def external_weights(trial: FaultTrial) -> None:
    """Weights of the encoder in a file that the manifest does not list."""
    import json

    import onnx

    from contracts.manifest import sha256_of

    bundle = _copy_of_the_bundle(trial)
    graph = onnx.load(bundle / "encoder.onnx")
    onnx.save(graph, bundle / "encoder.onnx", save_as_external_data=True, location="weights.bin")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["sha256"]["encoder.onnx"] = sha256_of(bundle / "encoder.onnx")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    trial.daemon(trial.address(), bundle=bundle).ends(2, "weights.bin")


def _with_sink(
    trial: FaultTrial, sink: str, *, speed: str = "1"
) -> tuple[FaultProcess, FaultDaemon, str]:
    rules = trial.folder / "rules.toml"
    words = ("car", "dog", "dark")
    text = "\n".join(
        f'[triggers.{word}]\nwhen = \'narration of all says "{word}"\'\nsinks = ["sink"]'
        for word in words
    )
    rules.write_text(f"{text}\n[sinks.sink]\ntimeout_s = 0.2\n{sink}\n")
    return trial.pair(speed=speed, settings=[f"triggers.rules={rules}"])


@fault(
    lost="triggers to that sink, counted",
    tests=["daemon/triggers/test_sinks.py::test_a_server_that_drips_is_left"],
)
def sink_hangs(trial: FaultTrial) -> None:
    """The HTTP server of a trigger's sink does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = "http://{}:{}".format(*server.getsockname())
        source, daemon, _ = _with_sink(trial, f'kind = "http"\nurl = "{url}"')
        daemon.logs("trigger not delivered", level="WARNING")
        daemon.counts('neurrate_trigger_sink_failed_total{sink="sink"}')
        daemon.narrates(10)
        trial.ends_with_every_spike(daemon, source)


@fault(
    lost="triggers to that sink, counted",
    tests=[
        "daemon/triggers/test_sinks.py::test_http_without_a_server_is_a_failure",
        "daemon/triggers/test_sink_thread.py::test_deliveries_that_fail_in_a_row_are_a_problem",
    ],
)
def sink_is_down(trial: FaultTrial) -> None:
    """The HTTP server of a trigger's sink is down."""
    url = trial.address().replace("tcp", "http")
    source, daemon, _ = _with_sink(trial, f'kind = "http"\nurl = "{url}"')
    daemon.logs("trigger not delivered", level="WARNING")
    daemon.counts('neurrate_trigger_sink_failed_total{sink="sink"}')
    daemon.is_not_ready("deliveries to the sink sink failed")
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="triggers to that sink, counted",
    tests=[
        "daemon/triggers/test_sinks.py::test_a_command_that_ends_at_once_is_not_started_in_a_hurry"
    ],
)
def sink_program_ends(trial: FaultTrial) -> None:
    """The program of a trigger's sink ends at once."""
    source, daemon, _ = _with_sink(trial, 'kind = "command"\ncommand = "false"')
    daemon.logs("trigger not delivered", level="WARNING")
    daemon.counts('neurrate_trigger_sink_failed_total{sink="sink"}')
    daemon.narrates(10)
    trial.ends_with_every_spike(daemon, source)


@fault(
    lost="triggers to that sink, counted",
    tests=["daemon/triggers/test_sinks.py::test_a_command_that_does_not_read_is_replaced"],
)
def sink_program_hangs(trial: FaultTrial) -> None:
    """The program of a trigger's sink does not read."""
    sink = 'kind = "command"\ncommand = "sleep 1000"'
    source, daemon, _ = _with_sink(trial, sink, speed="20")  # a pipe holds a hundred triggers
    daemon.logs("trigger not delivered", level="WARNING")
    daemon.counts('neurrate_trigger_sink_failed_total{sink="sink"}')
    daemon.narrates(10)
    trial.ends_with_every_spike(daemon, source)


def _copy_of_the_bundle(trial: FaultTrial) -> Path:
    bundle = trial.folder / "bundle"
    shutil.copytree(trial.inputs.bundle, bundle)
    return bundle
