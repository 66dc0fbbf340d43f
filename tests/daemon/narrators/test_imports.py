"""The narrators' modules are light until a model is loaded."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import daemon.encoders.auto, daemon.narrators.auto
heavy = {"torch", "transformers", "onnxruntime", "tensorrt_rtx", "zmq"} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""


def test_importing_loads_nothing_heavy():
    """Neither torch, transformers nor ONNX Runtime comes in with the daemon's modules."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
