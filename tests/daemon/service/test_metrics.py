"""What Prometheus sees, and the percentiles in ``stats``."""

import json
import os
import platform
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from contracts.narration import STAGES
from contracts.software import software
from daemon.counters import Counters
from daemon.service.latencies import LATENCY_STAGES, RESERVOIR, LatencyRecorder
from daemon.service.metrics import (
    BUILD_LABELS,
    COUNTERS,
    GAUGES,
    Gauges,
    make_registry,
    show_worker,
)
from daemon.service.stats import StreamStats, stats_message
from daemon.triggers.latencies import TriggerLatencies
from stream_sources.online_sorter.sorter_metrics import PREFIX as SORTER
from stream_sources.online_sorter.sorter_metrics import SORTER_COUNTERS, SORTER_GAUGES

CONFIGS = Path(__file__).parents[3] / "configs"
DASHBOARD = CONFIGS / "grafana" / "neurrate.json"
ALERTS = CONFIGS / "prometheus-alerts.yml"


def _samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_appear_under_their_names():
    """Plain integers become families with units, labels and help."""
    counters, gauges = Counters(), Gauges()
    registry = make_registry(counters, gauges, lambda: True)
    counters.spikes_late = 3
    counters.windows_dropped["narrator_busy"] += 2
    counters.wire_errors["odd"] = 1
    gauges.ring_fill_bins = 40
    gauges.stream_lag_seconds["probeA"] = 0.5
    samples = _samples(registry)
    assert samples["neurrate_spikes_late_total", ""] == 3
    assert samples["neurrate_windows_dropped_total", "narrator_busy"] == 2
    assert samples["neurrate_windows_dropped_total", "shutdown"] == 0
    assert samples["neurrate_wire_errors_total", "odd"] == 1
    assert samples["neurrate_ring_fill_bins", ""] == 40
    assert samples["neurrate_stream_lag_seconds", "probeA"] == 0.5
    assert samples["neurrate_ready", ""] == 1


def test_every_counter_and_gauge_is_exported():
    """A new field without a help text fails here, and so does a text without its field."""
    assert [family.field for family in COUNTERS] == [counter.name for counter in fields(Counters)]
    assert [family.field for family in GAUGES] == [gauge.name for gauge in fields(Gauges)]


def test_the_build_is_named():
    """Version, commit and Python stand in labels, so that a change can be seen beside the rest."""
    text = generate_latest(make_registry(Counters(), Gauges(), lambda: True)).decode()
    made = {**software(), "python": platform.python_version()}
    labels = ",".join(f'{label}="{made[label]}"' for label in sorted(BUILD_LABELS))
    assert f"neurrate_build_info{{{labels}}} 1.0" in text


def test_both_processes_are_seen():
    """Memory of this process is there, and of the narrator's while it has one."""
    registry = make_registry(Counters(), Gauges(), lambda: True)
    pid: list[int | None] = [None]
    show_worker(registry, lambda: pid[0])
    assert _samples(registry)["process_resident_memory_bytes", ""] > 1e6
    assert ("neurrate_worker_process_open_fds", "") not in _samples(registry)
    pid[0] = os.getpid()
    assert _samples(registry)["neurrate_worker_process_open_fds", ""] > 2


def test_a_confidence_that_is_not_known_is_not_shown():
    """A population has the confidence of its newest narration, and no older one."""
    gauges = Gauges()
    registry = make_registry(Counters(), gauges, lambda: True)
    gauges.note_confidence("VISp", 0.8)
    gauges.note_confidence("VISp", 0.7)
    assert _samples(registry)["neurrate_confidence", "VISp"] == 0.7
    gauges.note_confidence("VISp", None)
    assert ("neurrate_confidence", "VISp") not in _samples(registry)


def test_registries_share_nothing():
    """Two daemons in one process count apart."""
    first, second = Counters(), Counters()
    first.windows_dropped["shutdown"] += 1
    assert second.windows_dropped["shutdown"] == 0
    assert _samples(make_registry(second, Gauges(), lambda: False))["neurrate_ready", ""] == 0


