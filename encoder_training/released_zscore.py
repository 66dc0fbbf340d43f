"""The z-score statistics of a released checkpoint: mean and standard deviation of each unit.

The authors' preprocessing keeps them in ``neural_STIMULUS_SESSION.npz``, beside the counts, and
their training names its weights ``neurrator_patches_STIMULUS_SESSION.pt``. The weights were learned
on counts that were scaled by exactly these numbers; others only resemble them.

References
----------
NEURRATOR, arXiv 2606.18667, and its released code (MIT, repository ``arnaumarin/neurrator``).
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.errors import UserError, listed
from encoder_training.data_set.training_set import Scaling

RELEASED_RATE = BinRate(120)
"""Of the bins whose counts the statistics describe (released code, ``neurrator/data.py``)."""

NAMES = ("zscore_mean", "zscore_std")

CHECKPOINT_NAME = re.compile(r"neurrator_(?:patches|retrieval)_(?P<session>.+)")
"""Without its suffix."""


def zscore_beside(checkpoint: Path) -> Path | None:
    """Return the file of statistics that stands beside a checkpoint, by its name, if it is there.

    >>> zscore_beside(Path("nowhere/neurrator_patches_nm1_715093703.pt")) is None
    True
    """
    match = CHECKPOINT_NAME.fullmatch(checkpoint.stem)
    if match is None:
        return None
    path = checkpoint.with_name(f"neural_{match['session']}.npz")
    return path if path.is_file() else None


def load_zscore(path: Path, *, n_units: int, rate: BinRate) -> Scaling:
    """Read the statistics for a data set of so many units, with bins of this rate.

    Raises
    ------
    UserError
        If they cannot be read or do not fit, with every problem.
    """
    advice = (
        "Name the file of the checkpoint's session with --zscore, or move this one away and leave "
        "--zscore out: the statistics are then measured on the training windows of the data set."
    )
    if not path.is_file():
        raise UserError(f"There is no file {path} of z-score statistics. {advice}")
    if rate.num != RELEASED_RATE.num * rate.den:
        raise UserError(
            f"{path} has the statistics of counts in bins of 1/{RELEASED_RATE.num} s, as the "
            f"released code makes them; the data set has {rate.bins_per_s:g} bins a second. "
            f"Prepare it with --bin-rate-hz {RELEASED_RATE.num}. {advice}"
        )
    try:
        found = _read(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {error}. {advice}") from error
    problems = _problems(found, n_units)
    if problems:
        raise UserError(
            f"{path} must hold {' and '.join(NAMES)}, finite numbers of shape (1, {n_units}), one "
            f"for each unit of the data set, standard deviations above 0; {'; '.join(problems)}. "
            f"{advice}"
        )
    mean, std = (found[name].reshape(n_units).astype(np.float32) for name in NAMES)
    return Scaling(mean, std)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read the two arrays and nothing else: the counts beside them take hundreds of megabytes."""
    with path.open("rb") as file:  # NumPy leaves a file open that turns out to be no archive
        content = np.load(file, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            return {}
        return {name: content[name] for name in NAMES if name in content.files}


def _problems(found: dict[str, NDArray[Any]], n_units: int) -> list[str]:
    problems = []
    for name in NAMES:
        array = found.get(name)
        if array is None:
            problems.append(f"{name} is not there")
        elif array.dtype.kind != "f" or array.shape not in {(1, n_units), (n_units,)}:
            problems.append(f"{name} is {array.dtype} of shape {array.shape}")
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite below
                values = array.reshape(n_units).astype(np.float32)
            wrong = (
                ~np.isfinite(values) if name == NAMES[0] else ~((values > 0) & (values < np.inf))
            )
            if wrong.any():
                units = np.flatnonzero(wrong)
                problems.append(
                    f"{name} is {listed(values[units].tolist())} for the units "
                    f"{listed(units.tolist())} (from 0)"
                )
    return problems
