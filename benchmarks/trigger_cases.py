"""What the benchmark of triggers runs on: bundles with random probes, rules, spikes, a narrator.

The probes are random directions in the space of the mean patch, each centred on what the encoder
makes of Poisson counts: from window to window each crosses even odds about half of the time, so
that nearly every window triggers something, and what it triggers means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch  # noqa: TID253 - networks are made and run here
from numpy.typing import NDArray

from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.manifest import ENCODER_WEIGHTS, LanguageModel, Manifest, TrainingData
from contracts.population import Population, Unit
from contracts.window import Window, WindowSpec
from encoder_export.bundle import BundleFacts, ReferenceFrame, write_bundle
from encoder_export.onnx_graph import CountEncoder
from encoder_training.data_set.training_set import Scaling
from encoder_training.model import EncoderNetwork, EncoderSpec, PatchEncoder
from encoder_training.probes.probe_files import FittedProbes, save_probes
from encoder_training.weights import load_weights
from evaluation.latency.rules import rules_text
from evaluation.simulated_encoder import SHIPPED_ENCODER, SHIPPED_MODEL
from simulation.tiny_llava import write_random_llava

SAMPLING_HZ = 30_000
N_PROBES = 4
N_CALIBRATION = 64
"""Windows that the probes are centred on."""

N_AREAS = 7
"""With all units, eight populations."""

PAPER_UNITS = 2_000
QUICK_UNITS = 40
RATE = BinRate(120)
N_BINS = 20
POOLED = ("all", *(f"area{number}" for number in range(N_AREAS)))


@dataclass(frozen=True, slots=True)
class TriggerSize:
    """One size of encoder, ready to be run.

    Attributes
    ----------
    name : str
    manifest : Manifest
        Of a bundle with probes.
    recording : Path
        A sorting of its units.
    rules : Path
    model : Path
        Folder of a language model that takes its patches.
    backend : str
        The narrator's.
    """

    name: str
    manifest: Manifest
    recording: Path
    rules: Path
    model: Path
    backend: str = "llava"

    def window(self, seed: int) -> Window:
        """Draw a window of Poisson counts."""
        rng = np.random.default_rng(seed)
        shape = (self.manifest.window_spec.n_bins, len(self.manifest.population))
        counts = rng.poisson(self.manifest.unit_mean, shape).astype(np.uint16)
        return Window(spec=self.manifest.window_spec, first_bin=0, counts=counts)


def make_tiny(folder: Path, *, seconds: float, seed: int) -> TriggerSize:
    """Take the encoder and the language model of the simulated animal."""
    facts = json.loads((SHIPPED_ENCODER / "encoder.json").read_text(encoding="utf-8"))
    scaling = poisson_rates(len(facts["units"]))
    encoder = load_weights(SHIPPED_ENCODER / ENCODER_WEIGHTS)
    return _make(folder, "tiny", encoder, scaling, SHIPPED_MODEL, seconds=seconds, seed=seed)


def make_paper(folder: Path, *, seconds: float, seed: int, is_quick: bool) -> TriggerSize:
    """Draw an encoder of the paper's size, and a small language model that takes its patches."""
    grid = PatchGrid(4, 4, 32) if is_quick else PatchGrid(24, 24, 1024)
    n_units = QUICK_UNITS if is_quick else PAPER_UNITS
    spec = EncoderSpec(n_units, grid)
    if is_quick:
        tiny = EncoderSpec.tiny(n_units, grid)
        spec = replace(tiny, time_layers=1, patch_layers=1)  # tracing takes a time for each
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PatchEncoder(spec).eval()
    model = folder / "paper-llava"
    if not is_quick:
        write_random_llava(model, seed=seed, grid=grid)
    made = _make(
        folder, "paper", encoder, poisson_rates(n_units), model, seconds=seconds, seed=seed
    )
    return replace(made, backend="retrieval") if is_quick else made  # which loads in no time


