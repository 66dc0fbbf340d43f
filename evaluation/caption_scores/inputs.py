"""What is scored: held-out windows with captions, and the populations that narrate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from contracts.manifest import Manifest
from contracts.population import CONTROLS, Population, Selection
from contracts.selection_text import named, split_names
from encoder_training.data_set.prepared import FrameTable, PreparedSet
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import TrainingSet, thinned
from encoder_training.evaluation.movie_runs import movie_runs, run_seconds
from encoder_training.evaluation.movie_time import movie_time

OF_SESSION = "session:"
"""With what the name of all units of one session begins."""

FEWEST_NARRATED = 20
"""Of a daemon's windows: with fewer alignments no p-value can be 0.05 or less."""


@dataclass(frozen=True, slots=True)
class CaptionScoreRequest:
    """The options of ``neurrate score``, as `neurrate.score_command.score` describes them."""

    bundle: Path
    dataset: Path
    windows: int
    populations: str
    narrator: Literal["llava", "retrieval"]
    model: str | None
    sentence_model: str | None
    device: str
    threads: int
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class CaptionedWindows:
    """Held-out windows whose frames have captions."""

    data: TrainingSet
    rows: NDArray[np.int64]  # (n,): windows of `data`
    first_bin: NDArray[np.int64]  # (n,): where each begins on the absolute grid
    frames: FrameTable
    group: NDArray[np.int64]  # (n,): what a bootstrap draws together
    drawn: str  # The kind of groups, in words
    n_test: int  # Held-out windows in all
    n_without: int  # Of these, those whose frame has no caption
    train_frames: NDArray[np.int64]  # Rows of the frames that training windows describe
    n_not_narrated: int = 0  # Of those with a caption, those that a daemon did not narrate

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of each window's frame."""
        return tuple(self.frames.captions[frame] for frame in self.data.frame[self.rows].tolist())

    @property
    def labels(self) -> tuple[str, ...]:
        """Movie and number of each window's frame."""
        return tuple(self.frames.label(frame) for frame in self.data.frame[self.rows].tolist())


def captioned_windows(
    manifest: Manifest,
    dataset: Path,
    *,
    at_most: int,
    may_be_unnamed: bool = False,
    narrated: NDArray[np.int64] | None = None,
) -> CaptionedWindows:
    """Choose held-out windows with captions, evenly thinned.

    Windows are those of the data set at the bundle's lag. With `may_be_unnamed` a bundle that
    names no data set is taken, if its units and window are those of this one. With `narrated`,
    int64, only windows that begin at one of these bins of the absolute grid.

    Raises
    ------
    UserError
        If the bundle was made from another data set, or its captions cannot be scored.
    """
    is_named = bool(manifest.model.training_data.sha256)
    if is_named or not may_be_unnamed:
        _check_same_data(manifest, dataset)
    prepared = load_prepared(dataset, check_hashes=True)
    if not is_named:
        _check_same_units(manifest, prepared, dataset)
    frames = prepared.frames
    has_caption = np.array([bool(caption.strip()) for caption in frames.captions])
    if not has_caption.any():
        raise UserError(
            f"a score compares narrations with captions, and the data set {dataset} has none. Give "
            "'neurrate prepare' --captions FILE or --captioner MODEL; then train and export again."
        )
    data, parts = prepared.windows(manifest.window_spec.lag_ns)
    captioned = parts.test[has_caption[data.frame[parts.test]]]
    n_captioned = len(captioned)
    if narrated is not None:
        is_narrated = np.isin(data.first_bin[captioned], prepared.spans.rows_of(narrated))
        captioned = captioned[is_narrated]
        _check_enough(len(captioned), n_captioned, len(narrated))
    rows = thinned(captioned, at_most)
    distinct = {frames.captions[frame] for frame in data.frame[rows].tolist()}
    if len(distinct) < 2:
        raise UserError(
            "a score compares each narration with captions of other windows, so it needs two "
            f"different captions or more; {len(rows)} held-out windows of {dataset} have "
            f"{len(distinct)}. Take more --windows, or hold out more in 'neurrate prepare'."
        )
    runs_s = run_seconds(data.window)
    group, drawn = _bootstrap_groups(
        movie_runs(data.frame[rows], movie_time(prepared), runs_s),
        [frames.captions[frame] for frame in data.frame[rows].tolist()],
        f"runs of {runs_s:.2g} s of movie time",
    )
    return CaptionedWindows(
        data=data,
        rows=rows,
        first_bin=prepared.spans.bins_of(data.first_bin[rows]),
        frames=frames,
        group=group,
        drawn=drawn,
        n_test=len(parts.test),
        n_without=len(parts.test) - n_captioned,
        n_not_narrated=n_captioned - len(captioned),
        train_frames=np.unique(data.frame[parts.train]),
    )


