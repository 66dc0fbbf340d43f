"""Features named live: equal to those of the evaluation, and what a page shows of an animal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import LlavaForConditionalGeneration

from contracts.feature_file import FEATURES_FILE, METADATA, FeatureFile
from contracts.journal_reader import JournalReader
from contracts.manifest import Manifest, load_manifest
from contracts.narration import MAX_FEATURES
from contracts.narration_wire import unpack_narration
from daemon.narrators.features import LEAST_Z
from encoder_training.data_set.prepared_files import load_prepared
from evaluation.caption_scores.narrating import decoded_patches
from evaluation.simulated_encoder import SHIPPED_MODEL, write_shipped_bundle
from simulation.captions.parser import parse
from simulation.cortex.nwb import write_session
from simulation.cortex.schedule import allen_schedule
from simulation.cortex.units import draw_units
from simulation.llava.pictures import draw_pictures
from simulation.llava.tower import patches_of, pixel_values
from simulation.scenes.movie import random_movie
from simulation.seeds import ANIMAL, LLAVA_TEST
from tests.support.browser import OpenPage
from tests.support.captioned_bundle import write_captioned_inputs
from tests.support.feature_files import (
    NAMES,
    autoencoder_of,
    feature_arrays,
    write_feature_file,
)
from tests.support.processes import Neurrate
from tests.system.test_evaluate_live import write_recording

ANY_PORT = "tcp://127.0.0.1:*"
POPULATIONS = ("all", "LGd", "shuffled", "silent")

N_LIVE = 200
"""Narrations of a population that the page has before they are counted."""


def test_live_features_are_those_of_the_evaluation(tiny_llava: Path, tmp_path: Path):
    """Through sockets, a worker and a journal: the same names, and heights to two digits."""
    write_captioned_inputs(tmp_path, tiny_llava, n_frames=72)
    manifest, prepared = load_manifest(tmp_path / "bundle"), load_prepared(tmp_path / "data")
    write_recording(tmp_path / "session.nwb", prepared)
    features = write_feature_file(tmp_path / FEATURES_FILE, manifest)
    play = ("--units-from", tmp_path / "bundle", "--speed", "max", "--wait-subscribers", 2)
    run = (
        "run", "--bundle", tmp_path / "bundle", "--publish", ANY_PORT, "--narrator", "retrieval",
        "--populations", ",".join(POPULATIONS), "--set", "handover.policy=all",
        "--set", "window.stride_bins=1", "--set", f"narrator.features={features}",
        "--set", "narrator.feature_set=all", "--set", "http.enabled=false",
        "--set", "encoder.device=cpu", "--exit-at-end",
    )  # fmt: skip
    words = ("stream", "nwb", tmp_path / "session.nwb", *play, "--bind", ANY_PORT)
    with Neurrate(*words, folder=tmp_path, name="source") as source:
        spikes = source.addresses()["spikes"]
        with Neurrate(*run, "--connect", spikes, folder=tmp_path, name="daemon") as daemon:
            publish = daemon.addresses()["publish"]
            record = ("record", tmp_path / "journal", "--spikes", spikes, "--connect", publish)
            with Neurrate(*record, "--min-free-mb", 1, folder=tmp_path, name="rec") as recorder:
                assert daemon.wait() == 0, daemon.text()
                recorder.signal(signal.SIGINT)
                recorder.wait()
    published = {}
    for message in JournalReader(tmp_path / "journal").messages():
        if message.parts[0].startswith(b"narration."):
            narration = unpack_narration(message.parts[1])
            found = narration.utterance.features
            first_bin = round(narration.window_start_s * manifest.window_spec.rate.bins_per_s)
            published[narration.population, first_bin] = found
    data, parts = prepared.windows(manifest.window_spec.lag_ns)
    rows = parts.test
    selections = [manifest.population.select(name, name) for name in POPULATIONS]
    patches: dict[str, list[np.ndarray]] = {name: [] for name in POPULATIONS}
    for name, some in decoded_patches(data, rows, selections, manifest):
        patches[name] += [*some]
    arrays = feature_arrays(manifest)
    first_bins = prepared.spans.bins_of(data.first_bin[rows]).tolist()
    n_named = 0
    for name, of_windows in patches.items():
        codes = autoencoder_of(arrays).mean_codes(np.stack(of_windows))
        heights = (codes - arrays["reference_mean"]) / arrays["reference_std"]
        for first_bin, z in zip(first_bins, heights, strict=True):
            live = published[name, first_bin]
            assert live is not None
            names = dict.fromkeys(NAMES[at] for at in np.argsort(-z) if z[at] >= LEAST_Z)
            assert [one.name for one in live] == [*names][:MAX_FEATURES]
            for one in live:
                assert one.z == pytest.approx(z[one.feature], abs=0.006)
            n_named += len(live)
    assert n_named > len(first_bins)


def test_a_file_of_another_model_ends_the_start(tiny_llava: Path, tmp_path: Path):
    """Exit code 2, with both models, and no narration."""
    write_captioned_inputs(tmp_path, tiny_llava, n_frames=72)
    manifest = load_manifest(tmp_path / "bundle")
    other = manifest.model.language_model.model_copy(update={"model_id": "some/other-model"})
    features = write_feature_file(tmp_path / "f", manifest, language_model=other)
    run = (
        "run", "--bundle", manifest.folder, "--publish", ANY_PORT, "--narrator", "retrieval",
        "--connect", "tcp://127.0.0.1:1", "--set", "http.enabled=false",
        "--set", f"narrator.features={features}",
    )  # fmt: skip
    with Neurrate(*run, folder=tmp_path, name="daemon") as daemon:
        assert daemon.wait() == 2
        assert "patches of some/other-model" in daemon.text()


@pytest.fixture
def animal_page(tmp_path: Path) -> Iterator[str]:
    """Yield the page of a daemon that names the night, on half a minute of the simulated animal."""
    manifest = write_shipped_bundle(tmp_path / "bundle", command="a test")
    movies = [
        random_movie(name, seed=seed, n_scenes=24, frames_per_scene=15)
        for name, seed in (("natural_movie_one", 71), ("natural_movie_three", 72))
    ]
    write_session(
        tmp_path / "session.nwb",
        units=draw_units(ANIMAL),
        schedule=allen_schedule(
            movies[0], movies[1:], repeats=1, spontaneous_s=1.0, between_s=1.0, pulses_each=0
        ),
        session_seed=1,
    )
    features = _write_night(tmp_path / FEATURES_FILE, manifest)
    run = (
        "run", "--bundle", tmp_path / "bundle", "--publish", ANY_PORT,
        "--populations", "all,cell_type:VIP,CA1,shuffled,silent",
        "--set", "handover.policy=all", "--set", "handover.every=2",
        "--set", "http.enabled=false", "--set", f"narrator.features={features}",
    )  # fmt: skip
    words = (
        "stream", "nwb", tmp_path / "session.nwb", "--units-from", tmp_path / "bundle",
        "--speed", "max", "--bind", ANY_PORT,
    )  # fmt: skip
    with Neurrate(*words, folder=tmp_path, name="source") as source:
        spikes = source.addresses()["spikes"]
        with Neurrate(*run, "--connect", spikes, folder=tmp_path, name="daemon") as daemon:
            publish = daemon.addresses()["publish"]
            page = ("dashboard", "--connect", publish, "--port", 0)
            with Neurrate(*page, folder=tmp_path, name="dashboard") as dashboard:
                yield dashboard.addresses()["page"]


def _write_night(path: Path, manifest: Manifest) -> Path:
    """Write two features: in what patches of the night differ from the others, and the opposite."""
    pictures = draw_pictures(LLAVA_TEST, 120)
    model = LlavaForConditionalGeneration.from_pretrained(SHIPPED_MODEL, dtype=torch.float32).eval()
    with torch.inference_mode():
        patches = patches_of(model.model.vision_tower, pixel_values(pictures.pixels)).numpy()
    is_night = np.array([one.light == "night" for one in pictures.facts])
    mean = patches.mean(axis=0)
    night = (patches[is_night] - mean).mean(axis=(0, 1))
    night /= np.linalg.norm(night)
    activation = np.maximum((patches - mean) @ night, 0).mean(axis=1)
    both = np.stack([night, -night])
    arrays = {
        "mean": mean,
        "encoder": both,
        "bias": np.zeros(2),
        "atoms": both,
        "reference_mean": np.array([activation.mean(), 0]),
        "reference_std": np.array([activation.std(), 0]),
    }
    file = FeatureFile.model_validate(
        {
            "version": 1,
            "language_model": manifest.model.language_model,
            "patch_grid": manifest.model.patch_grid,
            "k": 1,
            "scale": 1.0,
            "names": ["night", "day"],
            "unique_to": [["cell_type:VIP"], []],
            "n_reference": len(patches),
            "bundle": manifest.sha256,
            "data_set": "",
        }
    )
    tensors = {name: array.astype(np.float32) for name, array in arrays.items()}
    save_file(tensors, path, metadata={METADATA: file.model_dump_json()})
    return path


def test_a_page_shows_that_it_is_night(animal_page: str, open_page: OpenPage):
    """Below sentences of all units and of VIP, at night more than by day; not below CA1's."""
    page = open_page(animal_page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#lead .features .name')]"
        ".some((one) => one.textContent === 'night')"
    )
    page.wait_for_function("() => document.querySelector('#lead .features').hidden")
    page.wait_for_function(f"() => window.neurrate.store.narrations.get('all').length > {N_LIVE}")
    named = {name: _named(page, name) for name in ("all", "cell_type_VIP", "CA1", "silent")}
    for name in ("all", "cell_type_VIP"):
        assert named[name]["night"] > named[name]["day"] + 0.05, named
    for name in ("CA1", "silent"):
        assert max(named[name].values()) < 0.1, named


def _named(page: Any, population: str) -> dict[str, float]:
    """Return the share of a population's narrations that name the night, by what was shown."""
    found = page.evaluate(
        "(name) => window.neurrate.store.narrations.get(name).map("
        "(one) => [one.truth, one.features.map((feature) => feature.name)])",
        population,
    )
    of_light: dict[str | None, list[bool]] = {}
    for truth, names in found:
        of_light.setdefault(parse(truth).light, []).append("night" in names)
    return {light: float(np.mean(of_light[light])) for light in ("day", "night")}
