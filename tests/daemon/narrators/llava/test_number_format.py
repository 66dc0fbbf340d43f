"""Which number format a model is loaded in."""

from __future__ import annotations

import json

import pytest

from contracts.errors import UserError
from daemon.narrators.llava.number_format import choose_format
from tests.support.tiny_bundle import write_stub_bundle

GOOD = {"number_format": "bfloat16", "n_narrations": 32, "n_equal": 31, "speedup": 1.6}


@pytest.fixture
def manifest(tmp_path):
    """Return a bundle without a report."""
    return write_stub_bundle(tmp_path / "bundle")


def report(manifest, *trials, model="a model"):
    """Write a report beside the bundle."""
    document = {"formats": {"model": model, "trials": trials}}
    (manifest.folder / "parity.json").write_text(json.dumps(document))


def chosen(manifest, asked="auto", device="cpu"):
    """Choose for the model that the reports are of."""
    return choose_format(asked, device, manifest, "a model")


@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16", "int8"])
def test_what_is_asked_for_is_taken(manifest, asked):
    """A format that the settings name is not second-guessed."""
    assert chosen(manifest, asked) == asked


def test_gpu_takes_bfloat16(manifest):
    """Without a trial: it is what the model was trained in, or near it."""
    assert chosen(manifest, device="cuda") == "bfloat16"


def test_int8_is_refused_on_a_gpu(manifest):
    """The products of int8 here are a CPU's."""
    with pytest.raises(UserError, match="for a CPU"):
        chosen(manifest, "int8", "cuda:1")


def test_choice_is_logged_by_names(manifest, caplog):
    """Each fact has a name that a search can hold on to."""
    caplog.set_level("INFO", logger="daemon")
    report(manifest, GOOD, GOOD | {"number_format": "int8", "n_equal": 30})
    chosen(manifest)
    found = caplog.records[-1]
    assert (found.dtype, found.tried, found.passed) == ("bfloat16", 2, 1)


def test_without_a_report_a_cpu_takes_float32(manifest):
    """Nothing was tried, nothing is risked."""
    assert chosen(manifest) == "float32"


def test_format_that_said_the_same_faster_is_taken(manifest):
    """Of several the fastest, and the limit is 95 % of the sentences."""
    report(manifest, GOOD, GOOD | {"number_format": "int8", "speedup": 2.0})
    assert chosen(manifest) == "int8"
    report(manifest, GOOD, GOOD | {"number_format": "int8", "n_equal": 30, "speedup": 2.0})
    assert chosen(manifest) == "bfloat16"


@pytest.mark.parametrize(
    "change",
    [
        {"n_equal": 30},
        {"n_narrations": 8, "n_equal": 8},
        {"speedup": 1.05},
        {"number_format": "float8"},
        {"speedup": None},
    ],
    ids=["other words", "too few", "no faster", "unknown", "no number"],
)
def test_format_that_did_not_pass_is_left(manifest, change):
    """float32 says the right words, only slower."""
    report(manifest, GOOD | change)
    assert chosen(manifest) == "float32"


def test_trial_of_another_model_proves_nothing(manifest):
    """The report must be of the model that is loaded."""
    report(manifest, GOOD, model="another model")
    assert chosen(manifest) == "float32"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"formats": 3}', '{"formats": {"model": "a model"}}', "\x00"]
)
def test_report_that_cannot_be_read_is_no_report(manifest, text):
    """An older export, or half a file."""
    (manifest.folder / "parity.json").write_text(text)
    assert chosen(manifest) == "float32"
