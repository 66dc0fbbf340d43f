"""What a process takes: memory, descriptors, threads, as Linux says in /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import DependencyError

PROC = Path("/proc")

WORKER = "daemon.worker"
"""Stands in the command line of the narrator's process."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one process takes.

    Attributes
    ----------
    pid : int
    rss_mb : float
        Memory in use (resident set), 10**6 bytes; pages shared with others count in full.
    n_descriptors : int
        Open files and sockets.
    n_threads : int
    """

    pid: int
    rss_mb: float
    n_descriptors: int
    n_threads: int


def check_proc() -> None:
    """Refuse a system without /proc.

    Raises
    ------
    DependencyError
        If there is none.
    """
    if not (PROC / "self" / "statm").is_file():
        raise DependencyError(
            "A soak reads memory and descriptors in /proc, which Linux has and this system has not."
        )


def footprint(pid: int | None) -> Footprint | None:
    """Look at a process.

    Parameters
    ----------
    pid : int or None

    Returns
    -------
    Footprint or None
        None for no process, and for one that has just ended.
    """
    if pid is None:
        return None
    folder = PROC / str(pid)
    try:
        n_pages = int((folder / "statm").read_text().split()[1])
        n_descriptors = len(os.listdir(folder / "fd"))  # noqa: PTH208 - names are not needed
        n_threads = len(os.listdir(folder / "task"))  # noqa: PTH208
    except OSError:
        return None
    return Footprint(pid, n_pages * os.sysconf("SC_PAGE_SIZE") / 1e6, n_descriptors, n_threads)


def worker_of(daemon_pid: int) -> int | None:
    """Return the process id of the daemon's narrator worker; None while there is none."""
    for pid in _children(daemon_pid):
        try:
            words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if WORKER.encode() in words:
            return pid
    return None


def _children(pid: int) -> list[int]:
    try:
        tasks = sorted((PROC / str(pid) / "task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
