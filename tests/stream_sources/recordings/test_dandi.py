"""Files of a DANDI archive and behind signed addresses, against a server on the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings.nwb import NwbSource, describe_nwb
from stream_sources.recordings.open_source import open_source, summarise
from tests.support import spike_lists
from tests.support.nwb_files import random_trains, write_units
from tests.support.range_server import RangeServer, range_server

NAME = "sub-1/sub-1_ses-2.nwb"
TRAINS = [np.arange(0.0, 200.0, 0.01)] * 40
"""6.4 MB: several requests."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """Serve an archive of one dandiset, with a published version and a draft."""
    folder = tmp_path / "archive"
    (folder / "sub-1").mkdir(parents=True)
    write_units(folder / NAME, TRAINS)
    write_units(folder / "sub-1/draft.nwb", random_trains(4))
    monkeypatch.delenv("DANDI_API_KEY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with range_server(folder) as server:
        server.signature_lasts = 1_000_000
        server.dandisets = {
            "000021@0.220126.1855": {NAME: None, "sub-1/session.nwb.zarr": "0a1b"},
            "000021@0.210101.0000": {},
            "000021@draft": {NAME: None, "sub-1/draft.nwb": None},
            "000022@draft": {"sub-1/draft.nwb": None},
        }
        monkeypatch.setenv("DANDI_API_URL", server.url("api"))
        yield server


@pytest.mark.usefixtures("archive")
def test_an_asset_is_sent_to_the_last_spike() -> None:
    """What comes through the archive is what the file holds, and the stream says whose it is."""
    source = open_source(f"dandi:000021/{NAME}")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_a_version_may_be_named(archive: RangeServer) -> None:
    """Without one the newest that was published counts, and the draft where there is none."""
    for name in ("000021@draft", "000022"):
        assert len(NwbSource(f"dandi:{name}/sub-1/draft.nwb").population) == 4
    with pytest.raises(RecordingError, match=r"no such file; it has none that begins so"):
        NwbSource("dandi:000021/sub-1/draft.nwb")


def test_an_address_that_expires_is_signed_anew(archive: RangeServer) -> None:
    """Each signature is taken a few times; the file is read to its end."""
    archive.signature_lasts = 2
    source = NwbSource(f"dandi:000021/{NAME}")
    assert source.n_spikes == sum(map(len, TRAINS))
    assert archive.n_refused >= 1
    assert archive.n_signatures == archive.n_refused + 1


def test_another_signature_finds_what_was_kept(archive: RangeServer) -> None:
    """Opened again it costs the questions to the archive and the look at the first bytes."""
    NwbSource(f"dandi:000021/{NAME}")
    n_first = archive.n_requests
    NwbSource(f"dandi:000021/{NAME}")
    assert archive.n_requests - n_first == 4


def test_a_plain_signed_address_finds_what_was_kept(archive: RangeServer) -> None:
    """The cache key has no signature, and no error shows one."""
    NwbSource(f"{archive.url(NAME)}?{archive.sign()}")
    n_first = archive.n_requests
    NwbSource(f"{archive.url(NAME)}?{archive.sign()}")
    assert archive.n_requests - n_first == 1
    archive.sign()
    with pytest.raises(RecordingError, match=r"refuses it \(403") as caught:
        NwbSource(f"{archive.url(NAME)}?X-Amz-Signature=5ec2e7")
    assert "5ec2e7" not in str(caught.value)


def test_a_query_that_is_no_signature_names_the_file(archive: RangeServer, tmp_path: Path) -> None:
    """`?file=2` may be another file than `?file=1`."""
    archive.signature_lasts = None
    NwbSource(f"{archive.url(NAME)}?file=1")
    n_first = archive.n_requests
    NwbSource(f"{archive.url(NAME)}?file=2")
    assert archive.n_requests - n_first > 1


def test_connections_that_drop_are_made_again(archive: RangeServer) -> None:
    """A line that breaks several times, and takes its time, costs time and no spikes."""
    archive.latency_s = 0.01
    archive.drops = {5, 6, 8}  # before them the archive was asked three times, the file once
    source = NwbSource(f"dandi:000021/{NAME}")
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)
    assert archive.n_requests > max(archive.drops)


def test_the_key_opens_an_embargoed_dandiset(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what to set is said where it is missing or wrong."""
    archive.key = "opensesame"
    with pytest.raises(RecordingError, match=r"refuses it \(401\) without a key: set DANDI_API"):
        NwbSource(f"dandi:000021/{NAME}")
    monkeypatch.setenv("DANDI_API_KEY", "wrong")
    with pytest.raises(RecordingError, match=r"refuses it \(401\) with the key in DANDI_API_KEY"):
        NwbSource(f"dandi:000021/{NAME}")
    monkeypatch.setenv("DANDI_API_KEY", "opensesame")
    assert len(NwbSource(f"dandi:000021/{NAME}").population) == len(TRAINS)


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dandi:21/x.nwb", "six digits"),
        ("dandi:000021", "dandi:DANDISET/PATH"),
        ("dandi:000099/x.nwb", r"no such file \(404"),
        ("dandi:000021@0.1/x.nwb", r"no such file \(404"),
        ("dandi:000021/sub-1/sub-1_ses", f"no such file; it has {NAME}"),
        ("dandi:000021/sub-1/session.nwb.zarr", "the server has no Zarr there"),
    ],
)
def test_a_name_that_finds_nothing_is_refused(name: str, text: str) -> None:
    """What is wanted, and what is there."""
    with pytest.raises(RecordingError, match=text):
        NwbSource(name)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense", "http://[x/api"])
