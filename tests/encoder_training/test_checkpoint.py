"""Checkpoints: a killed training goes on as if nothing had happened, and never as another one."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import UserError
from encoder_training.data_set.training_set import Scaling
from encoder_training.history import TrainingEpoch
from encoder_training.options import TrainingOptions
from encoder_training.training import train_encoder
from tests.encoder_training import train_planted
from tests.encoder_training.support import TickingClock, planted
from tests.encoder_training.train_planted import SPEC

QUICK = TrainingOptions(training_epochs=2, batch_size=32, seed=1)
REPOSITORY = Path(__file__).parents[2]


def test_killed_training_gives_the_same_weights(tmp_path, capsys):
    """SIGKILL at the second pass, started again: the file is that of an uninterrupted training."""
    whole, again, cut = (tmp_path / name for name in ("whole", "again", "cut.ckpt"))
    train_planted.main(tmp_path / "whole.ckpt", whole, "retrieval")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.encoder_training.train_planted", cut, again, "retrieval"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    ) as killed:
        assert killed.stdout is not None
        assert [killed.stdout.readline() for _ in range(2)] == ["pass 1\n", "pass 2\n"]
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not again.exists()
    capsys.readouterr()
    train_planted.main(cut, again, "retrieval")
    lines = capsys.readouterr().out.splitlines()
    n_before = int(lines[0].removeprefix("going on after "))
    assert 2 <= n_before < 6
    assert lines[1:] == [f"pass {n}" for n in range(n_before + 1, 7)]
    assert again.read_bytes() == whole.read_bytes()


@pytest.fixture(scope="module")
def data():
    """Return a small planted recording."""
    return planted(n_scenes=30)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory) -> Path:
    """Return the checkpoint of a finished training."""
    path: Path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    train_encoder(SPEC, data, QUICK, checkpoint=path)
    return path


def test_finished_training_trains_no_more(data, checkpoint):
    """Its checkpoint gives history and weights at once."""
    whole = train_encoder(SPEC, data, QUICK)
    seen: list[TrainingEpoch] = []
    again = train_encoder(SPEC, data, QUICK, seen.append, checkpoint=checkpoint)
    assert not seen
    assert [row.train_loss for row in again.history] == [row.train_loss for row in whole.history]
    state, expected = again.encoder.state_dict(), whole.encoder.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_other_options_are_refused(data, checkpoint):
    """The sentence says which differ, and how."""
    other = replace(QUICK, learning_rate=0.5, seed=2)
    with pytest.raises(UserError, match=r"learning_rate \(0\.0003 there, 0\.5 here\)") as error:
        train_encoder(SPEC, data, other, checkpoint=checkpoint, validation_groups=np.array([1]))
    assert "options.seed" in str(error.value)
    assert "data.parts" in str(error.value)
    assert "options.batch_size" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("data.counts", lambda data: {"counts": np.minimum(data.counts, 2)}),
        ("data.patches", lambda data: {"targets": data.targets + np.float16(1)}),
        ("data.windows", lambda data: {"frame": data.frame[::-1].copy()}),
    ],
)
def test_other_data_are_refused(part, change, data, checkpoint):
    """Counts, patches and windows are known by their content."""
    with pytest.raises(UserError, match=f"these differ: {part}"):
        train_encoder(SPEC, replace(data, **change(data)), QUICK, checkpoint=checkpoint)


def test_other_statistics_are_refused(data, checkpoint):
    """Counts that were scaled by themselves do not go on by the statistics of a file."""
    ones = np.ones(data.n_units, dtype=np.float32)
    with pytest.raises(UserError, match=r"these differ: scaling \(None there"):
        train_encoder(SPEC, data, QUICK, scaling=Scaling(ones, ones), checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08" + b"\0" * 7 + b"{}      "])
def test_unreadable_checkpoint_is_one_sentence(content, data, tmp_path):
    """What cannot be read is named, with what to do."""
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read: .* Remove it to begin anew"):
        train_encoder(SPEC, data, QUICK, checkpoint=path)


def test_checkpoint_that_was_cut_is_refused(data, checkpoint, tmp_path):
    """Half a file is no checkpoint; it is never half a state."""
    path = tmp_path / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        train_encoder(SPEC, data, QUICK, checkpoint=path)


class KilledError(Exception):
    """Stands for the end of the process."""


def test_time_before_the_kill_counts(data, tmp_path):
    """A limit of a minute is for all parts of a training together."""
    options = replace(QUICK, training_epochs=1000, patience=1000, max_minutes=1.0)
    path = tmp_path / "checkpoint.safetensors"

    def stop_at_the_third(row):
        if row.training_epoch == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_encoder(SPEC, data, options, stop_at_the_third, checkpoint=path, clock=TickingClock())
    later = TickingClock(now_ns=10**15)  # another process, another day
    resumed = train_encoder(SPEC, data, options, checkpoint=path, clock=later)
    elapsed_s = [row.elapsed_s for row in resumed.history]
    assert len(elapsed_s) > 3
    assert (np.diff(elapsed_s) > 0).all()
    assert 55 < elapsed_s[-1] <= 66
