"""The simulated animal's single units: a planted tuning to light is named in the unit's card."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from contracts.embedding import PatchGrid
from contracts.manifest import LanguageModel
from encoder_training.data_set.counting import CountedIntervals
from encoder_training.data_set.prepared import FrameTable
from encoder_training.data_set.prepared_files import write_prepared
from evaluation.narrations.sbert import word_salads
from evaluation.simulated_encoder import SHIPPED_MODEL, WINDOW, write_shipped_bundle
from neurrate.cli import main
from simulation.captions import caption
from simulation.cortex.units import LUMINANCE, draw_units
from simulation.llava.pictures import draw_pictures
from simulation.llava.tower import patches_of, pixel_values
from simulation.seeds import ANIMAL, LLAVA_TEST
from tests.support.prepared import prepared_set
from tests.support.sentence_models import write_tiny_bert
from tests.support.simulated_animal import animal_population

N_SCENES, SCENE_FRAMES, N_REPEATS = 150, 10, 2
LATENCY_NS = 60_000_000
DARK_HZ, BRIGHT_HZ, UNRELATED_HZ = 30.0, 2.0, 12.0


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Return the results about one unit that fires in the dark and one that fires at random.

    Both are units that the animal has for light; all others are without a spike.
    """
    folder = tmp_path_factory.mktemp("animal")
    pictures = draw_pictures(LLAVA_TEST, N_SCENES)
    write_shipped_bundle(folder / "bundle", command="a test")
    dark, unrelated = _write_data(folder / "data", pictures)
    lines = [
        json.dumps({"frame": frame, "facts": pictures.facts[frame // SCENE_FRAMES].to_json()})
        for frame in range(N_SCENES * SCENE_FRAMES)
    ]
    (folder / "natural_movie_one_facts.jsonl").write_text("\n".join(lines))
    write_tiny_bert(folder / "bert", [*(caption(one) for one in pictures.facts), *word_salads(0)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "evaluation.questions.single_units.choose_units", lambda *_: [dark, unrelated]
        )
        words = [
            "evaluate", "single-units", str(folder / "bundle"), str(folder / "data"),
            "--out", str(folder / "out"), "--windows", "120", "--workers", "1", "--device", "cpu",
            "--sentence-model", str(folder / "bert"), "--facts", str(folder),
        ]  # fmt: skip
        assert main(words) == 0
    units = animal_population().units
    return folder / "out", units[dark].label, units[unrelated].label


def _write_data(folder: Path, pictures) -> tuple[int, int]:
    """Write the data set; return the rows of the unit that follows the light and of the other."""
    n_frames = N_SCENES * SCENE_FRAMES
    small = prepared_set(n_frames=n_frames, n_repeats=N_REPEATS, rate_hz=0.1, held_out="middle")
    population, animal = animal_population(), draw_units(ANIMAL)
    off = {
        str(unit_id)
        for unit_id in animal.unit_id[(animal.kind == LUMINANCE) & (animal.sign < 0)].tolist()
    }
    dark, unrelated = [row for row, unit in enumerate(population.units) if unit.unit_id in off][:2]
    model = LlavaForConditionalGeneration.from_pretrained(SHIPPED_MODEL, dtype=torch.float32).eval()
    with torch.inference_mode():
        patches = patches_of(model.model.vision_tower, pixel_values(pictures.pixels)).numpy()
    is_night = np.array([one.light == "night" for one in pictures.facts]).repeat(SCENE_FRAMES)
    n_bins = len(small.counts)
    at_ns = (np.arange(n_bins) + 0.5) * 1e9 * WINDOW.rate.bins_per_s**-1 - LATENCY_NS
    shown = np.clip(np.searchsorted(small.shown.start_ns, at_ns) - 1, 0, None)
    rng = np.random.default_rng(0)
    counts = np.zeros((n_bins, len(population)), np.uint8)
    rate_hz = np.where(is_night[small.shown.frame[shown]], DARK_HZ, BRIGHT_HZ)
    for unit, hz in ((dark, rate_hz), (unrelated, np.full(n_bins, UNRELATED_HZ))):
        counts[:, unit] = rng.poisson(hz / WINDOW.rate.bins_per_s)
    prepared = replace(
        small,
        population=population,
        window=WINDOW,
        grid=PatchGrid(8, 8, patches.shape[-1]),
        language_model=LanguageModel(model_id=str(SHIPPED_MODEL)),
        spans=CountedIntervals(np.array([0]), np.array([n_bins])),
        counts=counts,
        frames=FrameTable(
            ("natural_movie_one",),
            np.zeros(n_frames, np.int64),
            np.arange(n_frames),
            tuple(caption(one) for one in pictures.facts for _ in range(SCENE_FRAMES)),
        ),
        targets=patches.repeat(SCENE_FRAMES, axis=0).astype(np.float16),
    )
    write_prepared(folder, prepared)
    return dark, unrelated


def _cards(out: Path) -> dict[str, str]:
    """Return the title of each card by unit."""
    page = (out / "single-units-cards.html").read_text(encoding="utf-8")
    return dict(re.findall(r"<h2>(\S+): (.*?)</h2>", page))


def test_the_card_of_a_unit_for_light_names_the_light(answered):
    """The planted unit's card says night; that of the unit without a tuning says nothing."""
    out, dark, unrelated = answered
    cards = _cards(out)
    assert "night" in cards[dark]
    assert cards[unrelated] == "names nothing that depends on the frame"


def test_words_for_the_dark_go_with_its_spikes(answered):
    """The unit that fires in the dark raises the word night by its spikes."""
    out, dark, _ = answered
    with (out / "single-units-words.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["word"]: row for row in csv.DictReader(file) if row["unit"] == dark}
    assert float(rows["night"]["with_spikes_low"]) > 0


def test_effects_vanish_with_labels_of_other_frames(answered):
    """Against frames that were not shown then, no test sees much more than one in twenty."""
    out, *_ = answered
    with (out / "single-units-unrelated-labels.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["test"]: row for row in csv.DictReader(file)}
    assert set(rows) == {
        "decoded patches", "information of narrations", "information of spikes",
    }  # fmt: skip
    for row in rows.values():
        assert row["tests"] == "40"
        assert float(row["rate"]) < 0.2
