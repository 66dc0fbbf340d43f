"""The captions of a data set: from a file, the recording, or a captioner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from encoder_training.data_set.prepared import FrameTable
from encoder_training.frames.captions import Caption, match_captions, read_captions
from encoder_training.frames.movies import Movie
from stream_sources.recordings.recording import RecordingSource

CAPTIONED = "captioned.jsonl"
"""The captions generated so far; removed when the data set is whole."""


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """The options of ``neurrate prepare`` about captions.

    Raises
    ------
    UserError
        If captions would come from two places.
    """

    file: Path | None = None  # Lines of JSON, or CSV; see `encoder_training.frames.captions`
    captioner: str | None = None  # Folder or hub id of a model that captions the frames
    every: int = 1  # Every how many frames one is captioned; the others take the nearest caption
    may_miss: bool = False  # Whether frames may go without a caption while others have one

    def __post_init__(self) -> None:
        if self.file is not None and self.captioner is not None:
            raise UserError(
                f"captions come from one place: --captions {self.file} or --captioner "
                f"{self.captioner}. Leave one out."
            )


@dataclass(frozen=True, slots=True)
class FrameCaptions:
    """A caption for each target frame, empty where unknown."""

    captions: tuple[str, ...]
    notes: tuple[str, ...]


def known_captions(
    options: CaptionOptions,
    source: RecordingSource,
    frames: FrameTable,
    shown_frame: NDArray[np.int64],
) -> FrameCaptions:
    """Take captions from the file that was named, or from the recording.

    `shown_frame`, int64 of shape (n_shown,), is the row of the targets that each presentation
    shows, or -1. Frames that were never shown may go without a caption.
    """
    if options.captioner is not None:
        from encoder_training.frames.captioner import load_processor

        load_processor(options.captioner)  # a wrong name fails before the work on the patches
        return FrameCaptions(("",) * len(frames.number), ())
    if options.file is not None:
        written, where = read_captions(options.file), str(options.file.name)
    else:
        written, where = captions_of(source), "the recording"
    if not written:
        note = (
            "there are no captions, so no probes, no retrieval and no evidence beside narrations; "
            "give --captions or --captioner to have them"
        )
        return FrameCaptions(("",) * len(frames.number), (note,))
    matched = match_captions(written, frames)
    missing = np.intersect1d(matched.missing, shown_frame)
    _check_missing(frames, missing, where, may_miss=options.may_miss)
    notes = [f"captions are from {where}", *(note.rstrip(".") for note in matched.notes)]
    return FrameCaptions(matched.captions, tuple(notes))


def made_captions(
    options: CaptionOptions,
    folder: Path,
    frames: FrameTable,
    movies: Mapping[str, Movie],
    *,
    device: str,
) -> FrameCaptions:
    """Caption the frames with a model, from where an earlier call stopped."""
    from encoder_training.frames.captioner import Captioner, fill_captions

    captioner = Captioner(options.captioner or "", device=device)
    path = folder / CAPTIONED
    fill_captions(path, frames, movies, captioner, every=options.every)
    matched = match_captions(read_captions(path), frames, nearest=options.every > 1)
    _check_missing(frames, matched.missing, captioner.name, may_miss=options.may_miss)
    notes = [f"captions are by {captioner.name}", *(note.rstrip(".") for note in matched.notes)]
    return FrameCaptions(matched.captions, tuple(notes))


def captions_of(source: RecordingSource) -> list[Caption]:
    """Return the captions of a recording's presentations."""
    shown = source.presentations
    if not shown.caption:
        return []
    rows = np.flatnonzero(shown.frame >= 0).tolist()
    return [
        Caption(shown.names[shown.stimulus[row]], int(shown.frame[row]), shown.caption[row])
        for row in rows
        if shown.caption[row]
    ]


def _check_missing(
    frames: FrameTable, missing: NDArray[np.int64], where: str, *, may_miss: bool
) -> None:
    missing = missing[missing >= 0]
    if len(missing) and not may_miss:
        labels = [frames.label(row) for row in missing.tolist()]
        raise UserError(
            f"{len(missing)} of {len(frames.number)} frames have no caption in {where}: "
            f"{listed(labels)}. Add them, or give --allow-missing-captions."
        )
