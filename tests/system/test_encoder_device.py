"""``neurrate run`` as a process, on a device that is not here: a sentence and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import DependencyError
from contracts.manifest import Manifest
from daemon.encoders.tensorrt_build import find_gpu
from tests.support.processes import Neurrate


@pytest.mark.parametrize("device", ["tensorrt", "cuda"])
def test_device_that_is_not_here_ends_the_start(stub_bundle: Manifest, tmp_path: Path, device: str):
    """The daemon does not run on another one: exit code 3 (docs/exit-codes.md), no traceback."""
    try:
        pytest.skip(f"says what happens without a GPU; here is {find_gpu().name}")
    except DependencyError:
        pass
    with Neurrate(
        "run", "--bundle", stub_bundle.folder, "--connect", "tcp://127.0.0.1:9",
        "--narrator", "retrieval", "--set", "http.port=0", "--publish", "tcp://127.0.0.1:*",
        "--set", f"encoder.device={device}", folder=tmp_path, name="daemon",
    ) as daemon:  # fmt: skip
        assert daemon.wait() == 3, daemon.text()
    said = " ".join(daemon.text().split())
    assert f"encoder.device is {device}, and " in said
    assert "Traceback" not in said
