"""What a demo plays: a recording, an encoder for it, a model that speaks, and who is narrated."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import UserError

if TYPE_CHECKING:
    from contracts.population import Population

SIMULATED_SECONDS = 40.0
"""Length of the session that the demo simulates when nobody says: twenty scenes."""

MAX_SIMULATED_SECONDS = 3600.0
"""What is longer is no demo; `neurrate simulate session` writes any length."""

GREY_S = 1.0
"""Before the first scene, so that every window of it has something to look back on."""

POPULATIONS = ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled")
"""Narrated side by side: everything, areas, cell types, and a control. CA1 does not see."""

STRIDE_S = 0.5
"""Between two windows: eight sentences twice a second are as much as anybody can read."""

MAX_AREAS = 6
"""Areas narrated side by side, those with the most units: more do not fit on a screen."""

NOISE_TOKENS = 12
"""Words of the model with random weights: enough to see that it speaks."""


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """What was asked for; None where nobody said.

    Attributes
    ----------
    recording : str or None
        NWB file or URL, or the folder of a sorting.
    units : str
        Conditions that a unit must meet.
    start, seconds : float or None
        Part to play, seconds.
    bundle : Path or None
        Encoder.
    model : str or None
        Folder or hub id of the language model.
    """

    recording: str | None = None
    units: str = "all"
    start: float | None = None
    seconds: float | None = None
    bundle: Path | None = None
    model: str | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the encoder was trained, here or elsewhere: its units are given."""
        return self.bundle is not None or (self.recording is None and self.model is None)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is played.

    Attributes
    ----------
    recording : str
        NWB file or URL, or the folder of a sorting.
    bundle : Path
        Encoder, whose units are sent.
    model : str
        Folder or hub id of the language model.
    populations : tuple of str
        Narrated when nobody says, in the order in which they are shown.
    settings : tuple of str
        For the daemon, as after ``--set``.
    """

    recording: str
    bundle: Path
    model: str
    populations: tuple[str, ...]
    settings: tuple[str, ...] = ()


def prepare(folder: Path, asked: DemoRequest) -> DemoPlan:
    """Make what was not given.

    Parameters
    ----------
    folder : Path
        For what is made.
    asked : DemoRequest

    Returns
    -------
    DemoPlan

    Raises
    ------
    UserError
        If units are to be chosen for an encoder that has its own.
    """
    if asked.is_trained and asked.units != "all":
        raise UserError(
            f"--units {asked.units} chooses the units of an encoder that is made here; a trained "
            "one has its own. Give --populations to narrate a part of them, or --recording "
            "without --bundle."
        )
    recording = asked.recording or _simulated_session(folder / "session.nwb", asked)
    if asked.bundle is not None:
        return _with_bundle(recording, asked.bundle, asked.model)
    if asked.is_trained:
        return _shipped(recording, folder / "bundle")
    return _random(recording, folder, asked)


def default_populations(population: Population) -> tuple[str, ...]:
    """Return everything, each area that is a part of it, and the controls that can be."""
    areas = [area for area in population.areas if population.select(area).n_units < len(population)]
    controls = ["shuffled", "silent"] if len(population) > 1 else ["silent"]
    return ("all", *areas[:MAX_AREAS], *controls)


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


def _simulated_session(path: Path, asked: DemoRequest) -> str:
    """Show the simulated animal scenes that neither the encoder nor the model has seen."""
    from simulation.cortex.nwb import write_session
    from simulation.cortex.schedule import build_schedule
    from simulation.cortex.units import draw_units
    from simulation.scenes.movie import random_movie
    from simulation.seeds import ANIMAL, UNSEEN_DEMO

    n = n_scenes((asked.start or 0.0) + (asked.seconds or SIMULATED_SECONDS))
    say(f"showing the simulated animal {n} scenes that nobody has seen before")
    movie = random_movie("natural_movie_unseen", seed=UNSEEN_DEMO, n_scenes=n)
    write_session(
        path,
        units=draw_units(ANIMAL),
        schedule=build_schedule([(GREY_S, None, 0), (0.0, movie, 1)], seed=UNSEEN_DEMO),
        session_seed=UNSEEN_DEMO,
        with_frames=False,
        progress=True,
    )
    return str(path)


def _shipped(recording: str, out: Path) -> DemoPlan:
    """Return the model and the encoder that came with the package: they have learned."""
    from evaluation.simulated_encoder.bundle import SHIPPED_MODEL, write_shipped_bundle

    say("compiling the encoder of the simulated animal")
    spec = write_shipped_bundle(out, command="neurrate demo").window_spec
    stride_bins = max(1, round(STRIDE_S * spec.rate.bins_per_s))
    return DemoPlan(
        recording,
        out,
        str(SHIPPED_MODEL),
        POPULATIONS,
        (f"window.stride_bins={stride_bins}",),
    )


def _with_bundle(recording: str, bundle: Path, model: str | None) -> DemoPlan:
    from contracts.manifest import load_manifest

    manifest = load_manifest(bundle)
    return DemoPlan(
        recording,
        bundle,
        model or manifest.model.language_model.model_id,
        default_populations(manifest.population),
    )


def _random(recording: str, folder: Path, asked: DemoRequest) -> DemoPlan:
    """Make an encoder for the recording, and a language model if there is none."""
    from encoder_export.random_bundle import write_random_bundle
    from stream_sources.recordings.open_source import open_source

    source = open_source(
        recording, units=asked.units, start_s=asked.start, duration_s=asked.seconds
    )
    try:
        model = asked.model
        settings: tuple[str, ...] = ()
        if model is None:
            model, settings = _random_llava(folder / "tiny-llava")
        say(f"making an encoder with random weights for {len(source.population)} units")
        write_random_bundle(
            folder / "bundle",
            population=source.population,
            batches=source.batches(),
            recording_label=source.label,
            model=model,
            size="tiny" if asked.model is None else "paper",
            command="neurrate demo",
        )
        populations = default_populations(source.population)
    finally:
        source.close()
    return DemoPlan(recording, folder / "bundle", model, populations, settings)


def _random_llava(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Write a LLaVA with random weights; return its folder, and settings for the daemon."""
    from simulation.tiny_llava import write_random_llava

    say("making a small LLaVA with random weights: its sentences are noise")
    write_random_llava(folder)
    return str(folder), (f"narrator.max_new_tokens={NOISE_TOKENS}",)


def say(message: str) -> None:
    """Tell a person what the demo does, on standard error."""
    print(f"demo: {message}", file=sys.stderr, flush=True)