def selections_of(population: Population, expressions: str) -> list[Selection]:
    """Return the populations to narrate, the two controls last.

    `expressions` are separated by commas; empty takes all units and each area of three or more.

    Raises
    ------
    UserError
        If no unit matches one of them.
    """
    from encoder_training.evaluation.masked_encoder import populations

    wanted = [name for name in split_names(expressions, ",") if name]
    if not wanted:
        wanted = [
            name for name in populations(population) if name == "all" or name.startswith("area:")
        ]
    wanted = [name for name in dict.fromkeys(wanted) if name not in CONTROLS]
    return [population.select(name) for name in (*wanted, *population.controls)]


def session_selections(dataset: Path) -> dict[str, Selection]:
    """Return all units of each session of a pooled data set, by name; of another data set none."""
    sessions = load_facts(dataset).sessions
    if len(sessions) < 2:
        return {}
    of_unit = np.repeat(np.arange(len(sessions)), [session.n_units for session in sessions])
    names = [f"{OF_SESSION}{named(session.session_id)}" for session in sessions]
    return {name: Selection(name, "units", of_unit == at) for at, name in enumerate(names)}


def _bootstrap_groups(
    run: NDArray[np.int64], captions: Sequence[str], runs: str
) -> tuple[NDArray[np.int64], str]:
    """Return what is drawn with each window: its run with all showings, or its caption.

    Whichever there are fewer of: a scene that lasts for several runs, or is shown again, is one
    case and not several. `runs` describes the runs.
    """
    distinct, caption = np.unique(np.array(captions), return_inverse=True)
    if len(distinct) < len(np.unique(run)):
        return caption.astype(np.int64), "captions"
    return run, runs


def _check_enough(n_both: int, n_captioned: int, n_narrated: int) -> None:
    if n_both < FEWEST_NARRATED:
        raise UserError(
            f"{FEWEST_NARRATED} windows or more must have been narrated that the data set holds "
            f"out with captions, and {n_both} of its {n_captioned:,} are among the {n_narrated:,} "
            "that every population narrated. A window is the same only if it begins at the same "
            "bin: with --set window.stride_bins=1 the daemon cuts all of them, with an odd stride "
            "as a rule its share of them. On a replay with --speed max and --set "
            "handover.policy=all it drops none."
        )


def _check_same_units(manifest: Manifest, prepared: PreparedSet, dataset: Path) -> None:
    spec, window = manifest.window_spec, prepared.window
    is_same_window = (window.rate, window.n_bins) == (spec.rate, spec.n_bins)
    if prepared.population != manifest.population or not is_same_window:
        raise UserError(
            f"the bundle {manifest.folder} names no data set, so the one given must have its "
            f"{len(manifest.population)} units and its windows of {spec.n_bins} bins; {dataset} "
            f"has {len(prepared.population)} units and {window.n_bins} bins, and not all are the "
            "same. Prepare a recording of these units under the same conditions (--units, --bins)."
        )


def _check_same_data(manifest: Manifest, dataset: Path) -> None:
    wanted, actual = manifest.model.training_data.sha256, load_facts(dataset).data_sha256
    if not wanted:
        raise UserError(
            f"only a bundle that was made from a data set can be scored, and {manifest.folder} "
            "names none: its weights are random or those of the simulated animal, which "
            "'neurrate simulate score' is for. Make one with 'neurrate train' and 'export'."
        )
    if actual != wanted:
        raise UserError(
            f"the bundle {manifest.folder} was made from a data set with sha256 {wanted[:12]}, and "
            f"{dataset} has {actual[:12]}: its held-out windows may have been trained on. Name "
            "the data set that the encoder was trained on."
        )
