"""Switches off what libraries report to their makers. Done on import, in every process.

Recordings are private, and rigs are often in networks that must not be left. No process of ours
looks up a name, or connects to a machine, that the user did not name; none leaves an identifier of
the machine in the home folder. The variables must be set before the libraries are imported, and
child processes inherit them; so this is the first import of `contracts`, which all packages import.

References
----------
ONNX Runtime, docs/Privacy.md: the official builds collect from version 1.29 on; the Python function
``disable_telemetry_events`` comes too late, and leaves the rest. huggingface_hub, "Environment
variables". transformers/safetensors_conversion.py: asks a web service to convert models on the hub.
"""

from __future__ import annotations

import os

SWITCHED_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Whatever the caller's environment says: an empty value counts as switched on."""

os.environ.update(SWITCHED_OFF)
