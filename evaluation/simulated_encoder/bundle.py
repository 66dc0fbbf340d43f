"""The encoder of the simulated animal: trained once, kept as weights, exported to a bundle.

The weights in the package are half the size of a bundle and hold nothing that a graph of another
onnx version would not; exporting them takes seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import simulation
from contracts.binning import BinRate
from contracts.errors import UserError
from contracts.manifest import CAPTIONS, ENCODER_WEIGHTS, LanguageModel, Manifest, TrainingData
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from evaluation.simulated_encoder.session import BundleRecipe, references_of, simulate_training_set

if TYPE_CHECKING:
    from collections.abc import Callable

    from encoder_training.data_set.training_set import TrainingSet
    from encoder_training.history import TrainingEpoch
    from encoder_training.training import TrainingResult

SHIPPED = Path(simulation.__file__).parent / "weights"
SHIPPED_MODEL = SHIPPED / "tiny-llava"
"""The trained tiny LLaVA: a folder that ``from_pretrained`` loads."""

SHIPPED_ENCODER = SHIPPED / "encoder"
FACTS = "encoder.json"
REFERENCES = "references.safetensors"
PROBES = "probes.safetensors"
"""Concept probes, where there are some: `evaluation.simulated_encoder.probes`."""
LEARNING_RATE = 1e-3
"""Three times the paper's: a fifth of its weights, and a tenth of its passes."""


def train_shipped_encoder(
    out: Path,
    model: Path,
    recipe: BundleRecipe,
    *,
    command: str,
    on_epoch: Callable[[TrainingEpoch], None] | None = None,
) -> TrainingResult:
    """Simulate the session, train the encoder, and write its weights.

    Parameters
    ----------
    out : Path
        Folder to write.
    model : Path
        Folder of the LLaVA whose patches are predicted.
    recipe : BundleRecipe
        Length of the session and of the training.
    command : str
        What is running, for the record.
    on_epoch : callable, optional
        Is given each row of the log.

    Returns
    -------
    TrainingResult

    Raises
    ------
    UserError
        If there is an encoder already.
    """
    if (out / FACTS).exists():
        raise UserError(f"{out} holds a trained encoder already. Choose a new folder.")
    from encoder_training.model import EncoderSpec
    from encoder_training.options import TrainingOptions
    from encoder_training.training import train_encoder

    data, grid = simulate_training_set(model, recipe)
    trained = train_encoder(
        EncoderSpec.small(data.n_units, grid),
        data,
        TrainingOptions(
            training_epochs=recipe.epochs,
            learning_rate=LEARNING_RATE,
            precision="bfloat16",
            seed=recipe.seed,
        ),
        on_epoch,
    )
    _write(out, trained, data, recipe, model=model, command=command)
    return trained


def write_shipped_bundle(
    out: Path, *, command: str, overwrite: bool = False, encoder: Path = SHIPPED_ENCODER
) -> Manifest:
    """Export the weights in the package to a bundle.

    Parameters
    ----------
    out : Path
        Folder to write.
    command : str
        What made it, for the manifest.
    overwrite : bool
        Replace a bundle that is there.
    encoder : Path
        Folder that `train_shipped_encoder` wrote.

    Returns
    -------
    Manifest

    Raises
    ------
    UserError
        If the weights are not there.
    """
    from safetensors.numpy import load_file

    from encoder_export.bundle import BundleFacts, ReferenceFrame, write_bundle
    from encoder_training.data_set.training_set import Scaling
    from encoder_training.weights import load_weights

    if not (encoder / FACTS).is_file():
        raise UserError(
            f"{encoder} must hold an encoder's weights and {FACTS}. Make them with 'neurrate "
            "simulate train-encoder'."
        )
    facts = json.loads((encoder / FACTS).read_text(encoding="utf-8"))
    arrays = load_file(encoder / REFERENCES)
    texts = (encoder / CAPTIONS).read_text(encoding="utf-8").splitlines()
    references = [
        ReferenceFrame(mean_patch=patch.astype(np.float32), **json.loads(line))
        for patch, line in zip(arrays["mean_patch"], texts, strict=True)
    ]
    window = facts["window"]
    return write_bundle(
        out,
        load_weights(encoder / ENCODER_WEIGHTS),
        BundleFacts(
            population=Population([Unit(**unit) for unit in facts["units"]]),
            scaling=Scaling(arrays["unit_mean"], arrays["unit_std"]),
            window=WindowSpec(BinRate(**window.pop("rate")), **window),
            language_model=LanguageModel(model_id=facts.get("model") or str(SHIPPED_MODEL)),
            training_data=TrainingData(recording=facts["recording"]),
            trained=True,
            command=command,
            scores=facts["scores"],
        ),
        references=references,
        more_files=[path for path in (encoder / PROBES,) if path.is_file()],
        overwrite=overwrite,
    )


def _write(
    out: Path,
    trained: TrainingResult,
    data: TrainingSet,
    recipe: BundleRecipe,
    *,
    model: Path,
    command: str,
) -> None:
    from safetensors.numpy import save_file

    from encoder_training.weights import save_weights

    out.mkdir(parents=True, exist_ok=True)
    save_weights(trained.encoder.half(), out / ENCODER_WEIGHTS)
    trained.encoder.float()
    patches, lines = references_of(data, recipe, trained.validation_groups)
    save_file(
        {
            "mean_patch": patches.astype(np.float16),
            "unit_mean": trained.scaling.mean,
            "unit_std": trained.scaling.std,
        },
        out / REFERENCES,
    )
    (out / CAPTIONS).write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    best = max(trained.history, key=lambda row: row.validation_cosine)
    facts: dict[str, Any] = {
        "recording": f"a simulated session of {len(data.counts) / data.window.rate.bins_per_s:.0f} "
        f"s, day {recipe.seed}",
        "command": command,
        "model": "" if model == SHIPPED_MODEL else str(model.resolve()),
        "recipe": asdict(recipe),
        "window": asdict(data.window),
        "scores": {"validation_cosine": round(best.validation_cosine, 4)},
        "units": [asdict(unit) for unit in data.population.units],
    }
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
