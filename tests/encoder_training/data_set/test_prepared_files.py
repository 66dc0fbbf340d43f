"""The folder of a data set: written, mapped, and refused with every reason at once."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from contracts.errors import UserError
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from tests.support.prepared import prepared_set


@pytest.fixture
def prepared() -> PreparedSet:
    """Return a small set."""
    return prepared_set(n_frames=12, n_repeats=4, units_each=2)


@pytest.fixture
def folder(tmp_path, prepared):
    """Write it."""
    write_prepared(tmp_path / "set", prepared, options={"every": 1}, command="neurrate prepare")
    return tmp_path / "set"


def assert_same(one, other):
    """Compare two frozen values, arrays by their content."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
        else:
            assert a == b


def test_a_set_comes_back_as_it_was(prepared, folder):
    """Every array and every fact is read back, and counts and patches are maps of their files."""
    back = load_prepared(folder, check_hashes=True)
    assert_same(back.shown, prepared.shown)
    assert_same(back.spans, prepared.spans)
    assert_same(back.frames, prepared.frames)
    for name in ("population", "window", "grid", "language_model"):
        assert getattr(back, name) == getattr(prepared, name)
    assert np.array_equal(back.counts, prepared.counts)
    assert np.array_equal(back.targets, prepared.targets)
    assert isinstance(back.counts, np.memmap)
    assert isinstance(back.targets, np.memmap)
    one, other = prepared.windows(100_000_000), back.windows(100_000_000)
    assert np.array_equal(one[0].first_bin, other[0].first_bin)
    assert np.array_equal(one[1].test, other[1].test)


def test_the_hash_is_of_the_content(tmp_path, prepared, folder):
    """The same content has the same hash, whatever command made it; a caption makes another."""
    sha256 = load_facts(folder).data_sha256
    assert load_prepared(folder).training_data.sha256 == sha256
    assert write_prepared(tmp_path / "b", prepared, command="another") == sha256
    captions = ("Something else.", *prepared.frames.captions[1:])
    changed = replace(prepared, frames=replace(prepared.frames, captions=captions))
    assert write_prepared(tmp_path / "c", changed) != sha256


def test_a_data_set_of_an_earlier_version_has_no_blanks(tmp_path, prepared, folder):
    """Without the column windows begin in their blocks; with it, it comes back and is checked."""
    assert load_prepared(folder).shown.blank_from_ns is None
    blank_from_ns = prepared.shown.start_ns - 1
    later = replace(prepared, shown=replace(prepared.shown, blank_from_ns=blank_from_ns))
    write_prepared(tmp_path / "e", later)
    back = load_prepared(tmp_path / "e").shown.blank_from_ns
    assert back is not None
    assert back.tolist() == blank_from_ns.tolist()
    wrong = replace(later, shown=replace(later.shown, blank_from_ns=blank_from_ns + 2))
    write_prepared(tmp_path / "f", wrong)
    with pytest.raises(UserError, match=r"blank_from_ns in .* must not be after start_ns"):
        load_prepared(tmp_path / "f")


def test_numbers_of_frames_that_are_no_target_are_kept(tmp_path, prepared):
    """The presentations' own movie and number stand beside the targets."""
    n_shown = len(prepared.shown.frame)
    write_prepared(
        tmp_path / "d",
        prepared,
        movie=np.zeros(n_shown, dtype=np.int64),
        number=np.arange(n_shown),
        movies={"natural_movie_one": 900},
    )
    tensors = load_file(tmp_path / "d" / "presentations.safetensors")
    assert tensors["number"].tolist() == list(range(n_shown))
    assert load_facts(tmp_path / "d").movies[0].n_frames == 900


def test_every_problem_is_in_one_error(folder):
    """Wrong counts, wrong presentations and wrong frames are reported together."""
    np.save(folder / "counts.npy", np.zeros((3, 2)))
    with (folder / "frames.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"movie": "natural_movie_one", "number": 12, "caption": ""}\n')
    tensors = load_file(folder / "presentations.safetensors")
    tensors["role"][0] = 7
    tensors["frame"][0] = 99
    save_file(tensors, folder / "presentations.safetensors")
    with pytest.raises(UserError, match="4 problems") as refused:
        load_prepared(folder)
    for text in ("counts.npy must be uint8", "patches.safetensors must be", "role in", "frame in"):
        assert text in str(refused.value)


def test_a_missing_and_a_broken_file_are_named(folder):
    """What is not there, or cannot be read, is reported with its name."""
    (folder / "counts.npy").unlink()
    (folder / "frames.jsonl").unlink()
    with pytest.raises(UserError, match=r"2 problems:\n  - counts.npy is not there\n  - frames"):
        load_prepared(folder)


def test_tensors_of_another_kind_are_refused(folder):
    """A column that is missing, of another type or of another length is named."""
    tensors = load_file(folder / "presentations.safetensors")
    short = {**tensors, "group": tensors["group"][1:]}
    save_file(short, folder / "presentations.safetensors")
    with pytest.raises(UserError, match="columns of one length"):
        load_prepared(folder)
    del tensors["start_ns"]
    save_file(
        {**tensors, "role": tensors["role"].astype(np.int64)}, folder / "presentations.safetensors"
    )
    with pytest.raises(UserError, match="start_ns") as refused:
        load_prepared(folder)
    assert "role, int8 of 1 dimension; it is int64" in str(refused.value)


def test_changed_content_is_found_when_asked(folder):
    """A byte of the counts that changed is found by its hash, and only when hashes are wanted."""
    path = folder / "counts.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    load_prepared(folder)
    with pytest.raises(UserError, match=r"counts.npy has another sha256 than dataset.json says"):
        load_prepared(folder, check_hashes=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format_version": 2}, "format_version is 2, this build reads 1"),
        ({"population": []}, "population"),
        ({"recording": "another"}, "changed by hand"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_facts_that_do_not_hold_are_refused(folder, change, text):
    """Another version, no units, a changed name, an unknown field."""
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=text):
        load_prepared(folder)


def test_what_is_no_data_set_says_so(tmp_path, folder):
    """No folder, another folder, an unfinished one: each has a sentence."""
    with pytest.raises(UserError, match="no such folder"):
        load_prepared(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="is it a data set"):
        load_prepared(tmp_path / "other")
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError, match="not finished: give neurrate prepare the same command"):
        load_prepared(folder)
