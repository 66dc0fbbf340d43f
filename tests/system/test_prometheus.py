"""A real Prometheus scrapes a real daemon."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from contracts.manifest import Manifest
from tests.support.processes import Neurrate, get
from tests.support.wait_until import wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here: scripts/install-servers"
)

CONFIG = Path(__file__).parents[2] / "configs" / "prometheus.yml"
ALERTS = CONFIG.with_name("prometheus-alerts.yml")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run Prometheus on our own configuration, aimed at one daemon."""
    config = CONFIG.read_text().replace("127.0.0.1:9571", target)
    assert target in config
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(ALERTS, folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def value_of(url: str, query: str) -> float | None:
    """Return the newest value of a query, or None while there is none."""
    try:
        status, body = get(f"{url}/api/v1/query?query={quote(query)}")
    except OSError:
        return None
    result = json.loads(body)["data"]["result"] if status == 200 else []
    return float(result[0]["value"][1]) if result else None


def test_prometheus_sees_the_daemon(tmp_path: Path, tiny_bundle: Manifest, recording: Path):
    """Windows, narrations and latencies arrive in Prometheus, scraped as configs/ says."""
    bind = "tcp://127.0.0.1:*"
    with Neurrate(
        "stream", "nwb", recording, "--bind", bind, folder=tmp_path, name="source"
    ) as source:
        spikes = source.addresses()["spikes"]
        words: tuple[object, ...] = (
            "run", "--bundle", tiny_bundle.folder, "--connect", spikes,
            "--publish", bind, "--narrator", "retrieval", "--set", "http.port=0",
        )  # fmt: skip
        with Neurrate(*words, folder=tmp_path, name="daemon") as daemon:
            target = daemon.addresses()["http"].removeprefix("http://")
            with prometheus(tmp_path, target) as url:
                for query in (
                    "neurrate_windows_total > 3",
                    'neurrate_narrations_total{status="ok"} > 3',
                    "neurrate_ready == 1",
                    'neurrate_stage_duration_seconds_count{stage="total"} > 3',
                    "neurrate_build_info == 1",
                    "neurrate_worker_process_resident_memory_bytes > 1e6",
                ):
                    wait_until(lambda q=query: value_of(url, q) is not None, what=query)  # type: ignore[misc]
                _, body = get(f"{url}/api/v1/rules")
                groups = json.loads(body)["data"]["groups"]
                rules = [rule for group in groups for rule in group["rules"]]
                assert len(rules) > 15
                assert not [rule["lastError"] for rule in rules if "lastError" in rule]
