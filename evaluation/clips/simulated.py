"""The simulated animal sees a schedule, and the daemon narrates its spikes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, seconds_to_ns
from contracts.errors import MisuseError, UserError
from contracts.narration import Narration, Status
from contracts.progress import ProgressBar
from contracts.selection_text import topic_names
from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.clips.narrations import ClipNarrations, Showing, narrations_of_clips
from evaluation.clips.schedule import Presentation
from evaluation.narrations.narrators import narrate_frames, populations_of
from evaluation.narrations.scenes import check_animal
from evaluation.narrations.windows import frames_of, scene_windows, with_stride
from evaluation.progress import report
from evaluation.trial import QUEUE_MESSAGES, TrialPlan, run_trial
from simulation.cortex.drive import GREY
from simulation.cortex.schedule import FRAME_S, build_schedule
from simulation.scenes.movie import SceneMovie
from simulation.scenes.scene import HEIGHT, SCENE_FRAMES, WIDTH

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.window import WindowSpec
    from evaluation.clips.experiment import Experiment
    from evaluation.clips.kept import KeptNarrations
    from simulation.cortex.schedule import Block

WINDOWS_OF_CLIP = 2
"""About so many windows of each clip are narrated: more of them share their spikes."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipSession:
    """A recording of an animal that saw a schedule."""

    recording: Path  # NWB file, whose stimuli have the names of the clips
    showings: tuple[Showing, ...]
    blocks: tuple[Block, ...]  # One for each showing

    def frame_at(self, session_ns: int) -> NDArray[np.uint8]:
        """Return the frame on the screen at a time, shape (304, 608), uint8."""
        session_s = session_ns / NS_PER_S
        for block in self.blocks:
            if block.movie is not None and block.start_s[0] <= session_s < block.stop_s[-1]:
                at = int(np.searchsorted(block.start_s, session_s, side="right")) - 1
                frame: NDArray[np.uint8] = block.movie.frames(at, at + 1)[0]
                return frame
        return np.full((HEIGHT, WIDTH), GREY, np.uint8)


def record_clips(
    recording: Path,
    experiment: Experiment,
    schedule: Sequence[Presentation],
    manifest: Manifest,
) -> ClipSession:
    """Show a schedule to the simulated animal and write its spikes.

    Raises
    ------
    UserError
        If the clips are files, are too long for a scene, or the bundle is of another animal.
    """
    from simulation.cortex.drive import build_response_model
    from simulation.cortex.nwb import write_session
    from simulation.cortex.units import draw_units
    from simulation.seeds import ANIMAL

    table = experiment.table
    n_frames = round(table.clip_seconds / FRAME_S)
    if not experiment.is_simulated:
        raise UserError(
            f"{experiment.path} has clips of your own, which the simulated animal cannot see. Show "
            "them at a rig ('neurrate clips schedule', then 'score'), or give features."
        )
    if n_frames > SCENE_FRAMES:
        raise UserError(
            f"clip_seconds of {experiment.path} may be {SCENE_FRAMES * FRAME_S:.1f} at most for "
            f"simulated clips, got {table.clip_seconds:g}."
        )
    units = draw_units(ANIMAL)
    check_animal(manifest, units)
    movies = {
        pair.clip(has_feature=has_feature): SceneMovie(
            pair.clip(has_feature=has_feature), (pair.scenes[0 if has_feature else 1],), n_frames
        )
        for pair in experiment.pairs
        if pair.scenes is not None
        for has_feature in (True, False)
    }
    parts: list[tuple[float, SceneMovie | None, int]] = []
    for one in schedule:
        parts += [(table.gap_seconds, None, 0), (0.0, movies[one.clip], 1)]
    parts.append((max(1.0, table.gap_seconds), None, 0))
    shown = build_schedule(parts, seed=table.seed)
    write_session(
        recording,
        units=units,
        schedule=shown,
        session_seed=table.seed,
        with_frames=False,
        progress=True,
        response=build_response_model(units),
    )
    blocks = tuple(block for block in shown.blocks if block.movie is not None)
    edges = [
        seconds_to_ns(np.array([block.start_s[0], block.stop_s[-1]])).tolist() for block in blocks
    ]
    showings = tuple(
        Showing(one.presentation, start, stop)
        for one, (start, stop) in zip(schedule, edges, strict=True)
    )
    return ClipSession(recording, showings, blocks)


