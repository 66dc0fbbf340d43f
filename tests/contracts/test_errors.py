"""Error types: whose fault it is, all problems at once, lists cut at five."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import (
    MAX_LISTED,
    DependencyError,
    ManifestError,
    MisuseError,
    NeurrateError,
    PeerError,
    PopulationMismatchError,
    RecordingError,
    SettingsError,
    UserError,
    WireError,
    listed,
)


@given(st.lists(st.integers(0, 9), max_size=12))
def test_listed_names_five_and_counts_the_rest(offenders):
    """Whatever the number, at most five are named and none is forgotten in the count."""
    text = listed(offenders)
    named, _, rest = text.partition(" and ")
    assert [int(one) for one in named.split(", ") if one] == offenders[:MAX_LISTED]
    n_more = len(offenders) - MAX_LISTED
    assert rest == (f"{n_more} more" if n_more > 0 else "")


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (UserError, NeurrateError),
        (DependencyError, NeurrateError),
        (MisuseError, NeurrateError),
        (PeerError, NeurrateError),
        (WireError, PeerError),
        (RecordingError, UserError),
        (ManifestError, UserError),
        (SettingsError, UserError),
        (PopulationMismatchError, UserError),
    ],
)
def test_every_error_has_one_base_and_one_to_blame(kind, base):
    """Errors split by whose fault they are, under one base."""
    assert issubclass(kind, base)
    blamed = [
        b for b in (UserError, DependencyError, MisuseError, PeerError) if issubclass(kind, b)
    ]
    assert len(blamed) == 1


@pytest.mark.parametrize("kind", [RecordingError, ManifestError])
def test_one_problem_is_a_sentence_and_several_are_a_list(kind):
    """One problem stands behind the place; several are counted and listed below it."""
    one = kind("here.nwb", "it is empty")
    assert str(one).endswith("here.nwb: it is empty")
    two = kind("here.nwb", "it is empty", "it is old")
    assert str(two).endswith("here.nwb: 2 problems:\n  - it is empty\n  - it is old")
    assert two.path == "here.nwb"
    assert two.problems == ("it is empty", "it is old")


def test_settings_error_lists_its_problems():
    """Settings come from several places, so each problem names its own."""
    error = SettingsError(["a.b is wrong (x.toml)", "c is unknown (--c)"])
    assert str(error) == "2 problems:\n  - a.b is wrong (x.toml)\n  - c is unknown (--c)"
    assert len(error.problems) == 2


def test_wire_error_carries_its_reason():
    """The reason is for counters, the message for people."""
    error = WireError("version", "header version 3, this build reads 1")
    assert error.reason == "version"
    assert str(error) == "header version 3, this build reads 1"


@pytest.mark.parametrize(
    ("missing", "extra", "says"),
    [
        (["1", "2"], [], "2 units of the encoder's population are not in the stream: unit_id 1, 2"),
        ([], ["3"], "1 units in the stream are not in the encoder's population: unit_id 3"),
        (["1"], [str(k) for k in range(7)], "unit_id 0, 1, 2, 3, 4 and 2 more"),
    ],
)
def test_population_mismatch_says_which_and_what_to_do(missing, extra, says):
    """The message names units on either side, the source and the two ways out."""
    error = PopulationMismatchError(missing, extra, source="nwb:715093703")
    assert says in str(error)
    assert "'nwb:715093703'" in str(error)
    assert "--units-from BUNDLE" in str(error)
    assert (error.missing, error.extra) == (tuple(missing), tuple(extra))
