"""Labels, ids and spike times in the forms that files have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from contracts.errors import RecordingError
from stream_sources.recordings.nwb import NwbSource
from tests.support import spike_lists
from tests.support.nwb_files import random_trains, write_units

TRAINS = random_trains(6)
CODES = np.array([0, 1, 0, 2, 0, 1], dtype=np.uint8)
NAMES = ["good", "mua", "noise"]
WORDS = [NAMES[code] for code in CODES]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a recording without labels."""
    return write_units(tmp_path / "file.nwb", TRAINS)


def add(path: Path, name: str, data: Any, **options: Any) -> None:
    """Add a column to the units table."""
    with h5py.File(path, "a") as file:
        file["units"].create_dataset(name, data=data, **options)


def change(path: Path, name: str, values_of: Callable[[Any], Any], **storage: Any) -> None:
    """Replace a column of the units table by a function of its values."""
    with h5py.File(path, "a") as file:
        values = values_of(file[f"units/{name}"][:])
        del file[f"units/{name}"]
        file["units"].create_dataset(name, data=values, **storage)


def as_enum(path: Path) -> None:
    """An HDF5 enumeration."""
    add(path, "quality", CODES, dtype=h5py.enum_dtype({n: i for i, n in enumerate(NAMES)}))


def as_enum_data(path: Path) -> None:
    """EnumData as hdmf writes it: codes, and a reference to their names."""
    add(path, "quality", CODES)
    add(path, "some_names", NAMES)
    with h5py.File(path, "a") as file:
        attributes = file["units/quality"].attrs
        attributes["neurodata_type"] = "EnumData"
        attributes["elements"] = file["units/some_names"].ref


def as_enum_data_without_reference(path: Path) -> None:
    """EnumData whose names are found by their own name."""
    add(path, "quality", CODES)
    add(path, "quality_elements", NAMES)
    with h5py.File(path, "a") as file:
        file["units/quality"].attrs["neurodata_type"] = "EnumData"


def as_enum_data_of_fixed_length(path: Path) -> None:
    """EnumData whose type is stored as a string of fixed length."""
    as_enum_data_without_reference(path)
    with h5py.File(path, "a") as file:
        file["units/quality"].attrs["neurodata_type"] = np.bytes_("EnumData")


def as_padded(path: Path) -> None:
    """Text of fixed length, padded with blanks."""
    add(path, "quality", np.array([f"{word:8}" for word in WORDS], dtype="S8"))


def as_nul_padded(path: Path) -> None:
    """Text of variable length with a NUL and a line end."""
    add(path, "quality", [f" {word}\r\n" for word in WORDS])


def as_utf8_fixed(path: Path) -> None:
    """UTF-8 of fixed length."""
    add(path, "quality", np.array(WORDS, dtype="S5").astype(h5py.string_dtype("utf-8", 5)))


def as_column_vector(path: Path) -> None:
    """Shape (n, 1), as MATLAB writes."""
    add(path, "quality", np.array(WORDS, dtype="S5").reshape(-1, 1))


def as_second_choice(path: Path) -> None:
    """``quality`` has no labels, and a column of another name has."""
    add(path, "quality", ["unknown", "Unknown", "NaN", "", "n/a", "None"])
    add(path, "KSLabel", WORDS)


@pytest.mark.parametrize(
    "form",
    [
        as_enum, as_enum_data, as_enum_data_without_reference, as_enum_data_of_fixed_length,
        as_padded, as_nul_padded, as_utf8_fixed, as_column_vector, as_second_choice,
    ],
    ids=lambda form: form.__name__,
)  # fmt: skip
def test_labels_are_read_in_every_form(path: Path, form: Callable[[Path], None]) -> None:
    """Coded, padded or in another shape, the labels are the same and can be selected."""
    form(path)
    source = NwbSource(str(path))
    assert [unit.quality for unit in source.population.units] == WORDS
    assert source.notes == ()
    assert len(NwbSource(str(path), units="good").population) == 3


