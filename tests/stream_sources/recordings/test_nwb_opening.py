"""Files that cannot be opened: each cause has its own message."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings import nwb_spikes
from stream_sources.recordings.nwb import NwbSource
from tests.support.nwb_files import random_trains, write_units, writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a recording without faults."""
    return write_units(tmp_path / "file.nwb", random_trains())


def problem(path: Path | str) -> str:
    """Return the message with which a path is refused."""
    with pytest.raises(RecordingError) as caught:
        NwbSource(str(path))
    return str(caught.value)


def test_a_file_that_a_writer_holds_open_is_not_called_damaged(path: Path) -> None:
    """HDF5 locks a file while it is written."""
    with writer(path, "earliest"):
        text = problem(path)
    assert "another program has the file open for writing" in text
    assert "Wait until it has closed it" in text
    assert "damaged" not in text


def test_a_file_that_was_never_closed_is_not_called_damaged(tmp_path: Path) -> None:
    """A writer that ended without closing leaves a mark, which h5clear removes."""
    path = tmp_path / "latest.nwb"
    with h5py.File(path, "w", libver="latest") as file:
        file["identifier"] = "x"
    with writer(path, "latest"):
        pass
    text = problem(path)
    assert "a program is writing to the file, or ended without closing it" in text
    assert "h5clear -s" in text
    assert "damaged" not in text


def test_one_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    """The parts of a split file are not recordings by themselves."""
    with h5py.File(tmp_path / "whole", "w", driver="split") as file:
        file["identifier"] = "x"
    assert "one part of a file that HDF5 split" in problem(tmp_path / "whole-m.h5")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer forever."""
    os.mkfifo(tmp_path / "pipe.nwb")
    assert "it is a device or a pipe" in problem(tmp_path / "pipe.nwb")


@pytest.mark.parametrize("name", ["no\0name.nwb", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    """The message has the reason that the system gives."""
    assert "the file cannot be opened: " in problem(f"{tmp_path}/{name}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_reported(path: Path) -> None:
    """Missing permissions are not damage."""
    path.chmod(0)
    assert "may not be read; check its permissions" in problem(path)


def test_an_error_of_permission_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, also where tests run as root."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "may not be read; check its permissions" in problem(path)


def test_a_type_that_h5py_cannot_represent_is_the_files_fault(path: Path) -> None:
    """Errors of h5py become a message, whatever their type."""
    with h5py.File(path, "a") as file:
        del file.attrs["nwb_version"]
        scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file.id, b"nwb_version", h5py.h5t.UNIX_D32LE, scalar)
    assert "cannot be read: No NumPy equivalent for TypeTimeID" in problem(path)


def test_names_that_are_not_utf8_are_listed(path: Path) -> None:
    """A file without units is refused with the names that it has, in any encoding."""
    with h5py.File(path, "a") as file:
        file.move("units", b"na\xefve")
    assert r"has no units table, so no sorted spikes; it has b'na\xefve', identifier" in problem(
        path
    )


def test_a_full_folder_for_temporary_files_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be unpacked for lack of room is not damaged."""

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write_units(tmp_path / "file.nwb", random_trains(), compression="gzip")
    monkeypatch.setattr(nwb_spikes, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    text = problem(path)
    assert "cannot be kept in the folder for temporary files: No space left on device" in text
    assert "damaged" not in text
