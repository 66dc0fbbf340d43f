"""What ``neurrate bench`` refuses before it starts anything, and what it makes once and keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from contracts.errors import UserError
from evaluation.latency.inputs import prepare_inputs
from evaluation.latency.rules import rules_text
from neurrate import cli
from tests.support.tiny_bundle import stub_bundle  # noqa: F401 - a fixture


@pytest.mark.parametrize("verb", ["latency", "soak"])
def test_the_help_has_examples(verb, capsys):
    """It shows how the verb is typed."""
    assert cli.main(["bench", verb, "--help"]) == 0
    shown = capsys.readouterr().out.partition("For example:")[2]
    assert f"neurrate bench {verb}" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latency", "--rates", "fast"], "--rates must be numbers from 0.1 to 10000"),
        (["latency", "--rates", "0,5"], "got '0,5'"),
        (["latency", "--rates", ""], "separated by commas, got ''"),
        (["latency", "--seconds-per-rate", "1"], "--seconds-per-rate"),
        (["latency", "--json", "/no/such/folder/x"], "there is no folder /no/such/folder"),
        (["latency", "--picture", "picture"], "must end with one of .png, .svg, .pdf"),
        (["latency", "--populations", ","], "--populations must name at least one"),
        (["latency", "--recording", "x.nwb"], "give its --bundle"),
        (["latency", "--bundle", "nowhere"], "there is no such folder"),
        (["soak", "--minutes", "0"], "--minutes"),
        (["soak", "--rate", "0"], "--rate"),
        (["sock"], "neurrate bench has no verb 'sock'. Did you mean 'soak'?"),
    ],
)
def test_mistakes_are_refused_at_once(words, said, capsys, tmp_path, monkeypatch):
    """What the user can correct ends with 2 and one sentence, before anything is made."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *words]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())


def test_a_picture_without_matplotlib_is_refused_at_once(capsys, tmp_path, monkeypatch):
    """The missing library is named with the extra that brings it, before the long work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench", "latency", "--picture", "x.png"]) == 3
    assert "pip install 'neurrate[train]'" in capsys.readouterr().err


def test_a_bundle_needs_a_recording_of_its_units(stub_bundle, tmp_path):  # noqa: F811
    """The simulated recording has the simulated animal's units."""
    with pytest.raises(UserError, match="give its --recording"):
        prepare_inputs(
            tmp_path,
            recording=None,
            bundle=stub_bundle.folder,
            model=None,
            populations={},
            seconds=1,
        )


def test_inputs_that_are_given_are_used_unchanged(stub_bundle, tmp_path):  # noqa: F811
    """Recording, model and populations are taken as they are; nothing is made."""
    inputs = prepare_inputs(
        tmp_path / "bench",
        recording="session.nwb",
        bundle=stub_bundle.folder,
        model="model",
        populations={"all": "all", "VISp": "VISp"},
        seconds=1e9,
    )
    assert (inputs.recording, inputs.model, inputs.start) == ("session.nwb", "model", None)
    assert tuple(inputs.populations) == ("all", "VISp")
    assert inputs.bins_per_s == 120
    assert inputs.rules is None
    assert not (tmp_path / "bench").exists()


def test_rules_go_both_ways(tmp_path: Path):
    """Each concept has a rule for its beginning and one for its end."""
    import tomllib

    rules = tomllib.loads(rules_text(["car", "dog"], "all"))["triggers"]
    assert [rule["when"] for rule in rules.values()] == [
        'probe "car" of all > 0.5',
        'probe "car" of all < 0.5',
        'probe "dog" of all > 0.5',
        'probe "dog" of all < 0.5',
    ]
