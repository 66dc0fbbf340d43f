"""``neurrate sessions summarize``: from the results of sessions to means over them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from neurrate.cli import main
from tests.support.captioned_bundle import write_captioned_bundle, write_captioned_inputs


@pytest.fixture(scope="module")
def results(tiny_llava, tmp_path_factory) -> list[Path]:
    """Return the results of two sessions; of the second fewer windows were narrated."""
    folder = tmp_path_factory.mktemp("sessions")
    write_captioned_inputs(folder, tiny_llava)
    found = []
    for day, windows in ((1, 40), (2, 24)):
        data, bundle, out = (folder / f"{name}_{day}" for name in ("data", "bundle", "results"))
        one = load_prepared(folder / "data")
        of_day = one.training_data.model_copy(update={"session_id": f"day {day}"})
        write_prepared(data, replace(one, training_data=of_day))
        write_captioned_bundle(bundle, load_prepared(data))
        for question in ("fidelity", "scaling"):
            words = ["evaluate", question, bundle, data, "--out", out, "--windows", windows]
            words += ["--workers", 1, "--device", "cpu", "--sentence-model", folder / "bert"]
            assert main([str(word) for word in words]) == 0
        found.append(out)
    return found


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _summarize(*folders: Path, out: Path) -> int:
    return main(["sessions", "summarize", *map(str, folders), "--out", str(out)])


def test_means_are_of_the_tables_of_each_session(results, tmp_path):
    """The mean of every narrator's lead is that of two tables; curves and values have figures."""
    assert _summarize(*results, out=tmp_path / "together") == 0
    leads = [
        {
            row["narrator"]: float(row["over_shifts"])
            for row in _table(folder / "fidelity-scores.csv")
        }
        for folder in results
    ]
    rows = {
        row["of"]: row
        for row in _table(tmp_path / "together" / "sessions-means.csv")
        if row["measure"] == "fidelity: over_shifts"
    }
    assert rows.keys() == leads[0].keys()
    for name, row in rows.items():
        assert float(row["mean"]) == pytest.approx((leads[0][name] + leads[1][name]) / 2)
        assert row["sessions"] == "2"
    page = (tmp_path / "together" / "report.html").read_text(encoding="utf-8")
    assert "Sessions: day 1, day 2." in page
    for name in ("fidelity-over_shifts", "scaling-slope_over_shifts", "growth"):
        assert (tmp_path / "together" / f"sessions-{name}.svg").is_file()


def test_a_session_counts_once(results, tmp_path, capsys):
    """The same session under another name would halve the interval."""
    again = copytree(results[0], tmp_path / "again")
    assert _summarize(results[0], again, out=tmp_path / "together") != 0
    assert "are both of day 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("split", "front"), ("language_model", "another"), ("movies", ["natural_movie_three"])],
)
def test_sessions_that_were_evaluated_in_other_ways_are_refused(
    results, tmp_path, capsys, name, value
):
    """A mean over different questions is of nothing."""
    other = copytree(results[1], tmp_path / "other")
    path = other / "fidelity-origin.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), name: value}))
    assert _summarize(results[0], other, out=tmp_path / "together") != 0
    assert f"{name.replace('_', ' ')} is" in capsys.readouterr().err


def test_tables_of_an_earlier_answer_are_not_read(results, tmp_path):
    """A table that the answer does not have may be of another bundle."""
    other, path = copytree(results[1], tmp_path / "other"), "scaling-origin.json"
    origin = json.loads((other / path).read_bytes())
    assert origin["tables"] == ["points", "fits"]
    (other / path).write_text(json.dumps({**origin, "tables": ["points"]}))
    assert _summarize(results[0], other, out=tmp_path / "together") == 0
    measures = {row["measure"] for row in _table(tmp_path / "together" / "sessions-means.csv")}
    assert measures == {"fidelity: over_shifts", "scaling: lead"}


def test_folders_that_hold_no_answer_are_refused(results, tmp_path, capsys):
    """One folder, an empty one, a table that was cut, a folder that would be overwritten."""
    (tmp_path / "empty").mkdir()
    cut = copytree(results[1], tmp_path / "cut")
    (cut / "fidelity-scores.csv").write_text("narrator,lead\nall,much\n")
    for folders, what in (
        ([results[0], results[0]], "is named twice"),
        ([results[0], tmp_path / "nowhere"], "nowhere does not exist"),
        ([results[0]], "needs the results of two or more, got 1"),
        ([results[0], tmp_path / "empty"], "empty has none. Write it"),
        ([results[0], cut], "must be a table of 'neurrate evaluate'"),
    ):
        assert _summarize(*folders, out=tmp_path / "together") != 0
        assert what in capsys.readouterr().err
    assert _summarize(*results, out=results[0]) == 2
    assert "whose page would be overwritten" in capsys.readouterr().err
