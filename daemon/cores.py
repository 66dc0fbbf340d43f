"""Which processor cores a process may use."""

from __future__ import annotations

import os
from collections.abc import Sequence

from contracts.errors import SettingsError


def usable_cores() -> tuple[int, ...]:
    """Return the cores that this process may use now."""
    return tuple(sorted(os.sched_getaffinity(0)))


def check_cores(cores: Sequence[int], *, setting: str) -> None:
    """Refuse what is no core that this process may use.

    Raises
    ------
    SettingsError
        With those that it may use.
    """
    usable = usable_cores()
    if not set(cores) <= set(usable):
        numbers = ", ".join(map(str, usable))
        raise SettingsError([f"{setting} must be among the usable cores {numbers}, got {cores}"])


def keep_to_cores(cores: Sequence[int]) -> None:
    """Keep this thread, and those that it starts from now on, to some cores; none: to all."""
    if cores:
        os.sched_setaffinity(0, cores)
