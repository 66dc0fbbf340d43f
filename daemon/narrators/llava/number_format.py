"""The number format of the weights: what the settings say, or what has been tried.

``auto`` is bfloat16 on a GPU. On a CPU it is float32, unless ``neurrate export`` has let the same
model speak of patches that the bundle's encoder made, in another format, and it said nearly all
sentences (`MIN_EQUAL`) word for word, faster. The report is in the bundle's ``parity.json``
(docs/decisions/0015-narrator-engine.md).
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Literal

from contracts.errors import UserError
from contracts.manifest import PARITY, Manifest

if TYPE_CHECKING:
    from daemon.narrators.llava.products import NumberFormat

MIN_EQUAL = 0.95
"""Share of sentences that must be equal, word for word: that of a float32 graph in the gate of
``neurrate export``. Where two words are equally likely, the last bit decides."""

MIN_SENTENCES = 16
"""Fewer prove nothing."""

MIN_SPEEDUP = 1.1
"""Time of float32 over that of the format: less is noise."""

logger = logging.getLogger(__name__)


def choose_format(
    asked: Literal["auto"] | NumberFormat, device: str, manifest: Manifest, model: str
) -> NumberFormat:
    """Return the number format to load a model in.

    Parameters
    ----------
    asked : {"auto", "float32", "float16", "bfloat16", "int8"}
    device : str
        ``cpu`` or a GPU.
    manifest : Manifest
        Of the bundle, beside which the report lies.
    model : str
        Folder or id of the model that is loaded.

    Returns
    -------
    {"float32", "float16", "bfloat16", "int8"}

    Raises
    ------
    UserError
        If int8 is asked for on a GPU.
    """
    if asked == "int8" and device != "cpu":
        raise UserError(
            f"narrator.dtype is 'int8', which is for a CPU, and the device is {device!r}. Use "
            "bfloat16 or auto."
        )
    if asked != "auto":
        return asked
    if device != "cpu":
        return "bfloat16"
    trials = _trials(manifest, model)
    passed = [trial for trial in trials if _has_passed(trial)]
    best = max(passed, key=lambda trial: float(trial["speedup"]), default=None)
    chosen: NumberFormat = best["number_format"] if best else "float32"
    logger.info(
        "number format chosen",
        extra={"dtype": chosen, "tried": len(trials), "passed": len(passed)},
    )
    return chosen


def _trials(manifest: Manifest, model: str) -> list[dict[str, Any]]:
    """Read what was tried with this very model; nothing if nothing was, or it cannot be read."""
    try:
        report = json.loads((manifest.folder / PARITY).read_text(encoding="utf-8"))
        trials = report.get("formats", {})
        return list(trials["trials"]) if trials.get("model") == model else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _has_passed(trial: Any) -> bool:
    try:
        n, n_equal, speedup = trial["n_narrations"], trial["n_equal"], trial["speedup"]
        is_known = trial["number_format"] in {"bfloat16", "int8"}
        return bool(
            is_known and n >= MIN_SENTENCES and n_equal >= MIN_EQUAL * n and speedup >= MIN_SPEEDUP
        )
    except (KeyError, TypeError):
        return False
