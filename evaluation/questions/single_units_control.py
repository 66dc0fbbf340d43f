"""The same tests against labels of other frames, which have nothing to do with the spikes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.questions.answer import Row
from evaluation.questions.chance import is_rejected
from evaluation.questions.false_positives import other_frames
from evaluation.questions.inputs import EvaluationInputs
from evaluation.questions.single_units_decoding import UnitDecoder
from evaluation.questions.single_units_words import (
    Statements,
    corrected_p,
    information_by_shift,
)

if TYPE_CHECKING:
    from evaluation.questions.single_units import NarratedUnit

N_SETS = 20
"""Of labels, each beginning at another frame."""

LABELS_STREAM = 18


def unrelated_labels(
    inputs: EvaluationInputs,
    decoder: UnitDecoder,
    units: Sequence[NarratedUnit],
    statements: Statements,
    orders: NDArray[np.int64],
) -> list[Row]:
    """Count effects of the narrated units where there are none; empty without other frames.

    Labels are those of frames of the longest movie that are not held out, in their order, so that
    they change as slowly as the true ones. Statements are read from captions.
    """
    others = other_frames(inputs)
    if others is None:
        return []
    data, positions = inputs.windows.data, inputs.positions
    captions = [inputs.windows.frames.captions[row] for row in others.tolist()]
    stated, patches = statements.named(captions), decoder.project(data.targets[others])
    decoded = [decoder.decode(one.row) for one in units]
    of_windows = {
        "information of narrations": np.stack([one.named for one in units]),
        "information of spikes": np.stack([one.has_many for one in units]),
    }
    p: dict[str, list[float]] = {"decoded patches": [], **{name: [] for name in of_windows}}
    rng = np.random.default_rng([inputs.request.seed, LABELS_STREAM])
    for _ in range(N_SETS):
        at = (int(rng.integers(len(others))) + np.arange(len(positions))) % len(others)
        p["decoded patches"] += [decoder.test(one, patches[at]).p for one in decoded]
        for name, named in of_windows.items():
            bits = information_by_shift(named, stated[at], positions, orders)
            p[name] += [float(corrected_p(of_unit).min(initial=1.0)) for of_unit in bits]
    return [
        {
            "test": name,
            "label_sets": N_SETS,
            "tests": len(of_test),
            "rejected": int(is_rejected(of_test).sum()),
            "rate": float(is_rejected(of_test).mean()),
        }
        for name, of_test in p.items()
    ]