def test_codes_without_names_are_no_labels(path: Path) -> None:
    """Codes beyond the names, or without any names, count as none and are noted."""
    as_enum_data(path)
    with h5py.File(path, "a") as file:
        file["units/quality"][0] = 9
    source = NwbSource(str(path))
    assert [unit.quality for unit in source.population.units] == ["", *WORDS[1:]]
    assert source.notes == ("units/quality has 1 codes without a name; they count as none",)
    with h5py.File(path, "a") as file:
        del file["units/some_names"]
    source = NwbSource(str(path))
    assert {unit.quality for unit in source.population.units} == {""}
    assert "holds codes whose names are not in the file" in source.notes[0]


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (np.array([1.0, 2.0, np.nan, 3.0, 1.0, 1.0]), ["1", "2", "", "3", "1", "1"]),
        (np.array([1, 2, 3, 4, 5, 6]), ["1", "2", "3", "4", "5", "6"]),
        (["a", "null", "<NA>", "NONE", "grey", "unknown"], ["a", "", "", "", "grey", ""]),
    ],
)
def test_whole_numbers_are_labels_and_null_texts_are_not(
    path: Path, data: Any, labels: list[str]
) -> None:
    """Whole numbers become text, NaN and the texts for null become no label."""
    add(path, "cell_type", data)
    assert [unit.cell_type for unit in NwbSource(str(path)).population.units] == labels


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (WORDS[:5], "units/quality has 5 values, the table has 6 rows"),
        (np.zeros((6, 2)), r"units/quality must have one value .* its shape is \(6, 2\)"),
        (np.full(6, np.inf), "units/quality must hold text or whole numbers"),
        (np.arange(6) + 0.5, "units/quality must hold text or whole numbers"),
        (h5py.Empty("f8"), "units/quality holds nothing: its data space is null"),
    ],
)
def test_a_column_that_does_not_fit_is_left_out_and_noted(path: Path, data: Any, text: str) -> None:
    """The recording is read without it, `inspect` and the log say so, and `good` is refused."""
    add(path, "quality", data)
    source = NwbSource(str(path))
    assert {unit.quality for unit in source.population.units} == {""}
    (note,) = source.notes
    assert re.fullmatch(f"left out: {text}.*", note)
    with pytest.raises(RecordingError, match="lacks: quality"):
        NwbSource(str(path), units="good")


@pytest.mark.parametrize(
    "shape", [lambda values: values.reshape(-1, 1), lambda values: values.reshape(1, -1)]
)
@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}])
def test_columns_of_one_row_or_one_column_are_read(
    path: Path, shape: Callable[[Any], Any], storage: dict[str, Any]
) -> None:
    """MATLAB knows no vectors: (n, 1) and (1, n) are n values."""
    for name in ("spike_times", "spike_times_index", "id"):
        change(path, name, shape, **storage)
    source = NwbSource(str(path))
    assert spike_lists.of_batches(source.batches()) == spike_lists.of_trains(TRAINS)


def test_a_single_unit_may_be_written_without_dimensions(tmp_path: Path) -> None:
    """A table of one row has columns of one value, which some writers store as such."""
    path = write_units(tmp_path / "one.nwb", [np.array([0.5])])
    for name in ("spike_times", "spike_times_index", "id"):
        change(path, name, lambda values: values[0])
    assert spike_lists.of_batches(NwbSource(str(path)).batches()) == [(500_000_000, 0)]


def test_a_column_of_two_dimensions_is_refused_with_its_shape(path: Path) -> None:
    """It is not known which of the two holds the spikes."""
    change(path, "spike_times", lambda times: np.stack([times, times], axis=1))
    with pytest.raises(RecordingError, match=r"units/spike_times must have .* shape is \(240, 2\)"):
        NwbSource(str(path))


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (np.arange(6) + 951.0, ["951", "952", "953", "954", "955", "956"]),
        ([" a", "b ", "c", "d", "e", "f"], ["a", "b", "c", "d", "e", "f"]),
    ],
)
def test_ids_are_read_in_every_form(path: Path, ids: Any, found: list[str]) -> None:
    """Ids written as whole floats are whole numbers."""
    change(path, "id", lambda _: ids)
    assert [unit.unit_id for unit in NwbSource(str(path)).population.units] == found


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(6) + 0.5,
        np.array([1, 2, 3, 4, 5, np.nan]),
        np.array([1, 2, 3, 4, 5, np.inf]),
        ["a", "b", "c", "d", "e", " "],
    ],
)
def test_values_that_are_not_ids_are_refused(path: Path, ids: Any) -> None:
    """Fractions, NaN and blanks are not ids."""
    change(path, "id", lambda _: ids)
    with pytest.raises(RecordingError, match="units/id must hold a whole number or a name"):
        NwbSource(str(path))


def test_an_id_that_cannot_be_sent_is_refused(path: Path) -> None:
    """The wire format limits texts."""
    change(path, "id", lambda _: ["x" * 2000, *"abcde"])
    with pytest.raises(RecordingError, match="a unit id may have 1,024 letters; longer are xxx"):
        NwbSource(str(path))


def test_whole_numbers_of_spike_times_are_noted(path: Path) -> None:
    """NWB's unit is the second; sample numbers would look like a very long recording."""
    change(path, "spike_times", lambda times: (times * 30_000).astype(np.int64))
    assert "units/spike_times holds whole numbers (int64)" in NwbSource(str(path)).notes[0]
