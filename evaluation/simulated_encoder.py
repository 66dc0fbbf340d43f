"""The encoder of the simulated animal: trained once, kept as weights, exported to a bundle.

Training is that of any recording: a session is simulated, prepared and trained on. What is kept of
the run is half the size of a bundle and holds nothing that a graph of another onnx version would
not; `write_shipped_bundle` exports it in seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

import simulation
from contracts.atomic_files import write_json
from contracts.binning import BinRate
from contracts.errors import UserError
from contracts.manifest import (
    CAPTIONS,
    CONFIDENCE,
    CONFIDENCE_ARRAYS,
    ENCODER_WEIGHTS,
    PROBES,
    LanguageModel,
    Manifest,
    TrainingData,
    sha256_of,
)
from contracts.population import Population, Unit
from contracts.window import WindowSpec

if TYPE_CHECKING:
    from encoder_training.data_set.prepared import PreparedSet
    from encoder_training.data_set.training_set import Scaling
    from encoder_training.model import EncoderNetwork
    from encoder_training.probes.probe_files import FittedProbes

SHIPPED = Path(simulation.__file__).parent / "weights"
SHIPPED_MODEL = SHIPPED / "tiny-llava"
"""The trained tiny LLaVA: a folder that ``from_pretrained`` loads."""

SHIPPED_ENCODER = SHIPPED / "encoder"
FACTS = "encoder.json"
REFERENCES = "references.safetensors"

BESIDE_WEIGHTS = (PROBES, CONFIDENCE, CONFIDENCE_ARRAYS)
"""Files of a run that its bundle has as they are, if the run has them."""

WINDOW = WindowSpec(rate=BinRate(120), n_bins=20, stride_bins=8, lag_ns=100_000_000)
"""The paper's 20 bins of 1/120 s, fifteen windows a second. Latencies are 40 to 70 ms and the
window looks 167 ms back, so its middle is 140 ms behind a frame that the cortex answers; 100 ms
keeps the narration young and the frame within every window."""

TARGET_EVERY = 2  # Frames between two that the encoder learns from: neighbours look alike
TEST_SHARE = 0.05  # Of each movie; two minutes of the long one
SIZE: Literal["small", "tiny"] = "small"

CONCEPTS = (
    "away", "bird", "bright", "building", "car", "cyclist", "dark", "dog", "drive", "lamp", "left",
    "night", "pedestrian", "right", "shadow", "tree", "walk",
)  # fmt: skip
"""Words of the simulated captions: what stands there, the light, headings and what is done. Those
left out are in every caption, or other words for one of these."""


@dataclass(frozen=True, slots=True)
class BundleRecipe:
    """All that the encoder depends on."""

    scenes: int = 10_000  # of the long movie, a second each
    repeats: int = 4  # of the short movie of 30 s, half of them before the long one
    epochs: int = 8
    seed: int = 0


def train_simulated_encoder(
    out: Path,
    model: Path,
    recipe: BundleRecipe,
    *,
    command: str,
    notify: Callable[[str], None],
    curves: Path | None = None,
) -> None:
    """Simulate a session, prepare it, train an encoder on it, and keep what a bundle needs.

    What is made on the way lies beside `out` until the end, 20 kB a frame.

    Raises
    ------
    UserError
        If there is an encoder already, or the model is no LLaVA.
    """
    from encoder_training.data_set.prepare import PrepareOptions, build_data_set
    from encoder_training.data_set.prepare_captions import CaptionOptions
    from encoder_training.data_set.splits import SplitOptions
    from encoder_training.frames.tower import VisionTower
    from encoder_training.history import plot_history, read_history, write_history
    from encoder_training.options import TrainingOptions
    from encoder_training.run_files import HISTORY
    from encoder_training.train_run import TrainRequest, check_libraries, train_run
    from simulation.cortex.days import write_training_day

    if (out / FACTS).exists():
        raise UserError(f"{out} holds a trained encoder already. Choose a new folder.")
    check_libraries()
    VisionTower(str(model.resolve()))  # refused before a session is simulated for it
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        session, data, run = (Path(folder) / name for name in ("session.nwb", "data", "run"))
        truth = write_training_day(
            session, n_scenes=recipe.scenes, repeats=recipe.repeats, seed=recipe.seed
        )
        prepare = PrepareOptions(
            recording=str(session),
            out=data,
            frames=truth.movies,
            model=str(model.resolve()),
            window=WINDOW,
            split=SplitOptions("middle", fraction=TEST_SHARE, seed=recipe.seed),
            captions=CaptionOptions(),
            units="allen",
            every=TARGET_EVERY,
        )
        made = build_data_set(prepare, command=command)
        training = TrainingOptions.evidence(training_epochs=recipe.epochs, seed=recipe.seed)
        request = TrainRequest(
            dataset=data,
            folder=run,
            size=SIZE,
            lags_ns=(WINDOW.lag_ns,),
            options=training,
            command=command,
        )
        train_run(request, overwrite=False, notify=notify)
        history = read_history(run / HISTORY)
        length_s = truth.trains.schedule.duration_s
        facts = {
            "recording": f"a simulated session of {length_s:.0f} s, day {recipe.seed}",
            "command": command,
            "model": "" if model == SHIPPED_MODEL else str(model.resolve()),
            "recipe": asdict(recipe),
            "window": asdict(WINDOW),
            "scores": {
                "validation_cosine": round(max(row.validation_cosine for row in history), 4)
            },
            "units": [unit.labels for unit in made.data.population.units],
        }
        _keep_run(run, made.data, out, facts)
    write_history(history, out / "training.csv")
    if curves is not None:
        plot_history(history, curves)


def _keep_run(folder: Path, prepared: PreparedSet, out: Path, facts: dict[str, Any]) -> None:
    """Write what `write_shipped_bundle` reads; weights and patches in half precision."""
    from safetensors.numpy import save_file

    from encoder_export.export import reference_frames
    from encoder_training.run_files import load_run
    from encoder_training.weights import save_weights

    run = load_run(folder)
    references = reference_frames(prepared, *prepared.windows(run.model.lag_ns))
    out.mkdir(parents=True, exist_ok=True)
    save_weights(run.encoder.half(), out / ENCODER_WEIGHTS)
    arrays: dict[str, NDArray[Any]] = {
        "mean_patch": np.stack([frame.mean_patch for frame in references]).astype(np.float16),
        "unit_mean": run.scaling.mean,
        "unit_std": run.scaling.std,
    }
    save_file(arrays, out / REFERENCES)
    lines = [json.dumps({"frame": frame.frame, "caption": frame.caption}) for frame in references]
    (out / CAPTIONS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for name in BESIDE_WEIGHTS:
        (out / name).unlink(missing_ok=True)
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if (out / CONFIDENCE).is_file():
        # It holds for the same weights in half precision.
        file = json.loads((out / CONFIDENCE).read_text(encoding="utf-8"))
        write_json(out / CONFIDENCE, {**file, "weights_sha256": sha256_of(out / ENCODER_WEIGHTS)})
    (out / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class KeptEncoder:
    """What a folder of `train_simulated_encoder` holds, but for captions and probes."""

    network: EncoderNetwork
    population: Population
    window: WindowSpec
    scaling: Scaling
    facts: dict[str, Any]  # the whole of ``encoder.json``
    arrays: dict[str, NDArray[Any]]  # unit_mean and unit_std (n_units,); mean_patch (n_frames, dim)


def load_kept(folder: Path) -> KeptEncoder:
    """Read the weights of a trained encoder, and what they are for.

    Raises
    ------
    UserError
        If they are not there.
    """
    from safetensors.numpy import load_file

    from encoder_training.data_set.training_set import Scaling
    from encoder_training.weights import load_weights

    if not (folder / FACTS).is_file():
        raise UserError(
            f"{folder} must hold an encoder's weights and {FACTS}. Make them with 'neurrate "
            "simulate train-encoder'."
        )
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    arrays = load_file(folder / REFERENCES)
    return KeptEncoder(
        network=load_weights(folder / ENCODER_WEIGHTS),
        population=Population([Unit(**unit) for unit in facts["units"]]),
        window=WindowSpec(**{**facts["window"], "rate": BinRate(**facts["window"]["rate"])}),
        scaling=Scaling(arrays["unit_mean"], arrays["unit_std"]),
        facts=facts,
        arrays=arrays,
    )


def write_shipped_bundle(
    out: Path, *, command: str, overwrite: bool = False, encoder: Path = SHIPPED_ENCODER
) -> Manifest:
    """Export weights of `train_simulated_encoder`, those in the package by default, to a bundle.

    Raises
    ------
    UserError
        If the weights are not there, or the folder is taken.
    """
    from encoder_export.bundle import BundleFacts, ReferenceFrame, write_bundle

    kept = load_kept(encoder)
    texts = (encoder / CAPTIONS).read_text(encoding="utf-8").splitlines()
    references = [
        ReferenceFrame(mean_patch=patch.astype(np.float32), **json.loads(line))
        for patch, line in zip(kept.arrays["mean_patch"], texts, strict=True)
    ]
    facts = BundleFacts(
        population=kept.population,
        scaling=kept.scaling,
        window=kept.window,
        language_model=LanguageModel(model_id=kept.facts.get("model") or str(SHIPPED_MODEL)),
        training_data=TrainingData(recording=kept.facts["recording"]),
        trained=True,
        command=command,
        scores=kept.facts["scores"],
    )
    return write_bundle(
        out,
        kept.network,
        facts,
        references=references,
        more_files=[encoder / name for name in BESIDE_WEIGHTS if (encoder / name).is_file()],
        overwrite=overwrite,
    )


def fit_simulated_probes(
    dataset: Path,
    out: Path,
    *,
    encoder: Path = SHIPPED_ENCODER,
    concepts: Sequence[str] = CONCEPTS,
    seed: int = 0,
) -> FittedProbes:
    """Train, calibrate and test concept probes of an encoder that is trained already.

    The calibration of its confidence is fitted as well, and written beside the probes.

    `dataset` is of 'neurrate prepare', from a session of the same animal: other scenes than the
    encoder's.

    Raises
    ------
    UserError
        If the data set is of other units or another window, or a file is missing.
    """
    from encoder_training.confidence.confidence_files import save_confidence
    from encoder_training.confidence.fitting import fit_confidence
    from encoder_training.data_set.prepared_files import load_prepared
    from encoder_training.probes.fitting import fit_probes, save_probes

    kept = load_kept(encoder)
    prepared = load_prepared(dataset, check_hashes=True)
    n_units, n_bins = len(kept.population), kept.window.n_bins
    if prepared.population != kept.population or prepared.window.n_bins != n_bins:
        raise UserError(
            f"{dataset} must have the {n_units} units and the {n_bins} bins of the encoder in "
            f"{encoder}, got {len(prepared.population)} units and {prepared.window.n_bins} bins. "
            "Prepare a session of 'neurrate simulate session' with --units allen."
        )
    data, split = prepared.windows(kept.window.lag_ns)
    probes = fit_probes(
        prepared, data, split, kept.network, kept.scaling, concepts=concepts, seed=seed
    )
    out.mkdir(parents=True, exist_ok=True)
    save_probes(probes, out)
    confidence = fit_confidence(prepared, data, split, kept.network, kept.scaling, seed=seed)
    save_confidence(confidence, out)
    return probes
