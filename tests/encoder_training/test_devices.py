"""The precision of a training, resolved on this machine."""

import pytest
import torch

from encoder_training.devices import resolve_precision


@pytest.mark.parametrize("name", ["auto", "float32"])
def test_a_cpu_trains_in_float32_unless_asked_otherwise(name):
    """The format that every processor has."""
    assert resolve_precision(name, "cpu") == "float32"


def test_bfloat16_that_does_not_run_here_becomes_float32(monkeypatch, caplog):
    """It is tried before hours of training rely on it, and the log says what failed."""

    def forward(self, inputs):
        raise RuntimeError("mkldnn_convolution: bf16 path needs the cpu support avx512bw")

    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    monkeypatch.setattr(torch.nn.Conv1d, "forward", forward)
    assert resolve_precision("bfloat16", "cpu") == "float32"
    assert "bf16 path needs the cpu support avx512bw" in caplog.text


def test_a_gpu_without_bfloat16_trains_in_float32(monkeypatch, caplog):
    """GPUs before compute capability 8.0 would emulate it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert resolve_precision("auto", "cuda") == "float32"
    assert "compute capability 8.0" in caplog.text
