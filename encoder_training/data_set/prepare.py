"""The steps of ``neurrate prepare``: a recording, frames and a model become a data set.

Everything that can be refused is refused before the long work. The patches are the long part; the
same command given again resumes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from contracts.atomic_files import check_folder_writable
from contracts.embedding import PatchGrid
from contracts.errors import UserError, listed
from contracts.manifest import LanguageModel, TrainingData
from contracts.population import Population
from contracts.window import WindowSpec
from encoder_training.data_set.alignment import needed_blank_ns
from encoder_training.data_set.counting import write_counts
from encoder_training.data_set.prepare_captions import (
    CAPTIONED,
    CaptionOptions,
    known_captions,
    made_captions,
)
from encoder_training.data_set.prepare_folder import is_finished, open_folder, remove_patches
from encoder_training.data_set.prepared import FrameTable, PreparedSet, PresentationRows
from encoder_training.data_set.prepared_facts import COUNTS, PATCHES, UNFINISHED, Option
from encoder_training.data_set.prepared_files import load_prepared, write_prepared
from encoder_training.data_set.report import write_prepare_report
from encoder_training.data_set.splits import SplitOptions, SplitRoles, split_presentations
from encoder_training.data_set.stimulus import StimulusTable, read_presented, spans_of
from encoder_training.data_set.training_set import Split, TrainingSet
from encoder_training.frames.hub import short_name
from encoder_training.frames.movies import Movie, find_movies, movies_in
from encoder_training.frames.patch_store import OtherPatchesError, fill_patches, open_patches
from encoder_training.pictures import check_matplotlib
from stream_sources.recordings.open_source import open_source
from stream_sources.recordings.optotagging import read_optotagging, with_tagged_cells
from stream_sources.recordings.recording import RecordingSource
from stream_sources.recordings.trains import TrainReader

if TYPE_CHECKING:
    from encoder_training.frames.tower import VisionTower


CellTypes = Literal["column", "optotagging"]
"""Of the units table, or of the units that answer light."""


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """The options of ``neurrate prepare``."""

    recording: str
    out: Path
    frames: Path
    model: str
    window: WindowSpec  # Rate, bins, stride, and the lag that is used where none is chosen
    split: SplitOptions
    captions: CaptionOptions
    stimuli: tuple[str, ...] = ()  # Names; empty takes all that have frame numbers and frames
    units: str = "all"  # As for ``neurrate stream nwb``
    cell_types: CellTypes = "column"
    every: int = 1  # Every how many frames one is a target
    device: str = "cpu"

    def as_text(self) -> dict[str, Option]:
        """Return what the result depends on, without a path of this machine."""
        window, split, captions = self.window, self.split, self.captions
        held_out: dict[str, Option] = {"movies": list(split.movies), "repeats": split.n_repeats}
        return {
            "--frames": self.frames.name,
            "--model": short_name(self.model),
            "--stimuli": list(self.stimuli),
            "--units": self.units,
            # Left out where data sets of before are the same
            **({} if self.cell_types == "column" else {"--cell-types": self.cell_types}),
            "--bin-rate-hz": window.rate.bins_per_s,
            "--bins": window.n_bins,
            "--stride": window.stride_bins,
            "--lag-ms": window.lag_ns / 1e6,
            "--every": self.every,
            "--split": split.kind,
            "--held-out": held_out.get(split.kind, split.fraction),
            "--validation": split.validation_fraction,
            "--chunk-seconds": split.chunk_s,
            "--captions": captions.file.name if captions.file else None,
            "--captioner": short_name(captions.captioner) if captions.captioner else None,
            "--caption-every": captions.every,
            "--allow-missing-captions": captions.may_miss,
            "--device": self.device,
            "--seed": split.seed,
        }


@dataclass(frozen=True, slots=True, eq=False)
class PrepareResult:
    """The outcome of ``neurrate prepare``."""

    data_sha256: str
    data: PreparedSet
    notes: tuple[str, ...]
    was_finished: bool = False  # The data set was finished before, and nothing was done


def build_data_set(
    options: PrepareOptions, *, command: str, overwrite: bool = False
) -> PrepareResult:
    """Make a data set, resume an interrupted one, or return a finished one.

    With `overwrite` it starts again; patches are kept if they are of the same frames and tower.
    """
    check_folder_writable(options.out)
    check_matplotlib()
    source = open_source(options.recording, units=options.units, tables=options.stimuli)
    try:
        return _build(options, source, command, overwrite=overwrite)
    finally:
        source.close()


def _build(
    options: PrepareOptions, source: RecordingSource, command: str, *, overwrite: bool
) -> PrepareResult:
    from encoder_training.frames.tower import VisionTower

    wanted = {"RECORDING": source.label, **options.as_text()}
    if not overwrite and is_finished(options.out, wanted):
        finished = load_prepared(options.out)
        return PrepareResult(finished.training_data.sha256, finished, (), was_finished=True)
    movies = choose_movies(source, options.frames, options.stimuli)
    n_frames = {name: movie.n_frames for name, movie in movies.items()}
    presented = read_presented(
        source.presentations,
        n_frames,
        every=options.every,
        blank_ns=needed_blank_ns(options.window),
    )
    split = split_presentations(presented, options.split)
    population = source.population
    tagged: tuple[str, ...] = ()
    if options.cell_types == "optotagging":
        light = read_optotagging(options.recording)
        population, note = with_tagged_cells(source.population, source.trains, light)
        tagged = (note,)
    plan = _without_data(options, source, population, presented, split)
    captions = known_captions(options.captions, source, plan.frames, presented.frame)
    data, parts = plan.windows(options.window.lag_ns)  # refuses a part without windows
    tower = VisionTower(options.model, device=options.device)
    out = options.out
    open_folder(out, wanted, overwrite=overwrite)  # removes what is to be overwritten
    _fill_patches(out, plan.frames, movies, tower, overwrite=overwrite)
    if options.captions.captioner:
        captions = made_captions(options.captions, out, plan.frames, movies, device=options.device)
    (out / COUNTS).unlink(missing_ok=True)
    reader = TrainReader(source.trains)
    write_counts(
        out / COUNTS,
        reader.between,
        plan.spans,
        n_units=len(source.population),
        rate=options.window.rate,
    )
    notes = (
        *tagged,
        *_left_out(source, movies),
        *_notes(presented, plan, data.n_windows),
        *_seen_in_training(data, parts),
        *split.notes,
        *captions.notes,
    )
    whole = replace(
        plan,
        grid=tower.grid,
        language_model=tower.language_model,
        counts=np.load(out / COUNTS, mmap_mode="r"),
        targets=open_patches(out / PATCHES),
        frames=replace(plan.frames, captions=captions.captions),
    )
    write_prepare_report(out, whole, presented, notes=notes)
    data_sha256 = write_prepared(
        out,
        whole,
        movies=dict(zip(presented.movies, presented.n_frames, strict=True)),
        number=presented.number,
        movie=presented.movie,
        options=options.as_text(),
        notes=notes,
        model_folder=str(Path(options.model).resolve()) if Path(options.model).is_dir() else "",
        command=command,
    )
    for name in (UNFINISHED, CAPTIONED):
        (out / name).unlink(missing_ok=True)
    return PrepareResult(data_sha256, load_prepared(out), notes)


def _fill_patches(
    out: Path,
    frames: FrameTable,
    movies: Mapping[str, Movie],
    tower: VisionTower,
    *,
    overwrite: bool,
) -> None:
    """Compute the patches, or keep those of an earlier data set in the folder.

    Raises
    ------
    OtherPatchesError
        If they are of other frames or another tower, and must not be overwritten.
    """
    try:
        fill_patches(out / PATCHES, frames, movies, tower)
    except OtherPatchesError:
        if not overwrite:
            raise
        remove_patches(out)
        fill_patches(out / PATCHES, frames, movies, tower)


def choose_movies(
    source: RecordingSource, frames: Path, stimuli: tuple[str, ...]
) -> dict[str, Movie]:
    """Open the frames of the stimuli that are wanted.

    Without names: all with frame numbers whose frames are there.

    Raises
    ------
    UserError
        If the recording has no such stimulus, or its frames are not there.
    """
    shown = source.presentations
    numbered = [
        name
        for row, name in enumerate(shown.names)
        if (shown.frame[shown.stimulus == row] >= 0).any()
    ]
    unknown = [name for name in stimuli if name not in numbered]
    if unknown:
        raise UserError(
            "--stimuli must name tables of the recording's intervals with start_time, stop_time "
            f"and frame (NAME or NAME_presentations), got {listed(unknown)}; with frame numbers "
            f"there are {listed(numbered) or 'none'} ({source.label})."
        )
    if not numbered:
        raise UserError(
            f"{source.label} must hold which frame was on the screen when: a table "
            "intervals/NAME_presentations with start_time, stop_time and frame. It presents "
            f"{listed(shown.names) or 'nothing'}. Name another table of its intervals with "
            "--stimuli."
        )
    return find_movies(frames, stimuli or movies_in(frames, numbered))


def _left_out(source: RecordingSource, movies: Mapping[str, Movie]) -> tuple[str, ...]:
    """Name the stimuli with frame numbers that are left out."""
    shown = source.presentations
    many = {
        name: int((shown.frame[shown.stimulus == row] >= 0).sum())
        for row, name in enumerate(shown.names)
    }
    return tuple(
        f"{name}, with {n:,} presentations of numbered frames, is left out: --frames has none of "
        "it, or --stimuli does not name it"
        for name, n in many.items()
        if n and name not in movies
    )


def _without_data(
    options: PrepareOptions,
    source: RecordingSource,
    population: Population,
    presented: StimulusTable,
    split: SplitRoles,
) -> PreparedSet:
    """Return the data set before its counts and patches are known: empty ones stand for them."""
    recorded_ns = source.trains.ends_ns()
    spans = spans_of(
        presented,
        options.window.rate,
        recorded_ns=None if recorded_ns is None else (recorded_ns[0], recorded_ns[1] + 1),
    )
    n_targets, nothing = len(presented.target_number), PatchGrid(1, 1, 1)
    return PreparedSet(
        population=population,
        window=options.window,
        grid=nothing,
        language_model=LanguageModel(model_id=options.model),
        training_data=TrainingData(recording=source.label, session_id=source.identifier),
        spans=spans,
        counts=np.broadcast_to(np.uint8(0), (spans.n_rows, len(population))),
        shown=PresentationRows(
            start_ns=presented.start_ns,
            stop_ns=presented.stop_ns,
            frame=presented.frame,
            block=presented.block,
            group=split.group,
            role=split.role,
            blank_from_ns=presented.blank_from_ns,
        ),
        invalid_ns=source.invalid_ns,
        frames=FrameTable(
            movies=presented.movies,
            movie=presented.target_movie,
            number=presented.target_number,
            captions=("",) * n_targets,
        ),
        targets=np.broadcast_to(np.float16(0), (n_targets, 1, 1)),
    )


def _seen_in_training(data: TrainingSet, parts: Split) -> tuple[str, ...]:
    """Return what to compare where every test frame is also shown in training."""
    tested = np.unique(data.frame[parts.test])
    if not np.isin(tested, data.frame[parts.train]).all():
        return ()
    return (
        f"all {len(tested):,} test frames are also shown in training, at other times: which method "
        "and which variant of the encoder is best on them is found by training, under 'Frames seen "
        "in training' in each run's report",
    )


def _notes(presented: StimulusTable, plan: PreparedSet, n_windows: int) -> tuple[str, ...]:
    """Return which presentations are not used, and why."""
    notes = []
    if presented.n_empty:
        notes.append(f"{presented.n_empty} presentations that end when they start are left out")
    notes += [
        f"{name} was shown in random order: its images have no joins of repeats, and the repeat "
        "of an image is how often it was shown before"
        for name, is_shuffled in zip(presented.movies, presented.is_shuffled, strict=True)
        if is_shuffled
    ]
    n_targets = int((plan.shown.frame >= 0).sum())
    notes.append(
        f"{n_windows:,} of {n_targets:,} presentations of targets have a window with the lag of "
        f"{plan.window.lag_ns / 1e6:g} ms; the others stand at the end of a block, at the start of "
        "one without a blank before it, or touch an invalid interval or the recording's end"
    )
    return tuple(notes)
