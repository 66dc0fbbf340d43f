"""A prepared data set as a folder. The format is ``docs/data-set.md``.

``dataset.json`` is written last: a data set is whole or not there. Counts and patches are mapped
and never loaded whole. No pickle anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from contracts.atomic_files import whole_file, write_json, write_text
from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.errors import UserError
from contracts.manifest import PatchGridModel, TrainingData, UnitModel, WindowModel, sha256_of
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from encoder_training.data_set.counting import CountedIntervals
from encoder_training.data_set.prepared import FrameTable, PreparedSet, PresentationRows, Role
from encoder_training.data_set.prepared_facts import (
    CONTENT,
    COUNTS,
    FACTS,
    FORMAT_VERSION,
    FRAMES,
    PATCHES,
    PRESENTATIONS,
    DatasetError,
    DatasetModel,
    MovieModel,
    Option,
    SessionModel,
    content_of,
    data_sha256_of,
    load_facts,
)
from encoder_training.files import write_tensors
from encoder_training.frames.patch_store import open_patches

SHOWN_COLUMNS = ("start_ns", "stop_ns", "frame", "block", "group", "role", "movie", "number")
LATER_COLUMNS = ("blank_from_ns",)
"""Columns of the presentations that data sets of earlier versions lack."""

SPAN_COLUMNS = ("first_bin", "stop_bin")


def write_prepared(
    folder: Path,
    prepared: PreparedSet,
    *,
    movies: dict[str, int] | None = None,
    number: NDArray[np.int64] | None = None,
    movie: NDArray[np.int64] | None = None,
    options: dict[str, Option] | None = None,
    notes: tuple[str, ...] = (),
    model_folder: str = "",
    command: str = "",
    sessions: Sequence[SessionModel] = (),
) -> str:
    """Write a data set; counts and patches only if they are not there yet.

    The folder is made if it is not there. `prepared.training_data.sha256` is not used.

    Parameters
    ----------
    movies : dict of str to int, optional
        Frames of each movie, in the order of `prepared.frames.movies`; by default up to the last
        target.
    number, movie : array, shape (n_shown,), int64, optional
        Frame number (-1: blank) and movie of each presentation; by default of those that show a
        target.
    sessions : sequence of SessionModel
        Of a pooled data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / COUNTS).exists():
        with whole_file(folder / COUNTS) as partial, partial.open("wb") as file:
            np.save(file, prepared.counts)
    if not (folder / PATCHES).exists():
        write_tensors(folder / PATCHES, {"patches": np.ascontiguousarray(prepared.targets)})
    _write_presentations(folder / PRESENTATIONS, prepared, movie, number)
    _write_frames(folder / FRAMES, prepared.frames)
    window, grid = prepared.window, prepared.grid
    model = DatasetModel(
        format_version=FORMAT_VERSION,
        recording=prepared.training_data.recording,
        session_id=prepared.training_data.session_id,
        window=WindowModel(
            bin_rate_num=window.rate.num,
            bin_rate_den=window.rate.den,
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=window.lag_ns,
        ),
        population=[UnitModel(**unit.labels) for unit in prepared.population.units],
        sessions=list(sessions),
        patch_grid=PatchGridModel(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        language_model=prepared.language_model,
        movies=[
            MovieModel(name=name, n_frames=n_frames)
            for name, n_frames in (movies or _movies_of(prepared.frames)).items()
        ],
        options=options or {},
        notes=list(notes),
        sha256={name: sha256_of(folder / name) for name in CONTENT},
        data_sha256="0" * 64,
        model_folder=model_folder,
        command=command,
    )
    model = model.model_copy(update={"data_sha256": data_sha256_of(model)})
    write_json(folder / FACTS, content_of(model))
    return model.data_sha256


def link_patches(dataset: Path, folder: Path) -> None:
    """Make the patches of a data set the same file in a folder, or else copy them; kept if there.

    Raises
    ------
    OSError
        If they cannot be copied either.
    """
    if (folder / PATCHES).exists():
        return
    try:
        os.link(dataset / PATCHES, folder / PATCHES)
    except OSError:  # as on another disk
        with whole_file(folder / PATCHES) as partial:
            shutil.copyfile(dataset / PATCHES, partial)


def load_prepared(folder: Path, *, check_hashes: bool = False) -> PreparedSet:
    """Read and check a data set; counts and patches are mapped.

    Raises
    ------
    DatasetError
        With every problem found.
    """
    model = load_facts(folder)
    problems = _missing_or_changed(folder, model, check_hashes=check_hashes)
    if problems:
        raise DatasetError(folder, problems)
    counts = _mapped_counts(folder, problems)
    tensors = _tensors(folder, problems)
    targets = _mapped_patches(folder, problems)
    frames = _read_frames(folder, model, problems)
    if counts is None or tensors is None or targets is None or frames is None:
        raise DatasetError(folder, problems)
    prepared = _assembled(model, counts, tensors, targets, frames)
    problems = _content_problems(prepared)
    if problems:
        raise DatasetError(folder, problems)
    return prepared


def read_shown_frames(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return movie and frame number of each presentation; -1 for a blank.

    `load_prepared` has checked the files.
    """
    tensors = load_file(folder / PRESENTATIONS)
    return tensors["movie"], tensors["number"]


def _movies_of(frames: FrameTable) -> dict[str, int]:
    return {
        name: int(frames.number[frames.movie == row].max()) + 1
        for row, name in enumerate(frames.movies)
    }


def _write_presentations(
    path: Path,
    prepared: PreparedSet,
    movie: NDArray[np.int64] | None,
    number: NDArray[np.int64] | None,
) -> None:
    shown, frames = prepared.shown, prepared.frames
    is_target = shown.frame >= 0
    if movie is None:
        movie = np.where(is_target, frames.movie[shown.frame], -1)
    if number is None:
        number = np.where(is_target, frames.number[shown.frame], -1)
    tensors = {
        "start_ns": shown.start_ns,
        "stop_ns": shown.stop_ns,
        "frame": shown.frame,
        "block": shown.block,
        "group": shown.group,
        "movie": movie,
        "number": number,
        "invalid_ns": prepared.invalid_ns,
        "first_bin": prepared.spans.first_bin,
        "stop_bin": prepared.spans.stop_bin,
    }
    if shown.blank_from_ns is not None:
        tensors["blank_from_ns"] = shown.blank_from_ns
    whole = {name: np.ascontiguousarray(value, dtype=np.int64) for name, value in tensors.items()}
    write_tensors(path, {**whole, "role": np.ascontiguousarray(shown.role, dtype=np.int8)})


def _write_frames(path: Path, frames: FrameTable) -> None:
    rows = zip(frames.movie.tolist(), frames.number.tolist(), frames.captions, strict=True)
    lines = [
        json.dumps(
            {"movie": frames.movies[movie], "number": number, "caption": caption},
            ensure_ascii=False,
        )
        for movie, number, caption in rows
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def _missing_or_changed(folder: Path, model: DatasetModel, *, check_hashes: bool) -> list[str]:
    problems = [f"{FACTS} has no sha256 of {name}" for name in CONTENT if name not in model.sha256]
    for name in CONTENT:
        if not (folder / name).is_file():
            problems.append(f"{name} is not there")
        elif check_hashes and sha256_of(folder / name) != model.sha256.get(name):
            problems.append(
                f"{name} has another sha256 than {FACTS} says; it was changed or cut. Prepare the "
                "data set again"
            )
    return problems


def _mapped_counts(folder: Path, problems: list[str]) -> NDArray[np.uint8] | None:
    try:
        counts: NDArray[np.uint8] = np.load(folder / COUNTS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        problems.append(f"{COUNTS} cannot be mapped: {error}")
        return None
    return counts


def _mapped_patches(folder: Path, problems: list[str]) -> NDArray[np.float16] | None:
    try:
        return open_patches(folder / PATCHES)
    except UserError as error:
        problems.append(str(error))
        return None


def _tensors(folder: Path, problems: list[str]) -> dict[str, NDArray[Any]] | None:
    try:
        tensors: dict[str, NDArray[Any]] = load_file(folder / PRESENTATIONS)
    except (OSError, SafetensorError) as error:
        problems.append(f"{PRESENTATIONS} cannot be read: {error}")
        return None
    wrong = []
    shown = (*SHOWN_COLUMNS, *(name for name in LATER_COLUMNS if name in tensors))
    for name in (*shown, *SPAN_COLUMNS, "invalid_ns"):
        dtype = np.int8 if name == "role" else np.int64
        n_dims = 2 if name == "invalid_ns" else 1
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype != dtype or tensor.ndim != n_dims:
            what = "is not there" if tensor is None else f"is {tensor.dtype} {tensor.shape}"
            wrong.append(
                f"{PRESENTATIONS} must hold {name}, {np.dtype(dtype)} of {n_dims} dimension"
                f"{'s' * (n_dims > 1)}; it {what}"
            )
    for group in (shown, SPAN_COLUMNS):
        lengths = {name: len(tensors[name]) for name in group if name in tensors}
        if not wrong and (len(set(lengths.values())) != 1 or 0 in lengths.values()):
            wrong.append(f"{PRESENTATIONS} must have columns of one length, got {lengths}")
    problems += wrong
    return None if wrong else tensors


def _read_frames(folder: Path, model: DatasetModel, problems: list[str]) -> FrameTable | None:
    names = tuple(movie.name for movie in model.movies)
    row_of = {name: row for row, name in enumerate(names)}
    try:
        with (folder / FRAMES).open(encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        return FrameTable(
            movies=names,
            movie=np.array([row_of[line["movie"]] for line in lines], dtype=np.int64),
            number=np.array([int(line["number"]) for line in lines], dtype=np.int64),
            captions=tuple(str(line["caption"]) for line in lines),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(
            f"{FRAMES} must hold lines with movie, number and caption, each movie one of "
            f"{FACTS}: {error!r}"
        )
        return None


def _assembled(
    model: DatasetModel,
    counts: NDArray[np.uint8],
    tensors: dict[str, NDArray[Any]],
    targets: NDArray[np.float16],
    frames: FrameTable,
) -> PreparedSet:
    window, grid = model.window, model.patch_grid
    return PreparedSet(
        population=Population([Unit(**unit.model_dump()) for unit in model.population]),
        window=WindowSpec(
            BinRate(window.bin_rate_num, window.bin_rate_den),
            n_bins=window.n_bins,
            stride_bins=window.stride_bins,
            lag_ns=window.lag_ns,
        ),
        grid=PatchGrid(rows=grid.rows, cols=grid.cols, dim=grid.dim),
        language_model=model.language_model,
        training_data=TrainingData(
            recording=model.recording, session_id=model.session_id, sha256=model.data_sha256
        ),
        spans=CountedIntervals(tensors["first_bin"], tensors["stop_bin"]),
        counts=counts,
        shown=PresentationRows(
            **{name: tensors[name] for name in SHOWN_COLUMNS if name not in {"movie", "number"}},
            **{name: tensors[name] for name in LATER_COLUMNS if name in tensors},
        ),
        invalid_ns=tensors["invalid_ns"],
        frames=frames,
        targets=targets,
    )


def _content_problems(prepared: PreparedSet) -> list[str]:
    """Return in what way the files do not fit each other."""
    spans, shown, frames = prepared.spans, prepared.shown, prepared.frames
    problems = []
    edges = np.stack([spans.first_bin, spans.stop_bin], axis=1).reshape(-1)
    if (np.diff(edges) < 0).any() or (spans.first_bin >= spans.stop_bin).any():
        problems.append(f"the spans in {PRESENTATIONS} must be in order and apart")
    shape = (spans.n_rows, len(prepared.population))
    if prepared.counts.dtype != np.uint8 or prepared.counts.shape != shape:
        problems.append(
            f"{COUNTS} must be uint8 of shape {shape}, got {prepared.counts.dtype} "
            f"{prepared.counts.shape}"
        )
    n_frames = len(frames.captions)
    of_patches = (n_frames, prepared.grid.n_patches, prepared.grid.dim)
    if prepared.targets.shape != of_patches:
        problems.append(
            f"{PATCHES} must be of shape {of_patches} by {FRAMES} and the grid, got "
            f"{prepared.targets.shape}"
        )
    if not -1 <= int(shown.frame.min()) <= int(shown.frame.max()) < n_frames:
        problems.append(
            f"frame in {PRESENTATIONS} must be -1 to {n_frames - 1}, got {shown.frame.min()} to "
            f"{shown.frame.max()}"
        )
    if shown.blank_from_ns is not None and (shown.blank_from_ns > shown.start_ns).any():
        problems.append(f"blank_from_ns in {PRESENTATIONS} must not be after start_ns")
    if not set(np.unique(shown.role).tolist()) <= {int(role) for role in Role}:
        problems.append(f"role in {PRESENTATIONS} must be 0, 1 or 2")
    if prepared.invalid_ns.shape[1:] != (2,):
        problems.append(
            f"invalid_ns in {PRESENTATIONS} must be of shape (n, 2), got "
            f"{prepared.invalid_ns.shape}"
        )
    return problems
