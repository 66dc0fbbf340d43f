"""Choose what a demo plays: recording, encoder, language model, populations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import UserError
from contracts.selection_text import named, topic_names
from evaluation.progress import report
from evaluation.trial import TrialPlan

if TYPE_CHECKING:
    from contracts.population import Population
    from simulation.scenes.movie import SceneMovie

SIMULATED_SECONDS = 40.0  # Default length of the session that the demo simulates: twenty scenes
MAX_SIMULATED_SECONDS = 3600.0  # `neurrate simulate session` writes longer ones
GREY_S = 1.0  # Grey before the first scene, so that each of its windows lies within the session

POPULATIONS = ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled")
"""Narrated side by side: everything, areas, cell types, and a control. CA1 does not see."""

SHOWN = (*POPULATIONS, "silent")
"""The same, and the other control: whoever looks at a narration can see both beside it."""

RULES = """\
[triggers.car_seen]
when = 'probe "car" of VISp > 0.8 for 2 windows'
release = 0.6
refractory_s = 1.0

[triggers.pedestrian_seen]
when = 'probe "pedestrian" of all > 0.8 for 2 windows'
release = 0.6
refractory_s = 1.0

[triggers.dark_said]
when = 'narration of all says "dark"'
refractory_s = 5.0
"""
"""Rules of the simulated animal's demo; they have no sinks, and are published only."""

STRIDE_S = 0.5
"""Between two windows: eight sentences twice a second are as much as a person can read."""

MAX_AREAS = 6  # Areas narrated side by side, those with the most units: more do not fit on a screen
NOISE_TOKENS = 12  # Tokens of a narration by the model with random weights, whose text is noise


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """What was given on the command line; None where nothing was."""

    recording: str | None = None  # NWB file or URL, or the folder of a sorting
    units: str = "all"  # Conditions that a unit must meet
    start: float | None = None  # Part to play, seconds
    seconds: float | None = None
    bundle: Path | None = None
    model: str | None = None  # Folder or hub id of the language model
    # Name and expression of each; none for those that suit the recording
    populations: Mapping[str, str] = field(default_factory=dict)
    rules: Path | None = None  # File of rules that trigger
    speed: str = "1"  # As for ``neurrate stream``
    with_frames: bool = False  # Keep the frames of a simulated session, for who looks at them

    @property
    def is_simulated(self) -> bool:
        """Whether everything is the simulated animal's, as it is without options."""
        return self.recording is None and self.is_trained and self.bundle is None

    @property
    def is_trained(self) -> bool:
        """Whether the encoder was trained, here or elsewhere: its units are given."""
        return self.bundle is not None or (self.recording is None and self.model is None)


def prepare(folder: Path, request: DemoRequest) -> TrialPlan:
    """Make what was not given.

    Raises
    ------
    UserError
        If units are to be chosen for an encoder that has its own.
    """
    if request.is_trained and request.units != "all":
        raise UserError(
            f"--units {request.units} chooses the units of an encoder that is made here; a trained "
            "one has its own. Give --populations to narrate a part of them, or --recording "
            "without --bundle."
        )
    start = request.start
    if request.recording is None and request.seconds is not None and start is None:
        start = 0.0  # a simulated session begins there, whenever its first spike comes
    recording = request.recording or _simulated_session(folder / "session.nwb", request)
    if request.bundle is not None:
        plan = _with_bundle(recording, request.bundle, request.model)
    elif request.is_trained:
        plan = _shipped(recording, folder / "bundle")
    else:
        plan = _random(recording, folder, request)
    rules = _rules(folder, request)
    return replace(
        plan,
        populations=request.populations or plan.populations,
        speed=request.speed,
        start=start,
        seconds=request.seconds,
        settings=(*plan.settings, *rules),
    )


def frames_folder(plan: TrialPlan) -> Path | None:
    """Return where the frames of a simulated session lie; None where none were kept."""
    from simulation.cortex.nwb import movies_folder

    folder = movies_folder(Path(plan.recording))
    return folder if any(folder.glob("*.h5")) else None


def _rules(folder: Path, request: DemoRequest) -> tuple[str, ...]:
    """Return the setting of the rules that were given, or of those of the simulated animal."""
    rules = request.rules
    if rules is None and request.is_simulated and not request.populations:
        rules = folder / "rules.toml"
        rules.write_text(RULES, encoding="utf-8")
    return () if rules is None else (f"triggers.rules={rules.resolve()}",)


