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
