"""The device and the number format that the settings ask for."""

from __future__ import annotations

import pytest
import torch

from contracts.errors import UserError
from daemon.narrators.devices import torch_device, weights_dtype


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float32", "cpu", torch.float32),
        ("float32", "cuda", torch.float32),
        ("float16", "cuda:1", torch.float16),
        ("bfloat16", "cuda", torch.bfloat16),
    ],
)
def test_format_fits_the_device(dtype, device, expected):
    """float32 on a CPU; on a GPU bfloat16, or what the settings name."""
    assert weights_dtype(dtype, device) == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_format_is_refused_on_a_cpu(dtype):
    """The error says which formats a CPU takes."""
    with pytest.raises(UserError, match="must be float32 or auto on the device 'cpu'"):
        weights_dtype(dtype, "cpu")


def test_missing_gpu_is_named(monkeypatch):
    """A GPU that was asked for and is not there stops the start; auto takes the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == "cpu"
    with pytest.raises(UserError, match="no NVIDIA GPU"):
        torch_device("cuda")


@pytest.fixture
def old_gpu(monkeypatch):
    """A GPU of the generation before bfloat16."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")


def test_a_gpu_without_bfloat16_gets_float16(old_gpu, caplog):
    """What it would emulate is not used unasked, and the log says why."""
    assert weights_dtype("auto", "cuda") == torch.float16
    assert "compute capability 8.0, and Tesla T4 has 7.5" in caplog.text
    assert weights_dtype("float32", "cuda") == torch.float32


def test_bfloat16_on_a_gpu_without_it_is_refused(old_gpu):
    """The error says what the GPU takes."""
    with pytest.raises(UserError, match=r"Tesla T4 has 7\.5\. Use float16, float32 or auto"):
        weights_dtype("bfloat16", "cuda:0")