def narrate_session(
    session: ClipSession,
    manifest: Manifest,
    model: str,
    expressions: Mapping[str, str],
    folder: Path,
    kept: KeptNarrations,
) -> ClipNarrations:
    """Narrate the spikes of a session through a source and a daemon, and the frames themselves.

    `expressions` are populations by name. Processes keep their logs in `folder`. What is `kept` is
    not narrated again.

    Raises
    ------
    UserError
        If a clip is too short for a window of the bundle.
    """
    start_ns = np.array([showing.start_ns for showing in session.showings])
    stop_ns = np.array([showing.stop_ns for showing in session.showings])
    try:
        longest = with_stride(manifest.window_spec, int((stop_ns - start_ns).min()))
    except MisuseError as error:
        raise UserError(f"clip_seconds is too small for this bundle: {error}.") from error
    stride = max(1, longest.stride_bins // WINDOWS_OF_CLIP)
    spec = replace(manifest.window_spec, stride_bins=stride)
    plan = TrialPlan(
        recording=str(session.recording),
        bundle=manifest.folder,
        model=model,
        populations=expressions,
        stride_bins=stride,
        narrator_mode="sequential",
        speed="max",
        queue_messages=QUEUE_MESSAGES,
    )
    if kept.has_others_alone:
        report(
            f"clips: the narrations in {kept.path} are of another experiment, bundle, model or "
            "settings, and none of them is used"
        )
    narrations = _narrate_spikes(plan, spec, folder, int(stop_ns.max()) / NS_PER_S, kept)
    found = narrations_of_clips(narrations, session.showings)
    windows = scene_windows(spec, start_ns, stop_ns).tolist()
    texts = _narrate_frames(session, spec, windows, manifest, model, kept)
    for showing, text in zip(session.showings, texts, strict=True):
        found.add(TRUE_PATCHES, None, showing.presentation, text)
    return found


def _narrate_spikes(
    plan: TrialPlan, spec: WindowSpec, folder: Path, end_s: float, kept: KeptNarrations
) -> list[Narration]:
    """Return the narrations of all windows, in order of windows and of the plan's populations."""
    known = kept.narrations()
    if not kept.is_whole:
        seq = _first_to_narrate(known, len(plan.populations))
        if seq is None:
            start_s = 0.0
        else:
            start_s = spec.rate.start_ns(seq * spec.stride_bins) / NS_PER_S
            plan = replace(plan, start=start_s)
            report(f"clips: {len(known):,} narrations are kept; going on at {start_s:.1f} s")
        span_s = (start_s, end_s)
        result = run_trial(plan, folder, title="clips", span_s=span_s, keep=kept.keep)
        known |= result.narrations
        if not _failed(known):
            kept.end()
    order = {name: at for at, name in enumerate(plan.populations)}
    return [known[key] for key in sorted(known, key=lambda key: (key[0], order[key[1]]))]


def _failed(known: Mapping[tuple[int, str], Narration]) -> list[int]:
    """Return the numbers of windows with a narration that failed, as where memory ran out."""
    return [seq for (seq, _), one in known.items() if one.utterance.status is Status.FAILED]


def _first_to_narrate(known: Mapping[tuple[int, str], Narration], n_populations: int) -> int | None:
    """Return the number of the window at which a session goes on; None for all.

    That is the first that failed, or the last: not all of its populations may be there. Where
    populations take turns, the first of them must be the first again.
    """
    n_of_window = Counter(seq for seq, _ in known)
    if len(n_of_window) < 2:
        return None
    first, last = min(n_of_window), min([max(n_of_window), *_failed(known)])
    n_turns = -(-n_populations // max(n_of_window.values()))
    seq = last - (last - first) % n_turns
    return None if seq == first else seq


def _narrate_frames(
    session: ClipSession,
    spec: WindowSpec,
    windows: Sequence[int],
    manifest: Manifest,
    model: str,
    kept: KeptNarrations,
) -> list[str]:
    """Narrate the frame that each window describes."""
    known = kept.frame_texts()
    if len(known) == len(windows):
        return known
    with ProgressBar(
        total=len(windows), initial=len(known), desc="narrating the frames", unit="frame"
    ) as bar:

        def keep(texts: Sequence[str]) -> None:
            kept.keep_frame_texts(len(known), texts)
            known.extend(texts)
            bar.update(len(texts))

        left = frames_of(session.frame_at, spec, windows[len(known) :])
        narrate_frames(left, manifest, model, keep=keep)
    return known


def expressions_of(experiment: Experiment, manifest: Manifest) -> dict[str, str]:
    """Return the populations to narrate, by name: those of the experiment, and the controls."""
    population = manifest.population
    if not experiment.table.populations:
        return populations_of(population)
    named = topic_names(experiment.table.populations)
    for name, expression in named.items():
        population.select(name, expression)
    return named | {name: name for name in population.controls}