def default_populations(population: Population) -> dict[str, str]:
    """Return name and expression of everything, each area that is part of it, and the controls."""
    n_units = Counter(unit.area for unit in population.units)
    areas = [named(area) for area in population.areas if n_units[area] < len(population)]
    return topic_names(["all", *areas[:MAX_AREAS], *population.controls])


def n_scenes(seconds: float) -> int:
    """Return how many scenes, after the grey, fill a session.

    Raises
    ------
    UserError
        If that takes too long to draw.
    """
    from simulation.cortex.schedule import FRAME_S
    from simulation.scenes.scene import SCENE_FRAMES

    if seconds > MAX_SIMULATED_SECONDS:
        raise UserError(
            f"--start and --seconds ask for {seconds:g} s of a simulated session, which may have "
            f"{MAX_SIMULATED_SECONDS:g}. Ask for less, or give a --recording."
        )
    return max(1, math.ceil((seconds - GREY_S) / (SCENE_FRAMES * FRAME_S)))


def _simulated_session(path: Path, request: DemoRequest) -> str:
    """Show the simulated animal scenes that neither the encoder nor the model has seen."""
    from simulation.scenes.movie import random_movie
    from simulation.seeds import UNSEEN_DEMO

    n = n_scenes((request.start or 0.0) + (request.seconds or SIMULATED_SECONDS))
    report(f"demo: showing the simulated animal {n} scenes that no training has used")
    movie = random_movie("natural_movie_unseen", seed=UNSEEN_DEMO, n_scenes=n)
    write_unseen_session(path, movie, with_frames=request.with_frames)
    return str(path)


def write_unseen_session(
    path: Path, movie: SceneMovie, n_times: int = 1, *, with_frames: bool = False
) -> None:
    """Show the simulated animal some grey, and then a movie one or more times."""
    from simulation.cortex.nwb import write_session
    from simulation.cortex.schedule import build_schedule
    from simulation.cortex.units import draw_units
    from simulation.seeds import ANIMAL, UNSEEN_DEMO

    write_session(
        path,
        units=draw_units(ANIMAL),
        schedule=build_schedule([(GREY_S, None, 0), (0.0, movie, n_times)], seed=UNSEEN_DEMO),
        session_seed=UNSEEN_DEMO,
        with_frames=with_frames,
        progress=True,
    )


def _shipped(recording: str, out: Path) -> TrialPlan:
    """Use the trained encoder and language model that come with the package."""
    from evaluation.simulated_encoder import SHIPPED_MODEL, write_shipped_bundle

    report("demo: compiling the encoder of the simulated animal")
    spec = write_shipped_bundle(out, command="neurrate demo").window_spec
    stride_bins = max(1, round(STRIDE_S * spec.rate.bins_per_s))
    populations = {name: name for name in SHOWN}
    return TrialPlan(recording, out, str(SHIPPED_MODEL), populations, stride_bins=stride_bins)


def _with_bundle(recording: str, bundle: Path, model: str | None) -> TrialPlan:
    from contracts.manifest import load_manifest

    manifest = load_manifest(bundle)
    return TrialPlan(
        recording,
        bundle,
        model or manifest.model.language_model.model_id,
        default_populations(manifest.population),
    )


def _random(recording: str, folder: Path, request: DemoRequest) -> TrialPlan:
    """Make an encoder for the recording, and a language model if none is given."""
    from encoder_export.random_bundle import write_random_bundle
    from simulation.tiny_llava import write_random_llava
    from stream_sources.recordings.open_source import open_source

    source = open_source(
        recording, units=request.units, start_s=request.start, duration_s=request.seconds
    )
    try:
        model = request.model
        settings: tuple[str, ...] = ()
        if model is None:
            report("demo: making a small LLaVA with random weights: its text is noise")
            write_random_llava(folder / "tiny-llava")
            model = str(folder / "tiny-llava")
            settings = (f"narrator.max_new_tokens={NOISE_TOKENS}",)
        report(f"demo: making an encoder with random weights for {len(source.population)} units")
        write_random_bundle(
            folder / "bundle",
            population=source.population,
            batches=source.batches(),
            recording_label=source.label,
            model=model,
            command="neurrate demo",
        )
        populations = default_populations(source.population)
    finally:
        source.close()
    return TrialPlan(recording, folder / "bundle", model, populations, settings=settings)