def test_an_archive_that_is_not_there_is_reported(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Whatever DANDI_API_URL holds."""
    monkeypatch.setenv("DANDI_API_URL", url)
    with pytest.raises(RecordingError, match="cannot reach the server"):
        NwbSource(f"dandi:000021/{NAME}")


@pytest.mark.usefixtures("archive")
def test_a_page_in_place_of_the_api_is_reported(
    archive: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that answers, but not as the archive does."""
    archive.signature_lasts = None
    (archive.folder / "dandisets").mkdir()
    (archive.folder / "dandisets" / "000021").write_text("<!doctype html>")
    monkeypatch.setenv("DANDI_API_URL", archive.url("")[:-1])
    with pytest.raises(RecordingError, match="does not answer as DANDI does"):
        NwbSource(f"dandi:000021/{NAME}")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("000021", []),
        ("000021", {"most_recent_published_version": {"name": "x"}}),
        ("000021", {"most_recent_published_version": "0.1"}),
        ("assets", {"detail": "maintenance"}),
        ("assets", {"results": None}),
        ("assets", {"results": [{"path": NAME}]}),
        ("assets", []),
    ],
)
def test_an_answer_in_another_form_is_reported(
    archive: RangeServer, asked: str, answer: object
) -> None:
    """JSON that has not what the archive's has."""
    archive.answers = {asked: answer}
    with pytest.raises(RecordingError, match="does not answer as DANDI does"):
        NwbSource(f"dandi:000021/{NAME}")


def test_a_redirection_to_nowhere_is_reported(archive: RangeServer) -> None:
    """It has no Location."""
    archive.answers = {"download": {}}
    with pytest.raises(RecordingError, match="does not say where the file is"):
        NwbSource(f"dandi:000021/{NAME}")


def test_tables_are_read_without_the_spikes(archive: RangeServer) -> None:
    """A summary over http is that of the file, but for its span, at a part of its bytes."""
    url = f"dandi:000021/{NAME}"
    quick = summarise(url)
    n_quick = archive.n_requests
    whole = summarise(url, reads_spikes=True)
    assert archive.n_requests - n_quick > 4
    assert quick.span_s is None
    assert whole.span_s is not None
    assert (quick.n_units, quick.n_spikes) == (whole.n_units, whole.n_spikes)
    assert quick.label == whole.label
    assert any("not read" in note for note in quick.notes)


def test_a_file_of_this_machine_is_read_whole(tmp_path: Path) -> None:
    """Unless it is asked not to."""
    path = tmp_path / "file.nwb"
    write_units(path, random_trains(6))
    assert summarise(str(path)).span_s is not None
    assert describe_nwb(str(path)).n_spikes == summarise(str(path)).n_spikes
