"""Reading behind a writer: whole samples, once, and never those of another file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.rigs.spikeglx.growing_file import GrowingFile

N_COLUMNS = 3


@pytest.fixture
def samples() -> np.ndarray:
    return np.arange(30, dtype=np.int16).reshape(10, N_COLUMNS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.bin"
    path.write_bytes(b"")
    return path


@pytest.fixture
def file(path: Path) -> Iterator[GrowingFile]:
    with closing(GrowingFile(path, N_COLUMNS)) as file:
        yield file


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.parametrize("n_bytes", [1, 5, 6, 7, 20, 60])
def test_whatever_is_written_at_once_whole_samples_come(
    path: Path, file: GrowingFile, samples: np.ndarray, n_bytes: int
):
    """A sample in part waits for its rest; each comes once, in order."""
    content, read = samples.tobytes(), []
    for begin in range(0, len(content), n_bytes):
        append(path, content[begin : begin + n_bytes])
        read.append(file.read(4))
        read.append(file.read(100))
        assert file.n_samples == (begin + n_bytes) // 6 or begin + n_bytes > len(content)
    np.testing.assert_array_equal(np.concatenate(read), samples)


@pytest.mark.parametrize("n_read", [100, 2])
def test_a_file_that_became_shorter_is_refused(
    path: Path, file: GrowingFile, samples: np.ndarray, n_read: int
):
    """What it had and has; also if what was cut had not been read."""
    append(path, samples.tobytes())
    file.read(n_read)
    os.truncate(path, 30)
    with pytest.raises(RecordingError, match="it had 60 bytes, and has 30"):
        file.read(100)


def test_a_file_that_is_written_anew_is_refused_though_it_is_longer(
    path: Path, file: GrowingFile, samples: np.ndarray
):
    """The newest sample that was read is another one now."""
    append(path, samples[:5].tobytes())
    file.read(100)
    path.write_bytes((samples + 1).tobytes())
    with pytest.raises(RecordingError, match="sample 4 is another one than before"):
        file.read(100)


def test_a_file_in_its_place_is_refused(
    tmp_path: Path, path: Path, file: GrowingFile, samples: np.ndarray
):
    """Also if it begins with the same samples."""
    append(path, samples[:5].tobytes())
    file.read(100)
    other = tmp_path / "other.bin"
    other.write_bytes(samples.tobytes())
    other.replace(path)
    with pytest.raises(RecordingError, match="another file has taken its place"):
        file.read(100)


def test_a_file_that_is_gone_is_said(path: Path, file: GrowingFile, samples: np.ndarray):
    """The disk may be another machine's."""
    append(path, samples.tobytes())
    path.unlink()
    with pytest.raises(RecordingError, match="the file is gone"):
        file.read(100)
