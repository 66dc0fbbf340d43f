"""Memory, descriptors and threads of the processes of a soak, read with psutil."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.errors import DependencyError

WORKER = "daemon.worker"  # An argument in the command line of the narrator's process


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process uses."""

    pid: int
    # Resident set, 10**6 bytes; pages shared with other processes count in full
    rss_mb: float
    n_descriptors: int  # Open files and sockets
    n_threads: int


def check_soak_libraries() -> None:
    """Refuse to start a soak whose samples could not be taken or evaluated.

    Raises
    ------
    DependencyError
        If psutil or SciPy is not installed.
    """
    try:
        import psutil  # noqa: F401 - only whether it is installed
        import scipy  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"A soak needs {error.name}, which is not installed. Run: pip install 'neurrate[eval]'."
        ) from error


def footprint(pid: int | None) -> Footprint | None:
    """Return what a process uses; None for no process, and for one that has just ended."""
    import psutil

    if pid is None:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Footprint(
                pid, process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()
            )
    except psutil.Error:
        return None


def worker_of(daemon_pid: int) -> int | None:
    """Return the process id of the daemon's narrator worker; None while there is none."""
    import psutil

    try:
        children = psutil.Process(daemon_pid).children()
    except psutil.Error:
        return None
    for child in children:
        try:
            if WORKER in child.cmdline():
                return int(child.pid)
        except psutil.Error:
            continue
    return None
