"""``neurrate run`` as a process, on a device that is not here: a sentence and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.manifest import Manifest
from tests.support.gpu import without_gpu_or_skip
from tests.support.processes import Neurrate


@pytest.mark.parametrize("device", ["tensorrt", "cuda"])
def test_device_that_is_not_here_ends_the_start(stub_bundle: Manifest, tmp_path: Path, device: str):
    """The daemon does not run on another one: exit code 3 (docs/exit-codes.md), no traceback."""
    without_gpu_or_skip()
    with Neurrate(
        "run", "--bundle", stub_bundle.folder, "--connect", "tcp://127.0.0.1:9",
        "--narrator", "retrieval", "--set", "http.port=0", "--publish", "tcp://127.0.0.1:*",
        "--set", f"encoder.device={device}", folder=tmp_path, name="daemon",
    ) as daemon:  # fmt: skip
        assert daemon.wait() == 3, daemon.text()
    text = " ".join(daemon.text().split())
    assert f"encoder.device is {device}, and " in text
    assert "Traceback" not in text
