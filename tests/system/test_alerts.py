"""The alerts of ``configs/prometheus-alerts.yml``, evaluated by Prometheus' own ``promtool``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

ALERTS = Path(__file__).parents[2] / "configs" / "prometheus-alerts.yml"
RULES = [
    rule
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: scripts/install-servers"
)

RISING, FLAT, ONCE = "0+10x60", "0+0x60", "0+0x40 1+0x30"
"""Samples of five minutes and more, one every five seconds; the last rises after 205 s."""

DELAY = 'neurrate_source_delay_seconds{stream="%s"}'
ERROR = 'neurrate_source_clock_error_seconds{stream="%s"}'
OFFSET = 'neurrate_source_clock_offset_seconds{stream="%s"}'
STAGE = 'neurrate_stage_duration_seconds_bucket{stage="total",le="%s"}'
TRIGGER = 'neurrate_trigger_stage_duration_seconds_bucket{stage="total",kind="%s",le="%s"}'

HEALTHY = {
    'up{job="neurrate"}': "1+0x60",
    "neurrate_ready": "1+0x60",
    'neurrate_narrations_total{status="ok"}': RISING,
    'neurrate_narrations_total{status="truncated"}': FLAT,
    'neurrate_narrations_total{status="failed"}': FLAT,
    "neurrate_windows_total": RISING,
    "neurrate_worker_restarts_total": ONCE,  # one death in a quarter of an hour is replaced
    "neurrate_batches_lost_total": "7+0x60",  # lost long ago
    "neurrate_overrun_bins_total": FLAT,
    'neurrate_stream_lag_seconds{stream="probeA"}': "0.1+0x30 2.5 0.1+0x30",
    'neurrate_stream_lag_seconds{stream="probeB"}': "0.1+0x60",
    "neurrate_spikes_late_total": FLAT,
    "neurrate_streams_aside_total": FLAT,
    DELAY % "probeA": "0.004+0x60",
    DELAY % "probeB": "0.27+0x60",  # of which 0.04 may be the error of the clock
    ERROR % "probeB": "0.06+0x4 0.04+0x60",
    OFFSET % "probeB": "-1000.1+0.0001x60",  # drifts, as clocks do
    'neurrate_wire_errors_total{reason="version"}': FLAT,
    "neurrate_units_missing": FLAT,
    "neurrate_ingest_lag_seconds": "0.1+0x60",
    STAGE % "0.25": "0+9x60",
    STAGE % "2.5": RISING,
    STAGE % "5": RISING,
    STAGE % "+Inf": RISING,
    TRIGGER % ("probe", "0.05"): RISING,
    TRIGGER % ("probe", "0.1"): RISING,
    TRIGGER % ("probe", "+Inf"): RISING,
    TRIGGER % ("word", "0.05"): FLAT,  # words wait for the language model
    TRIGGER % ("word", "1"): RISING,
    TRIGGER % ("word", "+Inf"): RISING,
    'neurrate_trigger_sink_failed_total{sink="pulse"}': FLAT,
    'neurrate_trigger_sink_dropped_total{sink="pulse"}': FLAT,
    'neurrate_confidence{population="VISp"}': "0.8+0x60",
    'neurrate_confidence{population="CA1"}': "0.11+0x60",
    'neurrate_confidence{population="shuffled"}': "0.45+0x60",
    'up{job="neurrate_sorter"}': "1+0x60",
    "neurrate_sorter_blocks_total": RISING,
    "neurrate_sorter_behind_seconds": "0.2+0x60",
}
"""A daemon and a sorter that nobody need be called for: no alert fires."""

FAULTS: dict[str, dict[str, str]] = {
    "NeurrateDown": {'up{job="neurrate"}': FLAT},
    "NeurrateNotReady": {"neurrate_ready": FLAT},
    "NeurrateNarratorStale": {
        'neurrate_narrations_total{status="ok"}': "50+0x60",
        'neurrate_narrations_total{status="failed"}': RISING,
    },
    "NeurrateNarratorRestarts": {"neurrate_worker_restarts_total": "0+0x10 1+0x10 2+0x10 3+0x30"},
    "NeurrateSpikesLost": {"neurrate_batches_lost_total": ONCE},
    "NeurrateBinsOverrun": {"neurrate_overrun_bins_total": ONCE},
    "NeurrateSourceSilent": {'neurrate_stream_lag_seconds{stream="probeB"}': "0.1+0x38 1+5x30"},
    "NeurrateSourceLate": {"neurrate_spikes_late_total": ONCE},
    "NeurrateSourceAside": {"neurrate_streams_aside_total": ONCE},
    "NeurrateSourceDelayed": {DELAY % "probeA": "0.004+0x20 0.4+0x40"},
    "NeurrateSourceClockUnsure": {ERROR % "probeB": "0.001+0x20 0.001+0.005x40"},
    "NeurrateSourceClockJumped": {OFFSET % "probeB": "-1000.1+0x40 2000.3+0x30"},
    "NeurrateWireErrors": {'neurrate_wire_errors_total{reason="version"}': ONCE},
    "NeurrateUnitsMissing": {"neurrate_units_missing": "12+0x60"},
    "NeurrateSpikesWait": {"neurrate_ingest_lag_seconds": "0.8+0x60"},
    "NeurrateLatencyOverBudget": {STAGE % "0.25": FLAT, STAGE % "2.5": "0+9x60"},
    "NeurrateTriggerLatencyOverBudget": {TRIGGER % ("probe", "0.05"): "0+9x60"},
    "NeurrateTriggersNotDelivered": {'neurrate_trigger_sink_failed_total{sink="pulse"}': ONCE},
    "NeurrateConfidenceGone": {'neurrate_confidence{population="VISp"}': "0.12+0x60"},
    "NeurrateSorterDown": {'up{job="neurrate_sorter"}': FLAT},
    "NeurrateSorterWithoutVoltages": {"neurrate_sorter_blocks_total": "900+0x60"},
    "NeurrateSorterBehind": {"neurrate_sorter_behind_seconds": "0+0.1x60"},
}
"""What changes under each fault; the alert of that name fires, and no other."""


def promtool(*words: object) -> None:
    """Run it; fail with what it prints."""
    done = subprocess.run(
        ["promtool", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def try_rules(folder: Path, series: Mapping[str, str], **tests: object) -> None:
    """Let promtool try the rules on series of one rig."""
    rig = 'instance="rig"'
    inputs = [
        {"series": name.replace("{", "{" + rig + ",") if "{" in name else f"{name}{{{rig}}}",
         "values": values}
        for name, values in series.items()
    ]  # fmt: skip
    unit = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "5s",
        "tests": [{"interval": "5s", "input_series": inputs, **tests}],
    }
    (folder / "unit.yml").write_text(json.dumps(unit), encoding="utf-8")
    promtool("test", "rules", folder / "unit.yml")


def firing(at: str, *alerts: str) -> dict[str, object]:
    """Return what promtool is to check: these alerts fire at that time, and no others."""
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": at,
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
    }


@needs_promtool
def test_prometheus_takes_the_configuration() -> None:
    """Both files, as Prometheus reads them when it starts."""
    promtool("check", "config", ALERTS.with_name("prometheus.yml"))
    promtool("check", "rules", ALERTS)


def test_every_alert_says_what_to_look_at() -> None:
    """Each waits, is of a severity, and has a summary and a description in words."""
    assert {rule["alert"] for rule in RULES} == set(FAULTS)
    for rule in RULES:
        assert re.fullmatch(r"\d+[sm]", rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert 20 < len(rule["annotations"]["summary"]) < 80
        assert re.search(r"\b([Ll]ook|See|Open|log)\b", rule["annotations"]["description"])


@needs_promtool
def test_no_alert_fires_on_a_healthy_rig(tmp_path: Path) -> None:
    """Not at the start, nor after a short silence or one restart of the narrator."""
    times = ("10s", "1m", "2m30s", "2m40s", "3m30s", "4m")
    try_rules(tmp_path, HEALTHY, promql_expr_test=[firing(at) for at in times])


@needs_promtool
@pytest.mark.parametrize("alert", FAULTS)
def test_the_alert_of_a_fault_fires_alone(alert: str, tmp_path: Path) -> None:
    """Whoever is called is told what is wrong, and not ten other things."""
    series = {**HEALTHY, **FAULTS[alert]}
    try_rules(tmp_path, series, promql_expr_test=[firing("4m", alert)])


@needs_promtool
def test_an_alert_of_a_loss_ends_with_it(tmp_path: Path) -> None:
    """A minute after the last lost batch nobody is called any more."""
    series = {**HEALTHY, **FAULTS["NeurrateSpikesLost"]}
    times = [firing("3m20s"), firing("3m35s", "NeurrateSpikesLost"), firing("4m40s")]
    try_rules(tmp_path, series, promql_expr_test=times)


@needs_promtool
def test_the_texts_name_the_stream(tmp_path: Path) -> None:
    """Labels and values are filled in."""
    rule = next(rule for rule in RULES if rule["alert"] == "NeurrateSourceSilent")
    filled = {
        name: text.replace("{{ $labels.stream }}", "probeB")
        .replace("{{ $labels.instance }}", "rig")
        .replace("{{ $value | humanizeDuration }}", "36s")
        for name, text in rule["annotations"].items()
    }
    labels = {"severity": "critical", "instance": "rig", "stream": "probeB"}
    try_rules(
        tmp_path,
        {**HEALTHY, **FAULTS["NeurrateSourceSilent"]},
        alert_rule_test=[
            {
                "alertname": "NeurrateSourceSilent",
                "eval_time": "3m50s",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": filled}],
            }
        ],
    )
