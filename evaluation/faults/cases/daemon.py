"""The daemon: ended, started where it cannot be, asked by hostile HTTP clients."""

from __future__ import annotations

import signal
import socket
import time
from urllib.parse import urlsplit

from evaluation.faults.case import fault
from evaluation.faults.observations import expect, wait_for
from evaluation.faults.trial import FaultTrial, get

DAEMON = "system/test_daemon.py"


@fault(
    lost="the windows in progress, and what the source sends until the next one listens",
    tests=[
        "system/test_daemon.py::test_source_outlives_a_killed_daemon_and_the_worker_does_not",
        "contracts/test_temporary_folder.py::test_folder_of_a_killed_process_is_removed_by_the_next",
    ],
)
def daemon_killed(trial: FaultTrial) -> None:
    """Killed (SIGKILL), then started again."""
    source, daemon, address = trial.pair()
    worker = daemon.worker_pid
    daemon.child.kill()
    wait_for(
        lambda: True if worker not in {p.pid for p in trial.orphans()} else None,
        lambda: "the end of its worker",
    )
    expect(source.child.is_running, "the source to go on")
    second = trial.daemon(address).narrates()
    second.is_ready()
    second.counts("neurrate_batches_lost_total", exactly=0)
    trial.ends_with_every_spike(second, source)
    left = sorted(path.name for path in trial.temporary.iterdir())
    expect(not left, f"no temporary file, got {left}")


@fault(
    lost="nothing: the window in progress is narrated first",
    tests=[f"{DAEMON}::test_first_signal_stops_gently"],
)
def daemon_terminated(trial: FaultTrial) -> None:
    """Asked to stop (SIGTERM) while it narrates."""
    _, daemon, _ = trial.pair()
    daemon.child.signal(signal.SIGTERM)
    daemon.ends(0, deadline_s=15)
    daemon.logs("asked to stop")
    counters = daemon.summary()["counters"]
    n_narrated = counters["narrations"]["ok"] + counters["narrations"]["truncated"]
    dropped = sum(counters["windows_dropped"].values())
    expect(counters["windows"] == n_narrated + dropped, f"windows to add up: {counters}")


@fault(
    lost="nothing: it does not start",
    tests=[f"{DAEMON}::test_taken_port_is_reported"],
)
def port_taken(trial: FaultTrial) -> None:
    """Its publish address is taken."""
    _, first, address = trial.pair()
    second = trial.daemon(address, publish=first.publish)
    second.ends(2, "address already in use")
    first.narrates()


@fault(
    lost="nothing: it does not start",
    tests=["daemon/service/test_http.py::test_a_taken_port_is_the_users_error"],
)
def http_port_taken(trial: FaultTrial) -> None:
    """Its HTTP port is taken."""
    _, first, address = trial.pair()
    second = trial.daemon(address, settings=[f"http.port={urlsplit(first.http).port}"])
    second.ends(2, "address already in use")


@fault(
    lost="nothing: the file is as it was",
    tests=["peer_guard/test_listening.py::test_a_file_is_never_removed"],
)
def bind_to_a_file(trial: FaultTrial) -> None:
    """Its publish address is the path of a file."""
    precious = trial.folder / "precious.txt"
    precious.write_text("precious")
    trial.daemon(trial.address(), publish=f"ipc://{precious}").ends(2, "precious")
    expect(precious.read_text() == "precious", "the file to be as it was")


@fault(
    lost="nothing: the first one keeps its subscribers",
    tests=["peer_guard/test_listening.py::test_a_living_process_keeps_its_path"],
)
def ipc_path_taken(trial: FaultTrial) -> None:
    """Its ipc path is that of a daemon that runs."""
    publish = f"ipc://{trial.folder}/publish"
    _, first, address = trial.pair(publish=publish)
    trial.daemon(address, publish=publish).ends(2, "publish")
    first.narrates()


@fault(
    lost="nothing",
    tests=["peer_guard/test_listening.py::test_the_socket_of_a_dead_process_is_replaced"],
)
def ipc_path_left_over(trial: FaultTrial) -> None:
    """Its ipc path is left over from a daemon that was killed."""
    publish = f"ipc://{trial.folder}/publish"
    _, first, address = trial.pair(publish=publish)
    first.child.kill()
    trial.daemon(address, publish=publish).narrates().is_ready()


@fault(
    lost="nothing: it does not start",
    tests=[
        "contracts/test_address.py::test_other_addresses_need_a_word",
        "contracts/test_address.py::test_the_same_rule_for_http",
    ],
)
def open_to_everybody(trial: FaultTrial) -> None:
    """An address that other machines can reach, without keys, a token or `--insecure`."""
    trial.daemon(trial.address(), publish="tcp://0.0.0.0:*").ends(2, "insecure")
    trial.daemon(trial.address(), publish="tcp://127.0.0.1:0;0.0.0.0:0").ends(2, "one address")
    trial.daemon(trial.address(), settings=["http.host=0.0.0.0"]).ends(2, "insecure")


@fault(
    lost="nothing: others are answered, and SIGTERM ends it as usual",
    tests=[
        "daemon/service/test_http.py::test_a_request_that_drips_has_one_deadline",
        "daemon/service/test_http.py::test_close_does_not_wait_for_peers",
    ],
)
def dripping_client(trial: FaultTrial) -> None:
    """An HTTP client that sends one byte a second."""
    _, daemon, _ = trial.pair()
    parts = urlsplit(daemon.http)
    clients = [socket.create_connection((parts.hostname, parts.port)) for _ in range(50)]
    try:
        for byte in b"GET /":
            for client in clients:
                client.sendall(bytes([byte]))
            begun = time.monotonic()
            status, _ = get(f"{daemon.http}/healthz")
            expect(status == 200, f"/healthz 200, got {status}")
            expect(time.monotonic() - begun < 1, "/healthz to answer within a second")
            time.sleep(0.2)
        begun = time.monotonic()
        daemon.child.signal(signal.SIGTERM)
        daemon.ends(0, deadline_s=12)
    finally:
        for client in clients:
            client.close()
