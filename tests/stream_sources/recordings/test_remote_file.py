"""Recordings behind http, against a server on the loopback interface."""

from __future__ import annotations

import errno
import gc
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings import remote_file
from stream_sources.recordings.nwb import NwbSource
from stream_sources.recordings.open_source import open_source
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


def test_no_garbage_is_collected_while_h5py_waits(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that freed an object of h5py would wait for its lock, and h5py for the thread."""
    import remfile

    read, states = remfile.File.read, []

    def recorded(self: remfile.File, n_bytes: int) -> Any:
        states.append(gc.isenabled())
        return read(self, n_bytes)

    monkeypatch.setattr(remfile.File, "read", recorded)
    NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    assert set(states) == {False}
    assert gc.isenabled()


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


def test_a_missing_file_is_reported_at_once(server: RangeServer, tmp_path: Path) -> None:
    """404 is an error of the address."""
    with pytest.raises(RecordingError, match=r"no such file .404"):
        NwbSource(server.url("other.nwb"), cache_dir=tmp_path / "cache")


def test_a_refusal_is_reported_at_once(server: RangeServer, tmp_path: Path) -> None:
    """403 is about rights."""
    server.failing = 403
    with pytest.raises(RecordingError, match=r"refuses it .403 .* expired\?"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_is_reported(server: RangeServer, tmp_path: Path, status: int) -> None:
    """A fault of the server is not one of the file."""
    server.failing = status
    with pytest.raises(RecordingError, match=f"the server answered {status} .* Try again later"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_an_address_in_capitals_is_an_address(server: RangeServer, tmp_path: Path) -> None:
    """Schemes know no case."""
    url = server.url("file.nwb").replace("http://", "HTTP://")
    source = open_source(url, cache_dir=tmp_path / "cache")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(random_trains(6))


@pytest.mark.parametrize("name", ["Sitzung ü.nwb", "a%20b.nwb?sig=x%2Fy&t=1", "a b.nwb#top"])
def test_an_address_is_sent_as_browsers_send_it(
    server: RangeServer, tmp_path: Path, name: str
) -> None:
    """Blanks, letters outside ASCII, queries and fragments need no quoting by hand."""
    for file in ("Sitzung ü.nwb", "a b.nwb"):
        write_units(tmp_path / file, random_trains(6))
    source = NwbSource(server.url(name), cache_dir=tmp_path / "cache")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(random_trains(6))


def test_an_answer_that_is_cut_short_is_reported(server: RangeServer, tmp_path: Path) -> None:
    """A body that ends too early is not another kind of file."""
    server.n_sound = 0
    with pytest.raises(RecordingError, match=r"cut short: 8 bytes were asked for, 4 came"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("fault", ["cut", "refused"])
def test_a_server_that_stops_half_way_is_not_a_damaged_file(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """What fails after the first look is the server's fault, whatever HDF5 makes of it."""
    monkeypatch.setattr("remfile.RemFile._num_request_retries", 0)
    trains = [np.arange(0.0, 200.0, 0.01)] * 40
    write_units(tmp_path / "large.nwb", trains)
    url = server.url("large.nwb")
    for n_sound in (1, 2):
        last = server.n_requests + n_sound
        server.n_sound, server.n_allowed = (last, 1_000_000)[:: 1 if fault == "cut" else -1]
        with pytest.raises(RecordingError, match="the server stopped answering: ") as caught:
            NwbSource(url, cache_dir=tmp_path / f"cache{n_sound}")
        assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("fault", ["range", "version"])
def test_an_answer_that_is_another_range_or_file_is_not_used(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A range that was not honoured and a file that was replaced are not mixed into the data."""
    monkeypatch.setattr("remfile.RemFile._num_request_retries", 0)
    write_units(tmp_path / "large.nwb", [np.arange(0.0, 200.0, 0.01)] * 40)
    server.n_sound_ranges = server.n_requests + 2
    server.fault = fault
    with pytest.raises(RecordingError, match=r"asked for, bytes 0-|replaced while it was read"):
        NwbSource(server.url("large.nwb"), cache_dir=tmp_path / "cache")


def test_a_failed_read_is_an_error_even_where_hdf5_goes_on(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that could not be fetched is not a column that is not there."""
    real = remote_file.RemoteFile.readinto

    def once(self: remote_file.RemoteFile, buffer: bytearray) -> int:
        self.failure = RecordingError(self.name, "the server stopped answering: gone")
        return real(self, buffer)

    monkeypatch.setattr(remote_file.RemoteFile, "readinto", once)
    with pytest.raises(RecordingError, match="the server stopped answering: gone"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_reported(server: RangeServer, tmp_path: Path) -> None:
    """The folder, the reason and the remedy; the file is not called damaged."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RecordingError, match=r"cannot be kept in .*cache.* Choose another folder"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_a_disk_that_is_full_is_reported(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that fills up while it is read names itself, not the server."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordingError, match=r"cannot be kept in .*: No space left on device"):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")


def test_a_chunk_that_was_cut_in_the_cache_is_read_again(
    server: RangeServer, tmp_path: Path
) -> None:
    """A process that was killed while it wrote leaves no chunk that is taken for a whole one."""
    trains = [np.arange(0.0, 200.0, 0.01)] * 4
    write_units(tmp_path / "large.nwb", trains)
    url, cache = server.url("large.nwb"), tmp_path / "cache"
    NwbSource(url, cache_dir=cache)
    chunks = [path for path in cache.rglob("*") if path.is_file()]
    assert len(chunks) > 3
    for path in chunks:
        os.truncate(path, path.stat().st_size - 40)
    source = NwbSource(url, cache_dir=cache)
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(trains)


def test_a_server_without_tls_is_reported(server: RangeServer, tmp_path: Path) -> None:
    """https to a server that speaks http names the scheme."""
    url = server.url("file.nwb").replace("http://", "https://")
    with pytest.raises(RecordingError, match=r"does not speak TLS .* http:// address\?"):
        NwbSource(url, cache_dir=tmp_path / "cache")


def test_a_certificate_that_nobody_signed_is_reported(tmp_path: Path) -> None:
    """A certificate that cannot be verified is named as the cause."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=localhost",
         "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with range_server(tmp_path) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url("x.nwb").replace("http://", "https://")
        with pytest.raises(RecordingError, match="certificate cannot be verified: self-signed"):
            NwbSource(url, cache_dir=tmp_path / "cache")


def test_a_server_that_says_something_else_is_reported(tmp_path: Path) -> None:
    """A port that answers, but not as a web server does."""

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"220 mail.example.org ready\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.nwb"
        with pytest.raises(RecordingError, match=r"the server's answer is no HTTP: .*220 mail"):
            NwbSource(url, cache_dir=tmp_path / "cache")
        thread.join()


def test_a_server_that_is_silent_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and never answers is given up."""
    monkeypatch.setattr(remote_file, "RANGE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.nwb"
        with pytest.raises(RecordingError, match="the server did not answer within"):
            NwbSource(url, cache_dir=tmp_path / "cache")


def test_a_server_without_ranges_is_reported_at_once(tmp_path: Path) -> None:
    """Without byte ranges the user is told to download, within a second, not after 25."""
    write_units(tmp_path / "file.nwb", random_trains(6))
    started = time.monotonic()
    with (
        range_server(tmp_path, ranges=False) as server,
        pytest.raises(RecordingError, match=r"does not answer byte ranges.* Download it"),
    ):
        NwbSource(server.url("file.nwb"), cache_dir=tmp_path / "cache")
    assert time.monotonic() - started < 5


def test_a_page_in_place_of_a_file_is_reported(server: RangeServer, tmp_path: Path) -> None:
    """An address of a page about the file is not the file."""
    (tmp_path / "page.html").write_text("<!doctype html> and more")
    with pytest.raises(RecordingError, match="not an HDF5 file: it begins with b'<!doctyp'"):
        NwbSource(server.url("page.html"), cache_dir=tmp_path / "cache")


def test_a_file_of_a_few_bytes_is_not_hdf5(server: RangeServer, tmp_path: Path) -> None:
    """An answer of fewer than eight bytes is a range too."""
    (tmp_path / "short.nwb").write_bytes(b"abcd")
    with pytest.raises(RecordingError, match="not an HDF5 file: it begins with b'abcd'"):
        NwbSource(server.url("short.nwb"), cache_dir=tmp_path / "cache")


def test_an_empty_remote_file_is_reported(server: RangeServer, tmp_path: Path) -> None:
    """Nothing to read is an error of the address."""
    (tmp_path / "empty.nwb").touch()
    with pytest.raises(RecordingError, match="the file is empty"):
        NwbSource(server.url("empty.nwb"), cache_dir=tmp_path / "cache")


def test_a_closed_port_is_reported_at_once(tmp_path: Path) -> None:
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
