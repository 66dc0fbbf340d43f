"""The weights in the package see unseen scenes and belong to the animal that the code draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from contracts.confidence import ConfidenceFile
from contracts.manifest import CONFIDENCE, ENCODER_WEIGHTS, sha256_of
from daemon.confidence import load_confidence
from evaluation.simulated_encoder import (
    SHIPPED_ENCODER,
    SHIPPED_MODEL,
    WINDOW,
    write_shipped_bundle,
)
from simulation.captions import parse
from simulation.llava.language import say
from simulation.llava.pictures import draw_pictures
from simulation.llava.tower import patches_of, pixel_values
from simulation.seeds import LLAVA_TEST
from tests.support.simulated_animal import animal_population

N_SCENES = 100


@pytest.fixture(scope="module")
def model():
    """Return the shipped model, loaded as any LLaVA is."""
    return LlavaForConditionalGeneration.from_pretrained(SHIPPED_MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return the manifest of the shipped bundle."""
    return write_shipped_bundle(tmp_path_factory.mktemp("shipped") / "bundle", command="a test")


def test_model_is_small(model):
    """Under eight million parameters, under twenty megabytes."""
    assert sum(each.numel() for each in model.parameters()) < 8_000_000
    assert sum(path.stat().st_size for path in SHIPPED_MODEL.iterdir()) < 20_000_000


def test_model_says_what_unseen_scenes_show(model):
    """Nine of ten sentences about unseen scenes name just what is there, and how it is."""
    pictures = draw_pictures(LLAVA_TEST, N_SCENES)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
    with torch.inference_mode():
        patches = patches_of(model.model.vision_tower, pixel_values(pictures.pixels))
        said = [parse(text) for text in say(model, tokenizer, patches)]
    kinds = [each.kinds == facts.kinds for each, facts in zip(said, pictures.facts, strict=True)]
    lights = [each.light == facts.light for each, facts in zip(said, pictures.facts, strict=True)]
    counts = [
        bool(each.things) and each.things[0].count == facts.subject.count
        for each, facts in zip(said, pictures.facts, strict=True)
    ]
    assert np.mean(kinds) >= 0.9
    assert np.mean(lights) >= 0.9
    assert np.mean(counts) >= 0.9


def test_bundle_is_of_the_animal(bundle):
    """The encoder takes the units that the code draws today, in their order."""
    assert bundle.population == animal_population()
    assert bundle.window_spec == WINDOW
    assert bundle.model.trained


def test_bundle_has_every_population_of_the_demo(bundle):
    """Areas, cell types and controls can be asked for by name."""
    for name in ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "shuffled", "silent"):
        bundle.population.select(name)


def test_bundle_has_the_calibration_of_these_weights(bundle):
    """Confidence was fitted for the encoder that is shipped: 'train-probes' makes it anew."""
    file = ConfidenceFile.model_validate_json((SHIPPED_ENCODER / CONFIDENCE).read_bytes())
    assert file.weights_sha256 == sha256_of(SHIPPED_ENCODER / ENCODER_WEIGHTS)
    assert load_confidence(bundle) is not None


def test_bundle_has_captioned_frames(bundle):
    """Evidence of a narration is a frame of the training session with its caption."""
    lines = (bundle.folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 200
    assert all("caption" in line for line in lines)
