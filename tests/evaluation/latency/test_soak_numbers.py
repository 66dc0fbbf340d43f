"""What a soak makes of its samples: trends and verdicts. No process runs here."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest

from contracts.population import Population
from evaluation.journals import Missing
from evaluation.latency.disturbances import (
    GOES_ON,
    KILLED,
    SLOW,
    SOURCE_GOES_ON,
    SOURCE_STOPPED,
    STOPPED,
    DisturbanceSchedule,
)
from evaluation.latency.inputs import divided
from evaluation.latency.process_usage import Footprint, footprint, worker_of
from evaluation.latency.recorder import SoakJournal
from evaluation.latency.sample import Event, Log, Recovery, Sample
from evaluation.latency.soak_checks import verdicts
from evaluation.latency.soak_picture import PANELS, write_soak_picture
from evaluation.latency.trend import trend
from tests.support.tiny_bundle import tiny_population

RATE = 5.0
N = 600


def test_a_trend_by_hand():
    """A line has its own slope, without an interval; noise around nothing has one around zero."""
    at_s = np.arange(240.0)
    line = trend(at_s, 7 + at_s / 3600)
    assert line is not None
    assert (line.slope, line.low, line.high) == pytest.approx((1.0, 1.0, 1.0))
    wave = trend(at_s, np.sin(at_s))
    assert wave is not None
    assert wave.low < 0 < wave.high
    assert trend(at_s[:23], at_s[:23]) is None


def test_slow_noise_does_not_make_a_trend():
    """Values that wander together for ten seconds are worth less than their number."""
    rng = np.random.default_rng(0)
    n_found = 0
    for _ in range(200):
        values = np.repeat(rng.normal(size=60), 10)
        found = trend(np.arange(600.0), values)
        assert found is not None
        n_found += not found.low <= 0 <= found.high
    assert n_found <= 20  # 5 % of 200 are 10


def _counters(windows: int, **changes):
    counters = {
        "windows": windows, "windows_gap_skipped": 0, "gap_bins": 0, "batches_lost": 0,
        "windows_dropped": {"narrator_busy": 0, "worker_died": 0}, "worker_restarts": 1,
        "spikes_received": 100, "spikes_binned": 100, "spikes_late": 0, "spikes_unknown": 0,
    }  # fmt: skip
    return counters | changes


def _sample(t_s: float) -> Sample:
    foot = Footprint(pid=10, rss_mb=200.0, n_descriptors=20, n_threads=5)
    return Sample(
        t_s=t_s,
        daemon=foot,
        worker=replace(foot, pid=11),
        source=replace(foot, pid=12),
        recorder=replace(foot, pid=13),
        queue={"waiting": 0, "unfinished": 1},
        counters=_counters(round(t_s * RATE)),
        n_narrations=40,
        n_failed=0,
        n_triggers=2,
        latency_ms={"p50": 50.0, "p95": 60.0, "p99": 70.0, "max": 80.0, "n": 40},
        trigger_ms={"p50": 5.0, "p95": 6.0, "p99": 7.0, "max": 8.0, "n": 2},
        drift_ms=0.5 * (-1) ** round(t_s),
        stats_age_s=0.5,
    )


def _log(*, changes=lambda sample: sample, events=(), recoveries=()) -> Log:
    log = Log(None)
    log.samples = [changes(_sample(float(t_s))) for t_s in range(N)]
    log.events = list(events)
    log.recoveries = list(recoveries)
    return log


RECORDED = SoakJournal(
    n_batches_sent=10, n_spikes_sent=100, n_published=5, n_batches=10, n_spikes=100, n_bytes=1000,
    n_parts=1, n_unclosed=0, holes={}, unrecorded_s=0.0, missing=Missing(), accounts={},
)  # fmt: skip


def _judged(log: Log, *, n_sent: int = 100, recorded: SoakJournal = RECORDED, **counters):
    source = {"n_spikes": n_sent, "spikes_of_sources": [n_sent]}
    daemon = {"counters": _counters(N * 5, **counters)}
    return {each.name: each for each in verdicts(log, source, daemon, recorded, rate=RATE)}


def test_units_are_divided_by_their_probes():
    """A source for each of two probes; one probe is not divided."""
    units = tiny_population().units
    ids = [unit.unit_id for unit in units]
    assert divided(Population(units)) == (
        f"probe:probeA,ids:{'|'.join(ids[:6])}",
        f"probe:probeB,ids:{'|'.join(ids[6:])}",
    )
    three = [
        replace(unit, probe="probeC") if row in {6, 7} else unit for row, unit in enumerate(units)
    ]
    assert [text.partition(",")[0] for text in divided(Population(three))] == [
        "probe:probeA", "probe:probeB|probeC",
    ]  # fmt: skip
    assert divided(Population(units[:6])) == ()


def test_a_quiet_soak_is_fine():
    """Nothing grows, nothing is lost, and every line says so."""
    found = _judged(_log())
    assert all(each.is_ok for each in found.values()), found
    assert found["spikes"].line() == (
        "ok: spikes: 100 sent, 100 received, 100 binned, 0 late, 0 of unknown units"
    )
    assert "daemon 20, worker 20, source 20, recorder 20" in found["descriptors"].text


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        ("memory of the daemon", lambda s: {"rss_mb": 200 + s.t_s / 50}),
        ("descriptors", lambda s: {"n_descriptors": 20 + round(s.t_s) // 60}),
        ("threads", lambda s: {"n_threads": 5 + round(s.t_s) // 60}),
    ],
)
def test_what_grows_is_named(broken, change):
    """Memory, descriptors and threads of the daemon each have a rule."""
    found = _judged(_log(changes=lambda s: replace(s, daemon=replace(s.daemon, **change(s)))))
    assert [name for name, each in found.items() if not each.is_ok] == [broken]
    assert found[broken].line().startswith("NOT OK")


def test_processes_that_end_are_not_judged():
    """In the last second they have let go of what they held."""
    closed = Footprint(pid=12, rss_mb=200.0, n_descriptors=3, n_threads=5)
    log = _log(changes=lambda s: replace(s, source=closed) if s.t_s >= N - 1 else s)
    assert _judged(log)["descriptors"].is_ok


def test_drift_is_named():
    """Data time that falls behind wall time by a stride has drifted."""
    found = _judged(_log(changes=lambda s: replace(s, drift_ms=-2 * s.t_s)))
    assert [name for name, each in found.items() if not each.is_ok] == ["drift"]
    assert "-7200.00 ms an hour" in found["drift"].text
    slow = _judged(_log(changes=lambda s: replace(s, drift_ms=-0.01 * s.t_s)))["drift"]
    assert slow.is_ok
    assert json.loads(json.dumps(asdict(slow)))["is_ok"]


def test_lost_spikes_and_windows_are_named():
    """A spike without a bin, and a bin with a gap, break a rule each."""
    found = _judged(_log(), n_sent=101, gap_bins=3)
    broken = [name for name, each in found.items() if not each.is_ok]
    assert broken == ["spikes", "windows", "journal, spikes"]


@pytest.mark.parametrize(
    ("is_ok", "changes"),
    [
        (True, {}),
        (False, {"holes": {"spikes": 1}}),
        (False, {"missing": Missing(2, 2, 20, n_batches_unexplained=1)}),
        (False, {"missing": Missing(2, 2, 20, n_changed=1)}),
        (False, {"accounts": {"overflowed": {"spikes": 1}}}),
    ],
)
def test_journal_without_a_recorder_for_a_while(is_ok, changes):
    """What was sent meanwhile is missing, and counted; nothing else may be."""
    cut = replace(
        RECORDED, n_batches=8, n_spikes=80, holes={"spikes": 2}, unrecorded_s=5.0,
        missing=Missing(2, 2, 20, lost_before_kill_s=0.3),
    )  # fmt: skip
    found = _judged(_log(), recorded=replace(cut, **changes))["journal, spikes"]
    assert found.is_ok == is_ok
    assert "80 in the journal" in found.text
    assert "20 in 2 batches are not, sent in the 5.0 s without a recorder or up to" in found.text


def test_stopped_source_catches_up():
    """Data time that stays behind wall time after the source resumed is named."""
    events = (Event(SOURCE_STOPPED, 500.0, 500), Event(SOURCE_GOES_ON, 501.0, 501))
    assert _judged(_log(events=events))["source stopped"].is_ok
    late = _log(events=events, changes=lambda s: replace(s, drift_ms=-900.0))
    assert not _judged(late)["source stopped"].is_ok


def test_a_short_soak_says_so():
    """Of a few seconds no slope is made."""
    log = _log()
    log.samples = log.samples[:10]
    found = _judged(log)
    untold = {name for name, each in found.items() if each.is_ok is None}
    assert untold >= {"drift", "memory of the daemon", "memory of the worker"}
    assert found["drift"].line().startswith("too short to tell")


EVENTS = (
    Event(SLOW, 90.0, 90),
    Event(STOPPED, 240.0, 240),
    Event(GOES_ON, 270.0, 270),
    Event(KILLED, 450.0, 450),
)
RECOVERIES = (Recovery(GOES_ON, after_s=0.2, age_ms=150.0), Recovery(KILLED, 6.0, 100.0))


def test_a_disturbed_soak_is_fine():
    """Windows and triggers go on, memory stays, and the first window after it is a new one."""
    found = _judged(_log(events=EVENTS, recoveries=RECOVERIES))
    assert all(each.is_ok for each in found.values()), found
    text = found["narrator stopped"].text
    assert "for 30.0 s; 5.00 windows/s were cut of 5, 0 batches of spikes lost" in text
    assert "2.00 triggers/s, p99 of the worst second 7.0 ms" in text
    assert "came 0.20 s later, of a window that was 150 ms old" in found["narrator goes on"].text
    assert "1 restart, the first sentence 6.0 s later" in found["narrator killed"].text


@pytest.mark.parametrize(
    ("broken", "changes"),
    [
        (
            "narrator stopped",
            lambda s: replace(s, counters=_counters(round(min(s.t_s, 245) * RATE))),
        ),
        (
            "memory while it is stopped",
            lambda s: replace(s, daemon=replace(s.daemon, rss_mb=200 + 15 * (240 < s.t_s < 270))),
        ),
    ],
)
def test_a_loop_that_waits_is_named(broken, changes):
    """Windows that cease, and memory that piles up, while the narrator stands still."""
    found = _judged(_log(changes=changes, events=EVENTS, recoveries=RECOVERIES))
    assert found[broken].is_ok is False


def test_an_old_window_after_the_stop_is_named():
    """Narration must resume with the newest window, and must resume."""
    old = (Recovery(GOES_ON, after_s=0.2, age_ms=20_000.0), RECOVERIES[1])
    assert _judged(_log(events=EVENTS, recoveries=old))["narrator goes on"].is_ok is False
    never = _judged(_log(events=EVENTS))
    assert never["narrator goes on"].is_ok is False
    assert never["narrator killed"].is_ok is False


def test_descriptors_may_change_with_an_event():
    """A subscriber that joins takes one, and it is the same from then on."""
    joined = _log(
        changes=lambda s: replace(s, daemon=replace(s.daemon, n_descriptors=20 + (s.t_s > 90))),
        events=EVENTS,
        recoveries=RECOVERIES,
    )
    found = _judged(joined)
    assert found["descriptors"].is_ok
    assert "daemon 20 then 21" in found["descriptors"].text


def test_every_line_is_on_the_disk_at_once():
    """Nothing is lost by Ctrl-C: a sample is written when it is taken."""
    file = io.StringIO()
    log = Log(file)
    log.sample(_sample(1.0))
    log.event(EVENTS[0])
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["kind"] for line in lines] == ["sample", "event"]
    assert lines[0]["daemon"]["rss_mb"] == 200.0


def test_the_programme_fits_into_the_soak():
    """Thirty seconds are stopped in ten minutes, and a fifth of a short one."""
    whole = DisturbanceSchedule.of(600)
    assert whole.goes_on_s - whole.stopped_s == 30
    short = DisturbanceSchedule.of(10)
    assert short.goes_on_s - short.stopped_s == pytest.approx(2)
    assert 0 < whole.slow_s < whole.stopped_s < whole.goes_on_s < whole.killed_s < 600


def test_a_process_is_looked_at():
    """This process has memory, descriptors and threads, and no narrator; a dead one has nothing."""
    found = footprint(os.getpid())
    assert found is not None
    assert found.rss_mb > 1
    assert found.n_descriptors > 2
    assert found.n_threads >= 1
    assert worker_of(os.getpid()) is None
    assert footprint(None) is None
    assert footprint(2**22 + 1) is None


def test_the_picture_has_every_panel(tmp_path):
    """One axis of time, a panel for each number, and the events by name."""
    path = tmp_path / "soak.svg"
    write_soak_picture(path, _log(events=EVENTS, recoveries=RECOVERIES), title="a soak")
    drawn = path.read_text()
    assert drawn.startswith("<?xml")
    for text in (*(label.partition("\n")[0] for label in PANELS), *(e.name for e in EVENTS)):
        assert f"<!-- {text} -->" in drawn
