"""Inputs of a benchmark; those of the simulated animal are made once and kept."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from contracts.errors import ManifestError, UserError
from contracts.selection_text import named
from evaluation.demo_plan import (
    GREY_S,
    POPULATIONS,
    default_populations,
    write_unseen_session,
)
from evaluation.latency.rules import write_rules

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.population import Population

FOLDER = Path(".bench")  # Default place, in the working folder
MOVIE_SCENES = 30  # A minute of movie, which the animal watches repeatedly


N_SOURCES = 2  # Among which a soak divides the units of a recording of so many probes


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """What is played, through which encoder and model."""

    recording: str  # NWB file or URL, or the folder of a sorting
    bundle: Path
    model: str  # Folder or hub id of the language model
    populations: Mapping[str, str]  # Name and expression of each
    bins_per_s: float  # Of the bundle
    # First session second to send; None for that of the recording's first spike
    start: float | None
    rules: Path | None  # Triggers on the bundle's own probes; None if it has none
    config: Path | None = None  # TOML file for the daemon
    settings: tuple[str, ...] = ()  # For the daemon, as after ``--set``


def prepare_inputs(
    folder: Path,
    *,
    recording: str | None,
    bundle: Path | None,
    model: str | None,
    populations: Mapping[str, str],
    seconds: float,
) -> TrialInputs:
    """Make what was not given, or load it if it was made before.

    Recording and bundle are those of the simulated animal by default, and the language model is the
    bundle's. Without `populations`, those of the demo or of the bundle's areas are taken. A
    recording that is made has `seconds` of session time.

    Raises
    ------
    UserError
        If a recording is given without a bundle for its units.
    """
    from contracts.manifest import load_manifest

    if recording is not None and bundle is None:
        raise UserError(
            f"--recording {recording} needs the encoder of its units: give its --bundle. "
            "'neurrate bundle random' makes one with random weights."
        )
    is_shipped = bundle is None
    manifest = _shipped_bundle(folder) if bundle is None else load_manifest(bundle)
    if recording is None and not is_shipped:
        raise UserError(
            f"--bundle {bundle} needs a recording of its units: give its --recording, too."
        )
    if not populations and is_shipped:
        populations = {name: name for name in POPULATIONS}
    populations = populations or default_populations(manifest.population)
    return TrialInputs(
        recording=recording or str(_simulated_recording(folder, seconds)),
        bundle=manifest.folder,
        model=model or manifest.model.language_model.model_id,
        populations=populations,
        bins_per_s=manifest.window_spec.rate.bins_per_s,
        start=None if recording else 0.0,  # a simulated session begins there
        rules=write_rules(folder, manifest, next(iter(populations))),
    )


def _shipped_bundle(folder: Path) -> Manifest:
    """Export the shipped weights, or load an earlier export of the same weights."""
    from contracts.manifest import load_manifest
    from evaluation.simulated_encoder import SHIPPED_ENCODER, write_shipped_bundle

    digest = hashlib.sha256()
    for path in sorted(SHIPPED_ENCODER.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    path = folder / f"bundle-{digest.hexdigest()[:8]}"
    try:
        return load_manifest(path)
    except ManifestError:  # none, or an unfinished one
        folder.mkdir(parents=True, exist_ok=True)
        return write_shipped_bundle(path, command="neurrate bench", overwrite=path.exists())


def _simulated_recording(folder: Path, seconds: float) -> Path:
    """Show the simulated animal a movie of a minute, as often as needed."""
    from simulation.cortex.schedule import FRAME_S
    from simulation.scenes.movie import random_movie
    from simulation.seeds import UNSEEN_DEMO

    movie = random_movie("natural_movie_unseen", seed=UNSEEN_DEMO, n_scenes=MOVIE_SCENES)
    n_times = max(1, math.ceil((seconds - GREY_S) / (movie.n_frames * FRAME_S)))
    path = folder / f"session-{n_times}min.nwb"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Made elsewhere and moved: another benchmark may be making the same file.
    with TemporaryDirectory(dir=folder, prefix="making-") as own:
        made = Path(own) / path.name
        write_unseen_session(made, movie, n_times)
        return made.replace(path)


def units_of_probes(inputs: TrialInputs) -> tuple[str, ...]:
    """Divide the units of a recording by their probes among two sources, as after ``--units``.

    Empty where that cannot be: of a sorting, and of a recording of one probe.
    """
    from contracts.manifest import load_manifest
    from stream_sources.recordings.open_source import kind_of

    if kind_of(inputs.recording) != "nwb":
        return ()
    return divided(load_manifest(inputs.bundle, check_hashes=False).population)


def divided(population: Population) -> tuple[str, ...]:
    """Return two conditions that select as many units as whole probes allow; none of one probe."""
    n_units = Counter(unit.probe for unit in population.units if unit.probe)
    if len(n_units) < N_SOURCES:
        return ()
    shares: list[set[str]] = [set() for _ in range(N_SOURCES)]
    for probe, _ in n_units.most_common():
        min(shares, key=lambda share: sum(n_units[name] for name in share)).add(probe)
    texts = []
    for share in shares:
        ids = [named(unit.unit_id) for unit in population.units if unit.probe in share]
        texts.append(f"probe:{'|'.join(map(named, sorted(share)))},ids:{'|'.join(ids)}")
    return tuple(texts)
