"""Recordings behind http, against a server on the loopback interface."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.remote_file import default_cache_dir
from tests.support import spike_lists
from tests.support.nwb_files import random_trains, write_units
from tests.support.range_server import RangeServer, range_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    """Serve one recording."""
    write_units(tmp_path / "file.nwb", random_trains(6))
    with range_server(tmp_path) as running:
        yield running


def test_a_remote_file_is_sent_to_the_last_spike(server: RangeServer, tmp_path: Path) -> None:
    """What comes over http is what the file holds."""
    source = NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    expected = spike_lists.of_trains(random_trains(6))
    assert spike_lists.of_batches(source.batches()) == expected


def test_the_second_opening_reads_from_the_cache(server: RangeServer, tmp_path: Path) -> None:
    """Once read, a file costs one request: the look at its first bytes."""
    NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    n_first = server.n_requests
    NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    assert server.n_requests - n_first == 1


@pytest.mark.parametrize("units", ["all", "good"])
def test_few_requests_are_made(server: RangeServer, tmp_path: Path, units: str) -> None:
    """A file is read in long ranges, through units that are not wanted, not unit by unit."""
    trains = [np.arange(0.0, 200.0, 0.01)] * 40  # each longer than what remfile reads at once
    write_units(tmp_path / "large.nwb", trains, columns={"quality": ["good", "noise"] * 20})
    NwbSource(server.url("large.nwb"), units=units, cache_dir=tmp_path / "cache")
    assert server.n_requests < 15


def test_a_file_that_was_replaced_is_read_anew(server: RangeServer, tmp_path: Path) -> None:
    """The cache belongs to the file's size and version, not to its address alone."""
    NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    write_units(tmp_path / "file.nwb", random_trains(9))
    source = NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    assert len(source.population) == 9


def test_a_missing_file_is_said_at_once(server: RangeServer, tmp_path: Path) -> None:
    """404 is an error of the address."""
    with pytest.raises(RecordingError, match=r"no such file .404"):
        NwbSource(server.url("other.nwb"), cache_dir=tmp_path / "cache")


def test_a_refusal_is_said_at_once(server: RangeServer, tmp_path: Path) -> None:
    """403 is about rights."""
    server.failing = True
    with pytest.raises(RecordingError, match=r"refuses it .403 .* expired\?"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_a_server_without_ranges_is_said_at_once(tmp_path: Path) -> None:
    """Without byte ranges the user is told to download, within a second, not after 25."""
    write_units(tmp_path / "file.nwb", random_trains(6))
    started = time.monotonic()
    with (
        range_server(tmp_path, ranges=False) as server,
        pytest.raises(RecordingError, match=r"does not answer byte ranges.* Download it"),
    ):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    assert time.monotonic() - started < 5


def test_a_page_in_place_of_a_file_is_said(server: RangeServer, tmp_path: Path) -> None:
    """An address of a page about the file is not the file."""
    (tmp_path / "page.html").write_text("<!doctype html> and more")
    with pytest.raises(RecordingError, match="not an HDF5 file: it begins with b'<!doctyp'"):
        NwbSource(server.url("page.html"), cache_dir=tmp_path / "cache")


def test_an_empty_remote_file_is_said(server: RangeServer, tmp_path: Path) -> None:
    """Nothing to read is an error of the address."""
    (tmp_path / "empty.nwb").touch()
    with pytest.raises(RecordingError, match="the file is empty"):
        NwbSource(server.url("empty.nwb"), cache_dir=tmp_path / "cache")


def test_a_closed_port_is_said_at_once(tmp_path: Path) -> None:
    """Nobody there: refused, not retried."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with pytest.raises(RecordingError, match=r"cannot reach the server: .*refused"):
        NwbSource(f"http://127.0.0.1:{port}/x.nwb", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:notaport/x", "http://[bad/x"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    """A malformed address is the user's input."""
    with pytest.raises(RecordingError, match="cannot reach the server"):
        NwbSource(url, cache_dir=tmp_path / "cache")


def test_a_server_that_fails_later_is_the_recordings_fault(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure after the first look is a RecordingError too."""
    monkeypatch.setattr(
        "remfile.File.read", lambda self, size: (_ for _ in ()).throw(ValueError("gone"))
    )
    with pytest.raises(RecordingError, match="gone"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME decides where remote files are kept; by default ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache_dir() == Path("/elsewhere/neurrate")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "neurrate"
