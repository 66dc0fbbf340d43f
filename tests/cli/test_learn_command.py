"""``neurrate learn``: one command from a recording to a bundle that the daemon runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.manifest import load_manifest
from contracts.window import Window
from daemon.encoders.auto import load_encoder
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import narrate
from daemon.service.settings import NarratorSettings
from evaluation.simulated_encoder import SHIPPED_MODEL
from neurrate.cli import main
from simulation.cortex.nwb import write_session
from simulation.cortex.schedule import allen_schedule
from simulation.cortex.units import draw_units
from simulation.scenes.movie import random_movie
from tests.support.pictures import no_drawing


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.timeout(900)  # three commands twice, on a busy machine
def test_one_command_makes_a_bundle_that_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given again it finds all done, the bundle stays the same, and the daemon's rooms run it."""
    session = write_session(
        tmp_path / "day.nwb",
        units=draw_units(3, 60),
        schedule=allen_schedule(
            random_movie("natural_movie_one", seed=61, n_scenes=10, frames_per_scene=15),
            [random_movie("natural_movie_three", seed=62, n_scenes=2, frames_per_scene=15)],
            repeats=2,
            spontaneous_s=1.0,
            between_s=2.0,
            pulses_each=0,
        ),
        session_seed=1,
    )
    out = tmp_path / "out"
    words = ["learn", str(session.path), str(out), "--frames", str(session.movies)]
    words += ["--model", str(SHIPPED_MODEL), "--size", "tiny", "--training-epochs", "1"]
    with no_drawing():
        assert main([*words, "--device", "cpu"]) == 0
    manifest = load_manifest(out / "bundle")
    capsys.readouterr()
    assert main([*words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"{out / 'data'} is finished" in printed
    assert f"{out / 'run'} is finished" in printed
    assert f"{out / 'bundle'} is finished" in printed
    assert load_manifest(out / "bundle").sha256 == manifest.sha256

    encoder = load_encoder(manifest, [manifest.population.select("all")], device="cpu")
    spec = manifest.window_spec
    counts = np.zeros((spec.n_bins, len(manifest.population)), dtype=np.uint16)
    embeddings = encoder.encode([Window(spec, 0, counts)])
    narrator = load_narrator(NarratorSettings(), manifest)
    assert narrate(narrator, embeddings)[0].text