def _make(
    folder: Path,
    name: str,
    encoder: EncoderNetwork,
    scaling: Scaling,
    model: Path,
    *,
    seconds: float,
    seed: int,
) -> TriggerSize:
    rng = np.random.default_rng(seed)
    probes = folder / f"{name}-probes"
    probes.mkdir()
    random = _probes(encoder, scaling, rng)
    save_probes(random, probes)
    units = [
        Unit(unit_id=str(row), area=POOLED[1 + row % N_AREAS]) for row in range(len(scaling.mean))
    ]
    facts = BundleFacts(
        population=Population(units),
        scaling=scaling,
        window=WindowSpec(RATE, n_bins=N_BINS, stride_bins=N_BINS),
        language_model=LanguageModel(model_id=str(model)),
        training_data=TrainingData(recording="benchmark"),
        trained=False,
        command="benchmarks",
        scores={},
    )
    manifest = write_bundle(
        folder / f"{name}-bundle",
        encoder,
        facts,
        references=[ReferenceFrame("0", "a frame", np.ones(random.weight.shape[1], np.float32))],
        more_files=sorted(probes.iterdir()),
    )
    rules = folder / f"{name}-rules.toml"
    rules.write_text(rules_text(random.concepts, "all"), encoding="utf-8")
    recording = folder / f"{name}-sorting"
    write_sorting(recording, scaling.mean, seconds, rng)
    return TriggerSize(name, manifest, recording, rules, model)


def poisson_rates(n_units: int) -> Scaling:
    """Return rates of 0.5 to 30 spikes a second, and their Poisson standard deviation."""
    mean = (np.geomspace(0.5, 30, n_units) / RATE.bins_per_s).astype(np.float32)
    return Scaling(mean, np.sqrt(mean))


def _probes(encoder: EncoderNetwork, scaling: Scaling, rng: np.random.Generator) -> FittedProbes:
    """Draw directions, and centre them on what the encoder makes of Poisson counts."""
    means = _mean_patches(encoder, scaling, rng)
    weight = rng.normal(size=(N_PROBES, means.shape[1])).astype(np.float32)
    score = means @ weight.T
    weight /= score.std(axis=0)[:, None]
    ones = np.ones((1, N_PROBES), np.float32)
    return FittedProbes(
        concepts=tuple(f"direction {number}" for number in range(N_PROBES)),
        populations=("all",),
        weight=weight,
        bias=-np.median(means @ weight.T, axis=0),
        scale=ones,
        offset=0 * ones,
        auc=np.nan * ones,
    )


def _mean_patches(
    encoder: EncoderNetwork, scaling: Scaling, rng: np.random.Generator
) -> NDArray[np.float32]:
    model = CountEncoder(encoder, scaling).eval()
    found = []
    with torch.inference_mode():
        for _ in range(N_CALIBRATION):
            counts = rng.poisson(scaling.mean, (1, N_BINS, len(scaling.mean))).astype(np.float32)
            mask = torch.ones(1, len(scaling.mean))
            found.append(model(torch.from_numpy(counts), mask).mean(dim=1).numpy()[0])
    return np.stack(found)


def write_sorting(
    folder: Path,
    mean: NDArray[np.float32],
    seconds: float,
    rng: np.random.Generator,
    *,
    first_unit: int = 0,
) -> None:
    """Write Poisson trains as Kilosort does; the units have consecutive numbers."""
    folder.mkdir()
    # A unit without a spike would be missing from the recording.
    n_spikes = np.maximum(1, rng.poisson(mean * RATE.bins_per_s * seconds))
    cluster = np.repeat(np.arange(len(mean), dtype=np.int32), n_spikes)
    samples = rng.integers(0, int(seconds * SAMPLING_HZ), len(cluster))
    order = np.argsort(samples, kind="stable")
    np.save(folder / "spike_times.npy", samples[order])
    np.save(folder / "spike_clusters.npy", first_unit + cluster[order])
    (folder / "params.py").write_text(f"sample_rate = {SAMPLING_HZ}.\n", encoding="utf-8")


def populations(n: int) -> Sequence[str]:
    """Return the first of eight populations."""
    return POOLED[:n]
