"""Whether a sorter is run as the calibration of its templates was."""

from __future__ import annotations

import json
from pathlib import Path

FACTS = "calibration.json"
"""Written by ``neurrate calibrate`` (`encoder_training.calibration.folder`)."""


def other_options(folder: Path, *, method: str, block_ms: float) -> list[str]:
    """Return how options differ from those of the calibration in a folder, a text for each.

    An encoder has learned from spikes that were found with those. Empty where nothing differs, or
    where the templates are of no calibration.
    """
    try:
        options = json.loads((folder / FACTS).read_text(encoding="utf-8"))["options"]
        calibrated = {name: options[name] for name in ("--method", "--block-ms")}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    now = {"--method": method, "--block-ms": block_ms}
    return [
        f"{name} is {now[name]}, and {value} in the calibration"
        for name, value in calibrated.items()
        if value != now[name]
    ]
