"""What Prometheus sees of a sorter, over HTTP."""

from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import UserError
from stream_sources.online_sorter.recording_voltages import RecordingVoltages
from stream_sources.online_sorter.sorter_metrics import (
    PREFIX,
    SORTER_COUNTERS,
    SORTER_GAUGES,
    serve_metrics,
)
from stream_sources.online_sorter.source import OnlineSorterSource, SorterOptions
from tests.support.ground_truth import ground_truth


def sorted_source():
    """Return a source that has sorted half a second."""
    recording, _, templates = ground_truth()
    voltages = RecordingVoltages(recording, label="recording:x", speed=None, duration_s=0.5)
    source = OnlineSorterSource(voltages, templates, SorterOptions(method="nearest", speed=None))
    assert len(list(source.batches())) == 5
    return source


def test_every_metric_is_served():
    """Each counter and gauge is there, with what the source counted."""
    source = sorted_source()
    with (
        serve_metrics(source, 0) as port,
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer,
    ):
        families = text_string_to_metric_families(answer.read().decode())
        values = {sample.name: sample.value for family in families for sample in family.samples}
    assert {f"{PREFIX}_{metric.name}_total" for metric in SORTER_COUNTERS} <= set(values)
    assert {f"{PREFIX}_{metric.name}" for metric in SORTER_GAUGES} <= set(values)
    assert values[f"{PREFIX}_blocks_total"] == 5
    assert values[f"{PREFIX}_spikes_total"] == source.counters.n_spikes > 10
    assert values[f"{PREFIX}_real_time_factor_p50"] > 0
    assert values[f"{PREFIX}_behind_seconds"] == 0
    assert values["process_resident_memory_bytes"] > 1e6


def test_a_taken_port_is_refused():
    """Two sorters need two ports; without one nothing is served."""
    source = sorted_source()
    with serve_metrics(source, 0) as port, pytest.raises(UserError, match="--metrics-port"):
        with serve_metrics(source, port):
            pass
    with serve_metrics(source, None) as port:
        assert port is None
