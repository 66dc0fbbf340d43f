"""The concept probes of the simulated animal's encoder: fitted once, kept beside its weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.binning import BinRate
from contracts.errors import UserError
from contracts.manifest import ENCODER_WEIGHTS
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from evaluation.simulated_encoder.bundle import FACTS, REFERENCES, SHIPPED_ENCODER

if TYPE_CHECKING:
    from encoder_training.probes.probe_files import FittedProbes

CONCEPTS = (
    "away", "bird", "bright", "building", "car", "cyclist", "dark", "dog", "drive", "lamp", "left",
    "night", "pedestrian", "right", "shadow", "tree", "walk",
)  # fmt: skip
"""Words of the simulated captions: what stands there, the light, headings and what is done. Those
left out are in every caption, or other words for one of these."""


def fit_simulated_probes(
    dataset: Path,
    out: Path,
    *,
    encoder: Path = SHIPPED_ENCODER,
    concepts: Sequence[str] = CONCEPTS,
    seed: int = 0,
) -> FittedProbes:
    """Learn, calibrate and test concept probes of an encoder that is trained already.

    Parameters
    ----------
    dataset : Path
        Of 'neurrate prepare', from a session of the same animal: other scenes than the encoder's.
    out : Path
        Folder to write to.
    encoder : Path
        Folder that `train_shipped_encoder` wrote.
    concepts : sequence of str
    seed : int
        Of the random populations and of the bootstrap.

    Returns
    -------
    FittedProbes

    Raises
    ------
    UserError
        If the data set is of other units or another window, or a file is missing.
    """
    from safetensors.numpy import load_file

    from encoder_training.data_set.prepared_files import load_prepared
    from encoder_training.data_set.training_set import Scaling
    from encoder_training.probes.fitting import fit_probes, save_probes
    from encoder_training.weights import load_weights

    if not (encoder / FACTS).is_file():
        raise UserError(f"{encoder} must hold an encoder of 'neurrate simulate train-encoder'.")
    facts = json.loads((encoder / FACTS).read_text(encoding="utf-8"))
    prepared = load_prepared(dataset, check_hashes=True)
    window = WindowSpec(rate=BinRate(**facts["window"].pop("rate")), **facts["window"])
    population = Population([Unit(**unit) for unit in facts["units"]])
    if prepared.population != population or prepared.window.n_bins != window.n_bins:
        raise UserError(
            f"{dataset} must have the {len(population)} units and the {window.n_bins} bins of the "
            f"encoder in {encoder}, got {len(prepared.population)} units and "
            f"{prepared.window.n_bins} bins. Prepare a session of 'neurrate simulate session' with "
            "--units allen."
        )
    arrays = load_file(encoder / REFERENCES)
    data, parts = prepared.windows(window.lag_ns)
    probes = fit_probes(
        prepared,
        data,
        parts,
        load_weights(encoder / ENCODER_WEIGHTS),
        Scaling(arrays["unit_mean"], arrays["unit_std"]),
        concepts=concepts,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    save_probes(probes, out)
    return probes
