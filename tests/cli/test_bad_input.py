"""Bad input: the same clear sentence from inspect, stream and demo, code 2, no traceback."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import h5py
import numpy as np
import pytest
import zmq

from contracts.manifest import Manifest, load_manifest
from neurrate import bundle_command
from neurrate.cli import main
from tests.support.nwb_files import random_trains, write_units
from tests.support.range_server import range_server

VERBS = {
    "inspect": lambda path: ["inspect", path],
    "stream": lambda path: ["stream", "nwb", path, "--bind", "tcp://127.0.0.1:*"],
    "demo": lambda path: ["demo", "--recording", path],
}


def _missing(folder: Path) -> Path:
    return folder / "nowhere.nwb"


def _not_hdf5(folder: Path) -> Path:
    path = folder / "text.nwb"
    path.write_text("unit,time\n1,0.5\n")
    return path


def _version_1(folder: Path) -> Path:
    path = folder / "old.nwb"
    with h5py.File(path, "w") as file:
        file["nwb_version"] = "NWB-1.0.5"
        file.create_group("processing")
    return path


def _no_units(folder: Path) -> Path:
    path = folder / "empty.nwb"
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
    return path


def _with_index(folder: Path, change: Callable[[h5py.Group], None]) -> Path:
    path = write_units(folder / "session.nwb", random_trains())
    with h5py.File(path, "a") as file:
        change(file["units"])
    return path


def _dangling_index(folder: Path) -> Path:
    def change(units: h5py.Group) -> None:
        units["spike_times_index"][-1] = 10**6

    return _with_index(folder, change)


def _truncated_index(folder: Path) -> Path:
    def change(units: h5py.Group) -> None:
        index = units["spike_times_index"][:-1]
        del units["spike_times_index"]
        units["spike_times_index"] = index

    return _with_index(folder, change)


def _nan(folder: Path) -> Path:
    def change(units: h5py.Group) -> None:
        units["spike_times"][3] = np.nan

    return _with_index(folder, change)


def _unsorted(folder: Path) -> Path:
    def change(units: h5py.Group) -> None:
        units["spike_times"][3] = 1e6

    return _with_index(folder, change)


def _truncated_file(folder: Path) -> Path:
    path = write_units(folder / "cut.nwb", random_trains(n_units=50))
    path.write_bytes(path.read_bytes()[:4000])
    return path


BAD_FILES = {
    "missing": (_missing, "no such file"),
    "not HDF5": (_not_hdf5, "HDF5"),
    "NWB 1.x": (_version_1, "NWB 1"),
    "no units": (_no_units, "units"),
    "dangling index": (_dangling_index, "spike_times_index"),
    "truncated index": (_truncated_index, "spike_times_index"),
    "NaN": (_nan, "unit_id"),
    "unsorted": (_unsorted, "unit_id"),
    "truncated file": (_truncated_file, "truncated"),
}


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must be refused; return its sentence."""
    code = main(words)
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    assert error.count("neurrate: error: ") == 1
    return error.partition("neurrate: error: ")[2]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_refused(
    verb: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Each bad file gets a sentence that names the file and what is wrong with it."""
    make, words = BAD_FILES[kind]
    path = make(tmp_path)
    sentence = refuse(VERBS[verb](str(path)), capsys)
    assert words in sentence
    assert path.name in sentence


@pytest.mark.parametrize("verb", VERBS)
def test_no_unit_left_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A filter that no unit passes says the filter and how many units there were."""
    path = write_units(tmp_path / "session.nwb", random_trains(n_units=5))
    sentence = refuse([*VERBS[verb](str(path)), "--units", "area:VISp"], capsys)
    assert "5" in sentence
    assert "area:VISp" in sentence


@pytest.mark.parametrize(
    ("verb", "option"),
    [("inspect", "--units-from"), ("stream", "--units-from"), ("demo", "--bundle")],
)
def test_bundle_of_other_units_is_refused(
    verb: str,
    option: str,
    tmp_path: Path,
    tiny_bundle: Manifest,
    capsys: pytest.CaptureFixture[str],
):
    """A bundle whose units the recording lacks: their ids are named."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    sentence = refuse([*VERBS[verb](str(path)), option, str(tiny_bundle.folder)], capsys)
    assert "950900" in sentence


@pytest.mark.parametrize("verb", VERBS)
def test_unreachable_address_is_refused(verb: str, capsys: pytest.CaptureFixture[str]):
    """A URL that nobody answers is refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sentence = refuse(VERBS[verb](f"http://127.0.0.1:{port}/session.nwb"), capsys)
    assert str(port) in sentence


@pytest.mark.parametrize("verb", VERBS)
def test_server_without_ranges_is_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A server that ignores Range is refused, with the reason."""
    write_units(tmp_path / "session.nwb", random_trains())
    with range_server(tmp_path, ranges=False) as server:
        sentence = refuse(VERBS[verb](server.url("session.nwb")), capsys)
    assert "byte ranges" in sentence


def test_taken_port_of_a_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A port in use says which, and what to set."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    with zmq.Context() as context, context.socket(zmq.PUB) as taken:
        port = taken.bind_to_random_port("tcp://127.0.0.1")
        words = ["stream", "nwb", str(path), "--bind", f"tcp://127.0.0.1:{port}"]
        sentence = refuse(words, capsys)
    assert f"Cannot bind tcp://127.0.0.1:{port}: address already in use" in sentence
    assert "--bind" in sentence


def test_open_bind_of_a_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An address that other machines can reach needs --insecure."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    sentence = refuse(["stream", "nwb", str(path), "--bind", "tcp://0.0.0.0:5999"], capsys)
    assert "--insecure" in sentence


@pytest.mark.parametrize("port", ["99999", "80x"])
def test_port_that_is_none_is_refused(
    port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """ZeroMQ would listen on another port, and nobody would find the source."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    sentence = refuse(["stream", "nwb", str(path), "--bind", f"tcp://127.0.0.1:{port}"], capsys)
    assert "--bind must have a port from 0 to 65535, or * for any that is free, got" in sentence


OUT_OF_BOUNDS = {
    "no unit": (["simulate", "recording", "new.nwb", "--units", "0"], "--units"),
    "negative length": (["simulate", "recording", "new.nwb", "--seconds", "-1"], "--seconds"),
    "negative seed": (["simulate", "llava", "new", "--seed", "-1"], "--seed"),
    "no bin rate": (
        ["bundle", "random", "REC", "new", "--model", "m", "--bin-rate-hz", "0"],
        "--bin-rate-hz",
    ),
    "no bins": (["bundle", "random", "REC", "new", "--model", "m", "--bins", "0"], "--bins"),
    "no stride": (["bundle", "random", "REC", "new", "--model", "m", "--stride", "0"], "--stride"),
    "negative listeners": (
        ["stream", "nwb", "REC", "--wait-subscribers", "-1"],
        "--wait-subscribers",
    ),
    "nothing to play": (["demo", "--recording", "REC", "--seconds", "0"], "--seconds"),
    "start beyond the end": (
        ["demo", "--recording", "REC", "--start", "1000"],
        "--start (start_s)",
    ),
    "no rules": (["demo", "--recording", "REC", "--triggers", "none.toml"], "--triggers"),
    "no population": (["demo", "--recording", "REC", "--populations", ""], "--populations"),
    "no time to watch": (["watch", "--seconds", "0"], "--seconds"),
}


@pytest.mark.parametrize("kind", OUT_OF_BOUNDS)
def test_argument_out_of_bounds_is_refused(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """An argument that no work can be done with is refused before anything is written."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    monkeypatch.chdir(tmp_path)
    words, named = OUT_OF_BOUNDS[kind]
    sentence = refuse([str(path) if word == "REC" else word for word in words], capsys)
    assert named in sentence
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


OUTPUTS = {
    "recording": ["simulate", "recording"],
    "llava": ["simulate", "llava"],
    "bundle": ["bundle", "random", "--model", "m", "REC"],
}


@pytest.mark.parametrize("verb", OUTPUTS)
@pytest.mark.parametrize("is_locked", [False, True])
def test_output_that_cannot_be_written_is_refused(
    verb: str,
    is_locked: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """A path under a file, or in a folder of somebody else, is named before the work."""

    def locked(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = write_units(tmp_path / "session.nwb", random_trains())
    out = (tmp_path if is_locked else path) / "new.nwb"
    if is_locked:  # root may write everywhere
        monkeypatch.setattr("contracts.atomic_files.os.access", lambda *_: False)
        monkeypatch.setattr("contracts.atomic_files.Path.touch", locked)
    words = [str(path) if word == "REC" else word for word in OUTPUTS[verb]]
    sentence = refuse([*words, str(out)], capsys)
    assert f"Cannot write {out}" in sentence


@pytest.mark.usefixtures("shallow")
def test_bundle_that_is_there_needs_overwrite(
    tmp_path: Path,
    tiny_llava: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The option that the sentence names replaces the bundle; a model keeps its whole path."""
    path = write_units(tmp_path / "session.nwb", random_trains())
    copytree(tiny_llava, tmp_path / "tiny-llava")
    monkeypatch.chdir(tmp_path)
    words = ["bundle", "random", str(path), "bundle", "--model"]
    assert main([*words, "org/model"]) == 0
    assert load_manifest(tmp_path / "bundle").model.language_model.model_id == "org/model"
    words.append("tiny-llava/")
    assert "add --overwrite" in refuse(words, capsys)
    assert main([*words, "--overwrite", "--seed", "1"]) == 0
    kept = load_manifest(tmp_path / "bundle").model.language_model.model_id
    assert kept == str(tmp_path / "tiny-llava")


@pytest.mark.parametrize("model", ["tiny-llava/", "tiny-llava", "./tiny-llava", "org/model"])
def test_model_of_a_bundle_is_found_from_any_folder(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder is kept as its whole path, and the id of a model on the hub stays an id."""
    (tmp_path / "tiny-llava").mkdir()
    monkeypatch.chdir(tmp_path)
    kept = bundle_command._whole_path(model)
    assert kept == (model if model == "org/model" else str(tmp_path / "tiny-llava"))


def test_path_with_spaces_and_letters_of_any_script_is_read(tmp_path: Path):
    """Names of files are text, not words of a shell."""
    folder = tmp_path / "mäuse 2026 ☂ 记录"
    folder.mkdir()
    path = write_units(folder / "a b.nwb", random_trains())
    assert main(["inspect", str(path), "--json", str(folder / "ü .json")]) == 0
    assert (folder / "ü .json").is_file()


def test_error_of_the_file_system_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An error that names a path is the user's, whichever verb it comes from."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "disk/new.nwb")

    monkeypatch.setattr("neurrate.simulate_command.check_writable", full)
    sentence = refuse(["simulate", "recording", "new.nwb"], capsys)
    assert "disk/new.nwb: no space left on device" in sentence


def test_unknown_setting_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """An unknown key in a file names the file and the key that was meant."""
    file = tmp_path / "replay.toml"
    file.write_text("[ring]\ncapactiy_s = 20\n")
    sentence = refuse(["run", "--config", str(file)], capsys)
    assert "ring.capactiy_s" in sentence
    assert "Did you mean ring.capacity_s" in sentence
    assert "replay.toml" in sentence
