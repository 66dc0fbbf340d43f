"""Which frame of a data set each output of a released retrieval checkpoint names."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from encoder_training.data_set.prepared import PreparedSet, Role

FRAME_TO_CLASS = "frame_to_class"
"""Entry of a checkpoint: frame number to output, as the released code's training takes it."""


def image_rows(
    path: Path, prepared: PreparedSet, n_outputs: int, frame_to_class: object = None
) -> NDArray[np.int64]:
    """Return the row of the data set's frames that each output names, shape (n_outputs,).

    `frame_to_class` is that entry of the checkpoint `path`. Without it the outputs are the frames
    of the training presentations, by movie, then by number.

    Raises
    ------
    UserError
        If outputs and frames do not fit each other.
    """
    if frame_to_class is not None:
        return _mapped_rows(path, prepared, n_outputs, frame_to_class)
    shown, frames = prepared.shown, prepared.frames
    rows = np.unique(shown.frame[(shown.role == Role.TRAIN) & (shown.frame >= 0)])
    if len(rows) != n_outputs:
        raise UserError(
            "the outputs of a retrieval checkpoint must be the training frames of the data set, by "
            f"movie and number; {path} has {n_outputs} outputs, the data set {len(rows)} training "
            "frames. Prepare it with the movies and the split of the checkpoint's training "
            f"(--stimuli, --split, --every 1), or save the checkpoint with an entry "
            f"{FRAME_TO_CLASS}: a dictionary from frame number to output."
        )
    return rows[np.lexsort((frames.number[rows], frames.movie[rows]))].astype(np.int64)


def _mapped_rows(
    path: Path, prepared: PreparedSet, n_outputs: int, frame_to_class: object
) -> NDArray[np.int64]:
    output_of = _whole_numbers(frame_to_class)
    if output_of is None:
        raise UserError(
            f"{FRAME_TO_CLASS} must be a dictionary from frame number to output, whole numbers "
            f"both; that of {path} is not. Save the checkpoint with one, or without the entry."
        )
    if sorted(output_of.values()) != list(range(n_outputs)):
        raise UserError(
            f"{FRAME_TO_CLASS} must name each output, 0 to {n_outputs - 1}, once; that of {path} "
            f"names {len(set(output_of.values()))} outputs for {len(output_of)} frames. Save the "
            "checkpoint with the entry of its own training."
        )
    frames = prepared.frames
    movies = [frames.movies[movie] for movie in np.unique(frames.movie)]
    if len(movies) != 1:
        raise UserError(
            f"{FRAME_TO_CLASS} of {path} names frames of one movie by number, and the data set has "
            f"{len(movies)}: {listed(movies)}. Prepare it with that movie alone (--stimuli)."
        )
    row_of = {number: row for row, number in enumerate(frames.number.tolist())}
    missing = sorted(output_of.keys() - row_of.keys())
    if missing:
        raise UserError(
            f"the frames that {path} names in {FRAME_TO_CLASS} must be in the data set; of "
            f"{n_outputs} it lacks {len(missing)}: {listed(missing)}. Prepare it with the movie of "
            "the checkpoint's training (--stimuli, --every 1)."
        )
    in_order = sorted(output_of, key=output_of.__getitem__)
    return np.array([row_of[number] for number in in_order], dtype=np.int64)


def _whole_numbers(mapping: Any) -> dict[int, int] | None:
    if not isinstance(mapping, Mapping):
        return None
    try:
        return {operator.index(frame): operator.index(row) for frame, row in mapping.items()}
    except TypeError:
        return None
