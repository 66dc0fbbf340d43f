"""What is kept of an experiment's narrations, and when it is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import UserError
from contracts.manifest import Manifest
from contracts.narration import Narration, Status
from contracts.narration_wire import load, narration_of, pack_narration
from evaluation.clips.experiment import load_experiment
from evaluation.clips.kept import KeptNarrations, content_key
from evaluation.clips.simulated import _first_to_narrate
from tests.support.narrations import narration
from tests.support.nwb_files import write_units

EXPERIMENT = 'name = "one"\nseed = 41\nfeatures = [{ name = "light", pairs = 6 }]\n'
POPULATIONS = {"all": "all", "silent": "silent"}


def _received(**what: Any) -> Narration:
    """Return a narration as a subscriber reads it."""
    return narration_of(load(pack_narration(narration(**what))[1]))


def test_narrations_come_back_as_they_were(tmp_path: Path):
    """By window and population, with the texts of frames and the end; a later one replaces."""
    kept = KeptNarrations(tmp_path / "n.sqlite", "key")
    assert (kept.narrations(), kept.frame_texts(), kept.is_whole) == ({}, [], False)
    said = [_received(seq=seq, population=name) for seq in (9, 10) for name in POPULATIONS]
    kept.keep(said)
    kept.keep([])
    kept.keep_frame_texts(0, ["A dog.", ""])
    kept.keep_frame_texts(2, ["A car."])
    assert kept.narrations() == {(one.window_seq, one.population): one for one in said}
    assert (kept.frame_texts(), kept.is_whole) == (["A dog.", "", "A car."], False)
    again = _received(seq=9, text="A bird.")
    kept.keep([again])
    kept.end()
    assert kept.narrations()[9, "all"] == again
    assert (len(kept.narrations()), kept.is_whole) == (4, True)


def test_nothing_is_used_of_another_key(tmp_path: Path):
    """It stays in the file for whoever has that key; only then is there something of others."""
    one, other = (KeptNarrations(tmp_path / "n.sqlite", key) for key in ("one", "other"))
    assert not other.has_others_alone
    one.keep([narration()])
    one.keep_frame_texts(0, ["A dog."])
    one.end()
    assert (other.narrations(), other.frame_texts(), other.is_whole) == ({}, [], False)
    assert (one.has_others_alone, other.has_others_alone) == (False, True)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path):
    """As one that was cut short; a full disk is refused in the same place."""
    path = tmp_path / "n.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"n\.sqlite, which cannot be used: file is not a database"):
        KeptNarrations(path, "key").keep([narration()])


@pytest.mark.parametrize(
    "changed", ["experiment", "spikes", "bundle", "model", "settings", "populations"]
)
def test_a_key_is_of_all_that_narrations_follow_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Manifest, changed: str
):
    """A comment in the file, another place of it and another command change nothing."""

    def key(text: str, at: float, manifest: Manifest, populations: dict[str, str]) -> str:
        path = tmp_path / f"{len(text)}.toml"
        path.write_text(text, encoding="utf-8")
        recording = write_units(tmp_path / "clips.nwb", [np.array([1.0, at]), np.array([1.5])])
        model = tmp_path / "model"
        return content_key(load_experiment(path), recording, manifest, str(model), populations)

    def with_(**values: object) -> Manifest:
        model = tiny_bundle.model.model_copy(update=values)
        return Manifest(model, tiny_bundle.folder, tiny_bundle.sha256)

    (tmp_path / "model").mkdir()
    before = key(EXPERIMENT, 2.0, tiny_bundle, POPULATIONS)
    assert key(f"# mine\n{EXPERIMENT}", 2.0, with_(command="another"), POPULATIONS) == before
    text = EXPERIMENT.replace("41", "43") if changed == "experiment" else EXPERIMENT
    at = 2.0 + 1e-6 * (changed == "spikes")
    manifest = with_(trained=not tiny_bundle.model.trained) if changed == "bundle" else tiny_bundle
    if changed == "model":
        (tmp_path / "model" / "weights").write_bytes(b"1")
    if changed == "settings":
        monkeypatch.setenv("NEURRATE_NARRATOR__PROMPT", "<image> What?")
    populations = {"all": "all", "silent": "area:CA1"} if changed == "populations" else POPULATIONS
    assert key(text, at, manifest, populations) != before


def _at(
    windows: list[tuple[int, str]], failed: tuple[int, str] | None = None
) -> dict[tuple[int, str], Narration]:
    """Return narrations of windows and populations, of which one may have failed."""
    known = {key: narration(seq=key[0], population=key[1]) for key in windows}
    if failed is not None:
        utterance = replace(known[failed].utterance, status=Status.FAILED, text="")
        known[failed] = replace(known[failed], utterance=utterance)
    return known


def test_a_session_goes_on_with_the_window_that_may_not_be_whole():
    """Where populations take turns, with the last one at which the first of them had theirs."""
    both = [(seq, name) for seq in (5, 6, 7) for name in POPULATIONS]
    assert _first_to_narrate(_at(both), 2) == _first_to_narrate(_at(both[:-1]), 2) == 7
    assert _first_to_narrate(_at(both[:2]), 2) is _first_to_narrate({}, 2) is None
    turns = [(seq, f"{seq % 3}{at}") for seq in range(4, 12) for at in range(2)]
    assert _first_to_narrate(_at(turns), 6) == 10
    assert _first_to_narrate(_at(turns[:-2]), 6) == 10
    assert _first_to_narrate(_at(turns[:-4]), 6) == 7
    assert _first_to_narrate(_at(turns[:-10]), 6) is None


def test_what_failed_is_narrated_again():
    """From the first window that did; from the beginning if that is the first of all."""
    both = [(seq, name) for seq in (5, 6, 7, 8) for name in POPULATIONS]
    assert _first_to_narrate(_at(both, failed=(6, "silent")), 2) == 6
    assert _first_to_narrate(_at(both, failed=(5, "all")), 2) is None
