"""Processor cores of the daemon and of the worker."""

from __future__ import annotations

import os
from threading import Thread

import pytest

from contracts.errors import SettingsError
from daemon.cores import check_cores, keep_to_cores, usable_cores


def test_core_that_is_not_there_is_refused():
    """With the setting, and the cores that are."""
    with pytest.raises(SettingsError, match=r"service\.cores must be among the usable cores 0?.*"):
        check_cores((4095,), setting="service.cores")
    check_cores(usable_cores(), setting="service.cores")


def test_thread_and_what_it_starts_keep_to_their_cores():
    """Where none are named nothing is changed."""
    found: list[set[int]] = []

    def run() -> None:
        keep_to_cores(())
        found.append(os.sched_getaffinity(0))
        keep_to_cores(usable_cores()[:1])
        child = Thread(target=lambda: found.append(os.sched_getaffinity(0)))
        child.start()
        child.join()

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert found == [set(usable_cores()), set(usable_cores()[:1])]
