"""NWB in Zarr behind a URL and in the archive, against a server on the loopback."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import RecordingError
from stream_sources.recordings import zarr_remote
from stream_sources.recordings.open_source import open_source, summarise
from stream_sources.recordings.remote_file import PlainAddress
from tests.support.nwb_zarrs import OLD, assert_twins, edit, unpack
from tests.support.range_server import RangeServer, range_server

ID = "0a1b2c3d-0000-4000-8000-000000000000"
ASSET = "dandi:000021/sub-1/session.nwb.zarr"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """Serve an archive with one session in Zarr, which is also at a plain address."""
    archive = tmp_path / "archive"
    unpack(archive / "zarr").rename(archive / "zarr" / ID)
    shutil.copytree(archive / "zarr" / ID, archive / "a session" / "x.nwb.zarr")
    monkeypatch.delenv("DANDI_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(zarr_remote, "FIRST_RETRY_S", 1e-4)
    with range_server(archive) as running:
        running.dandisets = {"000021@draft": {"sub-1/session.nwb.zarr": ID}}
        monkeypatch.setenv("DANDI_API_URL", running.url("api"))
        yield running


def plain(server: RangeServer) -> str:
    """Return the plain address."""
    return server.url("a%20session/x.nwb.zarr")


def test_an_address_is_the_hdf5_twin(server: RangeServer) -> None:
    """Each chunk is asked for once, and nothing but what the reader needs."""
    assert_twins(plain(server))
    assert len(server.names) == len(set(server.names))
    asked = {name.removeprefix("/a%20session/x.nwb.zarr/") for name in server.names}
    assert {".zmetadata", "units/spike_times/5", "identifier/0"} < asked
    assert not any(name.startswith(("acquisition", "specifications")) for name in asked)


def test_an_asset_of_the_archive_is_the_hdf5_twin(server: RangeServer) -> None:
    """Its keys are where the archive's metadata say, without a signature."""
    server.signature_lasts = 0
    assert_twins(ASSET)
    assert server.n_signatures == 0