def test_as_dict_is_a_copy():
    """What was taken for a message does not change with the counters."""
    counters = Counters()
    taken = counters.as_dict()
    counters.narrations["ok"] += 1
    counters.windows += 1
    assert taken["narrations"] == {"ok": 0, "truncated": 0, "failed": 0}
    assert taken["windows"] == 0


def test_percentiles_are_exact():
    """The summary agrees with numpy on everything that was recorded."""
    recorder = LatencyRecorder(CollectorRegistry())
    assert recorder.summary() == {}
    totals_ms = np.random.default_rng(0).exponential(100, 500)
    for total_ms in totals_ms:
        recorder.record({**dict.fromkeys(STAGES, 1.0), "total": total_ms})
    summary = recorder.summary()
    assert set(summary) == set(LATENCY_STAGES)
    assert summary["total"]["p95"] == pytest.approx(np.percentile(totals_ms, 95))
    assert summary["total"]["max"] == totals_ms.max()
    assert summary["cut"] == {"p50": 1, "p95": 1, "p99": 1, "max": 1, "n": 500}


def test_the_reservoir_forgets_the_oldest(monkeypatch):
    """Only the newest narrations count in the percentiles, all of them in the histogram."""
    monkeypatch.setattr("daemon.service.latencies.RESERVOIR", 10)
    registry = CollectorRegistry()
    recorder = LatencyRecorder(registry)
    for total_ms in [1e6] * 5 + [2.0] * 10:
        recorder.record({**dict.fromkeys(STAGES, 0.0), "total": total_ms})
    assert recorder.summary()["total"]["max"] == 2.0
    assert recorder.summary()["total"]["n"] == 10 < RESERVOIR
    assert _samples(registry)["neurrate_stage_duration_seconds_count", "total"] == 15


def test_the_histogram_is_in_seconds():
    """A narration of 2 ms falls into the bucket up to 0.0025 s and not into 0.001 s."""
    registry = CollectorRegistry()
    LatencyRecorder(registry).record(dict.fromkeys(LATENCY_STAGES, 2.0))
    text = generate_latest(registry).decode()
    assert 'bucket{le="0.001",stage="encode"} 0.0' in text
    assert 'bucket{le="0.0025",stage="encode"} 1.0' in text


def test_stats_message_is_json_with_everything():
    """The message holds counters, latencies, readiness and the streams."""
    topic, payload = stats_message(
        host_ns=5,
        uptime_s=1.5,
        session_s=None,
        counters=Counters(),
        latency_ms={"total": {"p50": 1.0}},
        reasons=["narrator: loading"],
        streams={"probeA": StreamStats(3.0, "live")},
        queue={"waiting": 1, "unfinished": 2},
    )
    message = json.loads(payload)
    assert topic == b"stats"
    assert message["ready"] is False
    assert message["streams"] == {"probeA": {"covered_until_s": 3.0, "state": "live"}}
    assert message["counters"]["windows_dropped"]["worker_died"] == 0
    assert message["queue"] == {"waiting": 1, "unfinished": 2}


def _exported() -> set[str]:
    """Return the name of every metric of a daemon with triggers, and of a sorter."""
    registry = make_registry(Counters(), Gauges(), lambda: True)
    show_worker(registry, os.getpid)
    LatencyRecorder(registry)
    TriggerLatencies(registry)
    text = generate_latest(registry).decode()
    known = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    known |= {f"{name}_bucket" for name in known}
    known |= {f"{SORTER}_{metric.name}_total" for metric in SORTER_COUNTERS}
    return known | {f"{SORTER}_{metric.name}" for metric in SORTER_GAUGES}


def _asked(text: str) -> set[str]:
    return set(re.findall(r"\b(?:neurrate|process)_\w+", text)) - {SORTER}


def test_the_dashboard_asks_for_metrics_that_exist():
    """Every metric in the Grafana dashboard is one that the daemon or the sorter has."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = _asked(" ".join(one["expr"] for panel in panels for one in panel["targets"]))
    assert len(asked) > 30
    assert asked <= _exported()


def test_the_panels_of_the_dashboard_do_not_overlap():
    """Each has an id of its own, and a place where no other is."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23


def test_the_alerts_ask_for_metrics_that_exist():
    """So do the texts of the alerts, which say where to look."""
    asked = _asked(ALERTS.read_text())
    assert len(asked) > 20
    assert asked <= _exported()
