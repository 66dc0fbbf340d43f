"""What is compiled for one test is not the next one's."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def fresh_compiler():
    """Let go of what is compiled: the compiler counts versions of a function, whoever made it."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()
