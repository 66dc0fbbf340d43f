"""Arrays of NWB in Zarr: packed in any way that Zarr has, damaged, or hostile."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import zarr

from contracts.errors import RecordingError
from stream_sources.recordings import zarr_array
from stream_sources.recordings.open_source import open_source
from tests.support.nwb_zarrs import TWIN, assert_twins, edit, repack, unpack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep copies below the folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "neurrate" / "zarr"


@pytest.mark.parametrize(
    "settings",
    [
        {"chunks": 50, "compressor": None},
        {"chunks": 1000, "compressor": numcodecs.Zlib()},
        {"chunks": 7, "compressor": numcodecs.GZip()},
        {"chunks": 64, "compressor": numcodecs.Zstd()},
        {"chunks": 64, "compressor": numcodecs.LZ4(), "filters": [numcodecs.Shuffle(8)]},
        {"chunks": 64, "filters": [numcodecs.Delta("f8")], "compressor": None, "order": "F"},
        {"chunks": 64, "dimension_separator": "/", "dtype": ">f8"},
    ],
)
def test_spikes_may_be_packed_in_other_ways(tmp_path: Path, settings: dict[str, Any]) -> None:
    """What Zarr's users choose; Delta of floats is not exact, so the twin is made of its values."""
    folder = unpack(tmp_path)
    repack(folder, "units/spike_times", **settings)
    twin = tmp_path / "twin.nwb"
    shutil.copy(TWIN, twin)
    with h5py.File(twin, "r+") as file:
        file["units/spike_times"][:] = zarr.open(str(folder))["units/spike_times"][:]
    assert_twins(folder, twin)


@pytest.mark.parametrize(
    "settings",
    [
        {"object_codec": numcodecs.VLenUTF8()},
        {"object_codec": numcodecs.JSON()},
        {"dtype": "U8"},
        {"dtype": "S8"},
    ],
)
def test_labels_may_be_kept_in_other_ways(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Texts of any of Zarr's types, in chunks."""
    folder = unpack(tmp_path)
    repack(folder, "units/quality", chunks=4, **settings)
    assert_twins(folder)


@pytest.mark.parametrize(
    "packed", [numcodecs.Blosc(), numcodecs.Zlib(), numcodecs.Zstd(), numcodecs.LZ4(), None]
)
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_chunk_that_is_cut_short_is_refused(tmp_path: Path, packed: Any, part: float) -> None:
    """By its key."""
    folder = unpack(tmp_path)
    repack(folder, "units/spike_times", chunks=100, compressor=packed)
    chunk = folder / "units/spike_times/2"
    chunk.write_bytes(chunk.read_bytes()[: int(chunk.stat().st_size * part)])
    with pytest.raises(RecordingError, match=r"chunk units/spike_times/2 cannot be unpacked"):
        open_source(str(folder))


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    """hdmf-zarr's own pickles hold arrays, texts and references; whatever else does is refused."""
    folder = unpack(tmp_path)
    array = np.array([Harmful(tmp_path / "harm"), *["good"] * 5], dtype=object)
    edit(
        folder,
        "units/quality/.zarray",
        lambda array: array.update(filters=[{"id": "pickle", "protocol": 5}], compressor=None),
    )
    (folder / "units/quality/0").write_bytes(pickle.dumps(array))
    with pytest.raises(RecordingError, match=r"needs pathlib\.Path\.touch|needs pathlib|getattr"):
        open_source(str(folder))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("packed", [numcodecs.Zlib(), numcodecs.GZip()])
def test_a_chunk_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Any
) -> None:
    """Before it has filled the memory."""
    folder = unpack(tmp_path)
    repack(folder, "units/spike_times", chunks=100, compressor=packed)
    monkeypatch.setattr(zarr_array, "MAX_CHUNK_BYTES", 10_000)
    (folder / "units/spike_times/2").write_bytes(packed.encode(bytes(10**6)))
    with pytest.raises(RecordingError, match="or has more than 10,000 bytes"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shape": [10**15], "chunks": [10**15]}, r"a chunk has 8,000,000,000,000,000 bytes"),
        ({"shape": [10**15], "chunks": [64]}, r"15,625,000,000,000 chunks; at most 1,048,576"),
        ({"shape": [10**13], "chunks": [10**8]}, r"80,000,000,\d{3},\d{3} bytes, and .* are free"),
        ({"shape": [-1]}, "does not describe an array"),
        ({"shape": [330.0]}, "does not describe an array"),
        ({"shape": [True]}, "does not describe an array"),
        ({"chunks": [0]}, "does not describe an array"),
        ({"shape": [330, 1]}, "do not fit"),
        ({"dtype": [["a", "<f8"]]}, "does not describe an array"),
        ({"dtype": "<M8[s]"}, "its type is datetime64"),
        ({"dtype": "nonsense"}, "does not describe an array"),
        ({"compressor": {"id": "lzma"}}, "it is packed with lzma; blosc, gzip"),
        ({"filters": [{"id": "msgpack2"}]}, "it is packed with msgpack2"),
        ({"filters": [{}]}, "does not describe an array"),
        ({"filters": "x"}, "does not describe an array"),
        ({"order": "X"}, "order C or F"),
        ({"dimension_separator": ""}, "dimension_separator"),
        ({"zarr_format": 3}, "zarr_format must be 2"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    """A hostile size takes neither memory nor time, and what is wrong is said."""
    folder = unpack(tmp_path)
    path = folder / "units/spike_times/.zarray"
    path.write_text(_json(path, change))
    with pytest.raises(RecordingError, match=text):
        open_source(str(folder))


def _json(path: Path, change: dict[str, Any]) -> str:
    return json.dumps(json.loads(path.read_text()) | change)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"shape": NaN}', "\xff"])
def test_a_document_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """JSON of another kind, or none at all."""
    folder = unpack(tmp_path)
    (folder / "units/id/.zarray").write_text(text, encoding="latin-1")
    with pytest.raises(RecordingError, match=r"units/id/\.zarray"):
        open_source(str(folder))