def test_the_second_time_the_metadata_are_all_that_is_read(
    server: RangeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Until they change, or the archive's checksum of the chunks."""
    caplog.set_level(logging.INFO)
    for address in (plain(server), ASSET):
        assert_twins(address)
        server.names.clear()
        assert_twins(address)
        assert [name.rpartition("/")[2] for name in server.names] == [".zmetadata"]
    assert sum("was copied to HDF5" in record.message for record in caplog.records) == 2
    server.zarr_checksum = "another"
    server.names.clear()
    assert_twins(ASSET)
    assert len(server.names) > 1
    folder = server.folder / "a session" / "x.nwb.zarr"
    edit(folder, "units/.zattrs", lambda attributes: attributes.update(description="changed"))
    server.names.clear()
    assert_twins(plain(server))
    assert len(server.names) > 1


def test_a_query_is_kept_and_a_signature_is_not_shown(server: RangeServer) -> None:
    """Another signature finds the copy of the first."""
    server.signature_lasts = 1_000
    assert_twins(f"{plain(server)}?{server.sign()}")
    server.names.clear()
    assert_twins(f"{plain(server)}/?{server.sign()}")
    assert_twins(f"{plain(server)}?{server.sign()}")
    with pytest.raises(RecordingError, match=r"refuses it \(403") as caught:
        open_source(f"{plain(server)}?X-Amz-Signature=5ec2e7")
    assert "5ec2e7" not in str(caught.value)


def test_a_summary_takes_no_spikes(server: RangeServer, tmp_path: Path) -> None:
    """The tables are kept for the next one; a copy with spikes serves it too."""
    quick = summarise(plain(server))
    assert (quick.n_units, quick.n_spikes, quick.span_s) == (6, 330, None)
    assert not any("/spike_times/" in name for name in server.names)
    server.names.clear()
    assert summarise(plain(server)) == quick
    assert len(server.names) == 1
    assert_twins(plain(server))
    [tables] = (tmp_path / "cache").rglob("*.tables.h5")
    tables.unlink()
    server.names.clear()
    assert summarise(plain(server)) == quick
    assert len(server.names) == 1


def test_a_missing_chunk_is_no_train_of_zeros(server: RangeServer) -> None:
    """And the copy without it is not used again."""
    chunk = server.folder / "zarr" / ID / "units/spike_times/3"
    content = chunk.read_bytes()
    chunk.unlink()
    for _ in range(2):
        with pytest.raises(RecordingError, match=r"never written in 1 of its 6 chunks: 64 spikes"):
            open_source(ASSET)
    chunk.write_bytes(content)
    assert_twins(ASSET)


def test_a_line_that_breaks_costs_time_only(server: RangeServer) -> None:
    """Some chunks are asked for again."""
    server.drops = {3, 4, 5, 9, 20}
    assert_twins(plain(server))
    assert len(server.names) > len(set(server.names)) - len(server.drops)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_is_reported(server: RangeServer, status: int) -> None:
    """At once at first; in the middle after some attempts, and nothing is kept."""
    server.failing = status
    with pytest.raises(RecordingError, match=f"the server answered {status}"):
        open_source(plain(server))
    assert server.n_requests == 1
    server.failing = 0
    zarr = zarr_remote.RemoteZarr(PlainAddress(plain(server)))
    server.failing = status
    with pytest.raises(RecordingError, match=f"the server answered {status}"):
        list(zarr.read(["units/id/0"]))
    assert server.n_requests == 3 + zarr_remote.N_RETRIES


def test_an_answer_that_is_cut_short_is_no_chunk(server: RangeServer) -> None:
    """However often it comes."""
    server.n_sound = 1
    with pytest.raises(RecordingError, match="cannot reach the server"):
        open_source(plain(server))
    server.n_sound = 1_000_000
    assert_twins(plain(server))


def test_what_is_refused_is_not_asked_for_again(server: RangeServer) -> None:
    """A store may hide its chunks: no chunk counts as missing then."""
    server.n_allowed = 1
    with pytest.raises(RecordingError, match=r"refuses it \(403"):
        open_source(plain(server))
    assert server.n_requests <= 1 + 2 * zarr_remote.N_CONNECTIONS


def test_without_consolidated_metadata_it_is_refused(server: RangeServer) -> None:
    """Keys cannot be listed; and what is wrong with an address is told apart."""
    unpack(server.folder / "old", OLD)
    with pytest.raises(RecordingError, match=r"no \.zmetadata, .* zarr\.consolidate_metadata"):
        open_source(server.url("old/session.nwb.zarr"))
    with pytest.raises(RecordingError, match="no Zarr there"):
        open_source(server.url("nowhere.nwb.zarr"))
    (server.folder / "three.zarr").mkdir()
    (server.folder / "three.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(RecordingError, match="a Zarr of version 3"):
        open_source(server.url("three.zarr"))


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"metadata": []}', "[" * 99_999])
def test_metadata_that_are_none_are_refused(server: RangeServer, text: str) -> None:
    """A page, say."""
    (server.folder / "a session" / "x.nwb.zarr" / ".zmetadata").write_text(text)
    with pytest.raises(RecordingError, match=r"\.zmetadata must"):
        open_source(plain(server))


def test_hostile_metadata_lead_nowhere(server: RangeServer) -> None:
    """Names of tables that would leave the address, and links that do."""
    path = server.folder / "a session" / "x.nwb.zarr" / ".zmetadata"
    content = json.loads(path.read_text())
    documents = content["metadata"]
    table = {key: value for key, value in documents.items() if "/movie_presentations/" in key}
    for key, value in table.items():
        documents[key.replace("movie", "..\u0000movie")] = value
        documents[key.replace("movie_presentations", "..")] = value
    documents["units/.zarray"] = 7
    path.write_text(json.dumps(content))
    assert_twins(plain(server))
    assert not any(".." in name for name in server.names)
    documents["units/electrodes/.zattrs"]["table"]["value"] = {
        "source": server.url("x"),
        "path": "/y",
    }
    path.write_text(json.dumps(content))
    with pytest.raises(RecordingError, match=r"y in another Zarr, http.*which is not read"):
        open_source(plain(server))


def test_a_server_that_is_not_there_is_reported() -> None:
    """At once."""
    with pytest.raises(RecordingError, match="cannot reach the server"):
        open_source("http://127.0.0.1:9/x.nwb.zarr")


@pytest.mark.parametrize(
    "answer",
    [
        [], {}, {"contentUrl": None}, {"contentUrl": []}, {"contentUrl": ["file:///etc"]},
        {"contentUrl": ["s3://bucket/zarr/1/"]},
    ],
)  # fmt: skip
def test_an_archive_that_does_not_say_where_is_reported(
    server: RangeServer, answer: object
) -> None:
    """Or says it in another form."""
    if isinstance(answer, dict) and answer:
        answer |= {"digest": {"dandi:dandi-zarr-checksum": "1"}}
    server.answers = {b"sub-1/session.nwb.zarr".hex(): answer}
    with pytest.raises(RecordingError, match=r"does not (say where the Zarr is|answer as DANDI)"):
        open_source(ASSET)
