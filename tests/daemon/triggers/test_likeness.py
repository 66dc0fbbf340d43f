"""Likeness in a process of its own, with the real sentence model."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from contracts.clock import Clock, HostClock
from daemon.service.settings import LogSettings
from daemon.triggers.likeness_client import ANSWER_S, MAX_WAITING, LikenessClient
from daemon.triggers.sentence_model import model_folder
from tests.support.daemon_components import Context
from tests.support.manual_clock import ManualClock
from tests.support.narrations import narration
from tests.support.wait_until import wait_until

SENTENCE = "darkness or shadows"


def _client(context: Context, model: str, clock: Clock) -> LikenessClient:
    log = LogSettings(level="ERROR").model_dump_json()
    return LikenessClient(context, [SENTENCE, "a dog"], model=model, log=log, clock=clock)


def _worker_of(client: LikenessClient) -> int:
    assert client.worker_pid is not None
    return client.worker_pid


@pytest.mark.timeout(900)  # a process of low priority loads torch, on a busy machine
def test_likeness_of_narrations(context: Context):
    """The nearer sentence has the larger cosine; few wait; a worker that ends or hangs is replaced.

    One test for the whole life: the model takes seconds to load, and is loaded once.
    """
    clock = ManualClock()
    client = _client(context, model_folder(None), clock)
    found: dict[str, Mapping[str, float]] = {}

    def collect(n: int) -> bool:
        found.update({said.id: cosines for said, cosines in client.collect()})
        return len(found) >= n

    try:
        for seq in range(MAX_WAITING + 3):
            client.submit(narration(seq=seq))
        assert (client.n_dropped, client.n_unfinished, client.problem) == (3, MAX_WAITING, "")
        first = _worker_of(client)
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: collect(0) and client.worker_pid is None, what="the worker's death")
        assert (client.n_dropped, client.n_unfinished) == (MAX_WAITING + 3, 0)
        assert "the worker ended with exit code -9" in client.problem
        client.submit(narration())
        assert (client.n_dropped, client.n_unfinished) == (MAX_WAITING + 4, 0)

        clock.ns += round(1e9)
        wait_until(lambda: collect(0) and client.is_ready, deadline_s=400, what="another one")
        assert client.problem == ""
        assert _worker_of(client) != first
        texts = ["A dark street in deep shadow.", "Two dogs run across a bright meadow."]
        asked = [narration(seq=seq, text=texts[seq % 2]) for seq in range(6)]
        for each in asked:
            client.submit(each)
        wait_until(lambda: collect(6), deadline_s=200, what="the cosines")
        assert list(found) == [each.id for each in asked]
        assert (client.n_dropped, client.n_unfinished, client.problem) == (MAX_WAITING + 4, 0, "")
        dark, dogs = (found[f"run-all-{seq}"] for seq in (4, 5))
        assert dark[SENTENCE] > 0.5 > dogs[SENTENCE]
        assert dogs["a dog"] > dark["a dog"]

        os.kill(_worker_of(client), signal.SIGSTOP)
        client.submit(narration(seq=102))
        clock.ns += round(1e9 * ANSWER_S)
        assert collect(0)
        assert (client.n_unfinished, client.problem) == (1, "")
        clock.ns += 1
        assert collect(0)
        assert not client.is_ready
        assert (client.n_dropped, client.n_unfinished) == (MAX_WAITING + 5, 0)
        wait_until(lambda: collect(0) and client.worker_pid is None, what="the end of what hangs")
        assert "the worker gave no answer for 10 s" in client.problem
    finally:
        client.close(deadline_s=0)


def test_a_model_that_is_loading_takes_no_time_at_the_end(
    context: Context, caplog: pytest.LogCaptureFixture
):
    """A worker that cannot see yet that it should end is ended, before the deadline."""
    client = _client(context, model_folder(None), HostClock())
    pid = _worker_of(client)
    os.kill(pid, signal.SIGSTOP)
    client.close(deadline_s=10)
    assert not psutil.pid_exists(pid)
    assert "likeness worker killed" not in caplog.text


def test_a_worker_that_cannot_be_started_leaves_nothing_behind(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The folder of the socket goes with it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="null byte"):
        _client(context, "a\0b", HostClock())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(900)  # a process of low priority loads torch, on a busy machine
def test_a_model_that_cannot_be_loaded_is_said(
    context: Context, tmp_path, caplog: pytest.LogCaptureFixture
):
    """A folder without a model is an error in the log and a problem; nothing waits for it."""
    client = _client(context, str(tmp_path), HostClock())
    try:

        def has_failed() -> bool:
            assert list(client.collect()) == []
            return "likeness cannot start" in caplog.text

        client.submit(narration())
        wait_until(has_failed, deadline_s=400, what="the failure")
        assert not client.is_ready
        assert "there is no config.json" in client.problem
        assert (client.n_dropped, client.n_unfinished) == (1, 0)
        wait_until(lambda: has_failed() and client.worker_pid is None, what="the worker's end")
        assert "there is no config.json" in client.problem
        assert "likeness worker died" in caplog.text
    finally:
        client.close(deadline_s=0)
