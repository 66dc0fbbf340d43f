"""Tests that need an NVIDIA GPU, and what they say where there is none."""

from __future__ import annotations

import pytest

from contracts.errors import DependencyError
from daemon.encoders.tensorrt_build import Gpu, find_gpu


def find_gpu_or_skip() -> Gpu:
    """Return the GPU, or skip with the reason why there is none."""
    try:
        return find_gpu()
    except DependencyError as error:
        pytest.skip(str(error))


def without_gpu_or_skip() -> None:
    """Skip where there is a GPU."""
    try:
        gpu = find_gpu()
    except DependencyError:
        return
    pytest.skip(f"tests what happens without a GPU; here is {gpu.name}")
