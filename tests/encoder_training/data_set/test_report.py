"""The report of a data set: what it measures, against planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from contracts.population import Population
from encoder_training.data_set.report import REPORT_FILES, write_prepare_report
from encoder_training.data_set.report_measures import (
    measure_alignment,
    measure_response,
    unit_rates,
)
from encoder_training.data_set.stimulus import StimulusTable, read_presented
from tests.support.prepared import prepared_set, presentations

FRAME_NS = 33_361_193


def presented_of(prepared) -> StimulusTable:
    """Return the presentations of the small set."""
    shown = prepared.shown
    n_frames = len(prepared.frames.number)
    table = presentations(
        names=prepared.frames.movies,
        start_ns=shown.start_ns,
        stop_ns=shown.stop_ns,
        stimulus=np.zeros(len(shown.frame), dtype=np.int64),
        number=shown.frame.astype(float),
        block=np.full(len(shown.frame), np.nan),
    )
    return read_presented(table, {prepared.frames.movies[0]: n_frames})


def test_dropped_frames_are_counted():
    """A long frame, a hole and a missing number are told apart; tiled labels lag by each."""
    length = np.full(300, FRAME_NS)
    length[50] *= 2
    start = np.concatenate([[0], np.cumsum(length)[:-1]])
    start[120:] += FRAME_NS  # a hole
    kept = np.arange(300) != 200  # a number without a row
    table = presentations(
        names=("a",),
        start_ns=start[kept],
        stop_ns=(start + length)[kept],
        stimulus=np.zeros(299, dtype=np.int64),
        number=np.arange(300)[kept].astype(float),
        block=np.full(299, np.nan),
    )
    found = measure_alignment(read_presented(table, {"a": 300}), 0)
    assert (found.n_long, found.n_holes, found.n_skipped) == (1, 2, 1)
    assert found.usual_s == pytest.approx(0.033361193)
    assert found.nominal_hz == 30
    tiled = [int(at * 30) for at in found.at_s.tolist()]
    assert found.tiled_off.tolist() == [
        t - n for t, n in zip(tiled, np.arange(300)[kept].tolist(), strict=True)
    ]
    assert found.tiled_off[-1] == 2


def test_a_new_run_starts_the_tiling_again():
    """After a pause labels are laid out from the new start, and the gap is no hole."""
    prepared = prepared_set()
    found = measure_alignment(presented_of(prepared), 0)
    assert (found.n_long, found.n_holes, found.n_skipped) == (0, 0, 0)
    second = np.argmax(np.diff(found.at_s)) + 1
    assert found.tiled_off[second] == 0
    assert 0 <= found.tiled_off.min() <= found.tiled_off.max() <= 1


def test_the_response_rises_after_the_latency_and_only_where_units_see():
    """The new picture explains the rates from about 50 ms after a change, and nothing in CA1."""
    prepared = prepared_set(n_frames=1_200, n_repeats=3, frames_per_scene=12, rate_hz=20.0)
    response = measure_response(prepared, presented_of(prepared))
    assert response is not None
    areas = np.array([unit.area for unit in prepared.population.units])
    sees, blind = (response.explained[:, chosen] for chosen in (areas != "CA1", areas == "CA1"))
    late = (response.after_ms > 90) & (response.after_ms < 350)
    early = response.after_ms < 20
    assert sees[late].mean() > sees[early].mean() + 0.1
    assert abs(blind[late].mean()) < 0.05
    rises = response.after_ms[np.argmax(sees.mean(axis=1) > 0.5 * sees[late].mean())]
    assert 40 < rises < 90


def test_rates_are_spikes_per_second():
    """The mean of the counts times the bins of a second."""
    prepared = prepared_set(n_frames=20, n_repeats=4)
    assert unit_rates(prepared) == pytest.approx(prepared.counts.mean(axis=0) * 120)


def test_a_report_of_areas_of_any_name_is_written(tmp_path):
    """A dollar is no formula and a bar no column; brackets are no markup."""
    prepared = prepared_set(n_frames=20, n_repeats=4)
    names = ["$x_$", "a|b", "<b>[x](y)", "$"]
    units = [
        replace(unit, area=names[row % len(names)])
        for row, unit in enumerate(prepared.population.units)
    ]
    prepared = replace(prepared, population=Population(units))
    path = write_prepare_report(tmp_path, prepared, presented_of(prepared), notes=[])
    text = path.read_text(encoding="utf-8")
    assert r"| a\|b |" in text
    assert r"| \<b\>\[x\](y) |" in text


def test_a_report_is_written_with_its_pictures(tmp_path):
    """Every picture that the text links is there, and the text has the notes."""
    prepared = prepared_set(n_frames=60, n_repeats=5, rate_hz=20.0)
    path = write_prepare_report(
        tmp_path, prepared, presented_of(prepared), notes=["all of it is planted"]
    )
    text = path.read_text(encoding="utf-8")
    assert "- all of it is planted." in text
    for name in REPORT_FILES[1:]:
        assert f"({name})" in text
        assert (tmp_path / name).stat().st_size > 1_000
    again = {name: (tmp_path / name).read_bytes() for name in REPORT_FILES}
    write_prepare_report(tmp_path, prepared, presented_of(prepared), notes=["all of it is planted"])
    assert again == {name: (tmp_path / name).read_bytes() for name in REPORT_FILES}
