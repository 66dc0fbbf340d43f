"""The frames beside features are those of the data set, or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder_training.data_set.prepared_files import write_prepared
from evaluation.questions.sparse_features_figures import shown_movies
from tests.support.prepared import prepared_set

N_FRAMES = 12


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    """Return a data set made from the folder ``movies``, in whose parent the command runs."""
    prepared = prepared_set(n_frames=N_FRAMES)
    names = prepared.frames.movies
    folder = tmp_path / "data"
    n_frames = dict.fromkeys(names, N_FRAMES)
    write_prepared(folder, prepared, movies=n_frames, options={"--frames": "movies"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return folder


def _write(folder: Path, *, n_frames: int, grey: int) -> None:
    folder.mkdir(exist_ok=True)
    for name in prepared_set(n_frames=N_FRAMES).frames.movies:
        np.save(folder / f"{name}.npy", np.full((n_frames, 4, 6), grey, np.uint8))


def test_movies_beside_the_facts_come_first(data, tmp_path):
    """Where the command runs another session's folder can have the name."""
    _write(tmp_path / "movies", n_frames=N_FRAMES, grey=1)
    _write(tmp_path / "elsewhere", n_frames=N_FRAMES, grey=2)
    assert {int(m.frames(0, 1).max()) for m in shown_movies(data, None).values()} == {1}
    found = shown_movies(data, tmp_path / "elsewhere")
    assert {int(m.frames(0, 1).max()) for m in found.values()} == {2}


def test_movies_of_another_length_are_others(data, tmp_path):
    """They have the names of the data set's, and are of another session."""
    assert shown_movies(data, None) == {}
    _write(tmp_path / "movies", n_frames=N_FRAMES - 1, grey=1)
    assert shown_movies(data, None) == {}
    _write(tmp_path / "elsewhere", n_frames=N_FRAMES, grey=2)
    assert len(shown_movies(data, tmp_path / "elsewhere")) > 0
