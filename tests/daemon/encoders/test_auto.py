"""The device that encodes, and why none of the faster ones does."""

from __future__ import annotations

import logging
import sys
from functools import partial

import numpy as np
import pytest

from contracts.errors import DependencyError
from daemon.encoders.auto import load_encoder, outlook
from daemon.encoders.onnx import OnnxGraph
from daemon.encoders.tensorrt import TensorrtGraph
from tests.support.gpu import find_gpu_or_skip, without_gpu_or_skip


def test_auto_logs_device_and_reasons(tiny_bundle, caplog):
    """The log gets one line, with the device and for each faster one the reason."""
    without_gpu_or_skip()
    with caplog.at_level(logging.INFO):
        encoder = load_encoder(tiny_bundle, [tiny_bundle.population.select("all")])
    assert encoder.device.startswith("CPU (ONNX Runtime ")
    (line,) = [r.getMessage() for r in caplog.records if r.name == "daemon.encoders.auto"]
    assert line.startswith(f"encoder on {encoder.device}: ")
    assert "no NVIDIA driver" in line
    assert "no CUDA provider" in line
    assert outlook().startswith("the CPU: ")


def test_auto_survives_broken_libraries(tiny_bundle, caplog, monkeypatch):
    """A library that cannot be loaded costs speed and not the start."""
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.INFO):
        load_encoder(tiny_bundle, [tiny_bundle.population.select("all")])
    assert "tensorrt is not installed" in caplog.text


@pytest.mark.parametrize("device", ["tensorrt", "cuda"])
def test_requested_device_that_is_missing(tiny_bundle, device):
    """A device that the settings name is not replaced by another."""
    without_gpu_or_skip()
    with pytest.raises(DependencyError, match=f"encoder.device is {device}, and "):
        load_encoder(tiny_bundle, [tiny_bundle.population.select("all")], device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("on_gpu", [TensorrtGraph, partial(OnnxGraph, device="cuda")])
def test_gpu_equals_cpu(tiny_bundle, on_gpu):
    """The same graph on a GPU gives the same patches, for any size of batch."""
    find_gpu_or_skip()
    rng = np.random.default_rng(0)
    graph, expected = on_gpu(tiny_bundle), OnnxGraph(tiny_bundle)
    for n in (1, 3, 64):
        counts = rng.poisson(0.3, (n, tiny_bundle.window_spec.n_bins, 12)).astype(np.float32)
        mask = (rng.random((n, 12)) < 0.5).astype(np.float32)
        np.testing.assert_allclose(
            graph.run(counts, mask), expected.run(counts, mask), rtol=0, atol=2e-3
        )
