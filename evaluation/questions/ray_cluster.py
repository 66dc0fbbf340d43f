"""Runs tasks on a Ray cluster: one that is running, or one of this machine's processors.

The machines of a cluster need this package, in the same version, and the files at the same paths.
Only this process writes results.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from contracts.errors import DependencyError, UserError
from contracts.temporary_folder import TemporaryFolder

LOCAL = "local"
"""The address of a cluster that is started here, and ends with the work."""

TASKS_EACH = 4
"""Tasks that a worker has in one turn. Ray's back-end of joblib returns a turn as a whole: results
are kept, and progress is shown, after each; more tasks wait less for the slowest."""

OBJECT_STORE_BYTES = 100 << 20
"""Memory that Ray sets apart for what passes between its processes: here sentences alone."""

CONNECT_S = 10.0

TOKEN = Path("~/.ray/auth_token").expanduser()
"""Where Ray looks for the token of a cluster."""

T = TypeVar("T")


def run_on_ray(
    calls: Sequence[tuple[Callable[..., T], tuple[Any, ...], dict[str, Any]]],
    address: str,
    *,
    workers: int | None,
    on_gpus: bool,
) -> Iterator[T]:
    """Yield the results of `joblib.delayed` calls, in any order.

    `workers` is at most what the cluster has, and all of that for None: processors, or with
    `on_gpus` one GPU for each.

    Raises
    ------
    UserError
        If no cluster answers there, or it has no GPU. What a task raises is raised here.
    DependencyError
        If Ray is not installed.
    """
    from joblib import Parallel, parallel_config

    with _connected(address, workers) as ray:
        from ray.util.joblib import register_ray

        register_ray()
        kind = "GPU" if on_gpus else "CPU"
        n_available = int(ray.cluster_resources().get(kind, 0))
        if not n_available:
            raise UserError(f"the Ray cluster {address} has no {kind}. Start its nodes with some.")
        n_jobs = min(workers or n_available, n_available, len(calls))
        needs = {"num_cpus": 1, "num_gpus": int(on_gpus)}
        # One pool for all turns, so that each worker loads its model once.
        with (
            parallel_config("ray", ray_remote_args=needs),
            Parallel(n_jobs, batch_size=1, max_nbytes=None) as parallel,
        ):
            n_turn = n_jobs * TASKS_EACH
            for first in range(0, len(calls), n_turn):
                try:
                    yield from parallel(calls[first : first + n_turn])
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error


@contextmanager
def _connected(address: str, workers: int | None) -> Iterator[Any]:
    """Connect to a cluster, or start one on loopback; a started one ends with its processes.

    Raises
    ------
    UserError
        If no cluster answers there.
    DependencyError
        If Ray is not installed.
    """
    _set_environment(address)
    try:
        import ray
    except ImportError as error:
        raise DependencyError("--ray needs Ray. Run: pip install 'neurrate[ray]'.") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with ExitStack() as stack:
        if address == LOCAL:
            folder = stack.enter_context(TemporaryFolder())
            options |= {
                "num_cpus": workers or len(os.sched_getaffinity(0)),
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(folder),
                "_node_ip_address": "127.0.0.1",
            }
        else:
            options["address"] = address
        try:
            _check_answers(address)
            ray.init(**options)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--ray takes the address of a cluster of which this machine is a node, as 'ray "
                f"start' prints it, or {LOCAL}; {address}: {error}."
            ) from error
        stack.callback(ray.shutdown)
        yield ray


def _set_environment(address: str) -> None:
    """Set what Ray reads when it is imported, but for what the user has set.

    No statistics of use; and a token for whoever connects, which Ray asks for where there is one. A
    cluster that starts here has its own, or Ray would keep one in the home of the user.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or TOKEN.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_answers(address: str) -> None:
    """Connect once: Ray tries for a minute, and then ends the process.

    Raises
    ------
    OSError, ValueError
        If nothing listens there, or it is no address.
    """
    if address != LOCAL:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
