"""The steps of ``neurrate export``: from a finished run to a bundle, and an engine of its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.embedding import PatchEmbedding
from contracts.errors import DependencyError, EngineError, ManifestError, UserError
from contracts.manifest import (
    CONFIDENCE,
    CONFIDENCE_ARRAYS,
    ENCODER_WEIGHTS,
    PARITY,
    PROBES,
    PROBES_REPORT,
    LanguageModel,
    Manifest,
    load_manifest,
    sha256_of,
)
from contracts.progress import ProgressBar
from contracts.window import Window, WindowSpec
from daemon.encoders.engine_cache import get_engine, refuse_engine, target_gpu
from daemon.encoders.protocol import Graph
from daemon.encoders.tensorrt import TensorrtGraph
from daemon.encoders.tensorrt_build import Gpu, Library, find_gpu, load_library
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import narrate
from daemon.service.settings import NarratorSettings
from encoder_export.bundle import BundleFacts, ReferenceFrame, draft_manifest, write_bundle
from encoder_export.onnx_graph import Precision
from encoder_export.parity import Narrate, Parity, ParityGate, check_parity, measure_parity
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.data_set.prepared_files import load_prepared
from encoder_training.data_set.training_set import Split, TrainingSet, thinned
from encoder_training.frames.tower import VisionTower, check_grid
from encoder_training.run_files import RunFolder, load_run

MAX_REFERENCES = 1000
"""Captioned training frames in a bundle, spread over all of them: 4 MB at LLaVA-1.5's 1024 numbers
each, and a search of microseconds."""

NARRATED_AT_ONCE = 8
"""Patch grids in one batch of the language model."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The options of ``neurrate export``, as `neurrate.export_command.export` describes them."""

    run: Path
    bundle: Path
    precision: Precision
    engine: str | None
    populations: int
    windows: int
    narrations: int
    model: str | None
    dataset: Path | None
    stride_bins: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Exported:
    """The comparisons of an export.

    `engine` is None if none was requested, or none could be run; `untried` is then name and version
    of the library of an engine that could not be run, else empty.
    """

    graph: Parity
    engine: Parity | None = None
    untried: str = ""


def export_run(request: ExportRequest, *, overwrite: bool) -> Exported:
    """Write the bundle, and the engine if one was requested.

    Raises
    ------
    UserError
        If the run is not finished, its data set is another one, or the model does not fit.
    DependencyError
        If a library or a GPU is missing for the engine.
    EngineError
        If no engine can be made of the graph; the bundle stays.
    ParityError
        If the graph is too far from the network, then nothing is written; or the engine, then the
        bundle stays.
    """
    target = _engine_target(request)
    run = _finished_run(request.run)
    folder = request.dataset or Path(run.model.dataset)
    prepared = _data_set(folder, request.run, run)
    data, parts = prepared.windows(run.model.lag_ns)
    language_model = _language_model(request.model, folder)
    facts = _facts(
        run,
        prepared,
        language_model,
        precision=request.precision,
        stride_bins=request.stride_bins,
    )
    narrate_grids = _language_model_narrator(request, run, facts)
    gate = _gate(request, data, parts, narrate_grids)
    manifest = write_bundle(
        request.bundle,
        run.encoder,
        facts,
        references=reference_frames(prepared, data, parts),
        more_files=_files_of(request.run),
        precision=request.precision,
        gate=gate,
        overwrite=overwrite,
    )
    report = Parity.read(manifest.folder / PARITY)
    if target is None:
        return Exported(report)
    library, gpu = target

    def measure(graph: Graph) -> Parity:
        return measure_parity(
            run.encoder,
            run.scaling,
            gate,
            graph.run,
            precision=request.precision,
            runtime=graph.device,
        )

    engine = make_engine(manifest, library, gpu, opt_batch=request.populations, measure=measure)
    return Exported(report, engine, "" if engine else f"{library.name} {library.version}")


def is_exported(run_folder: Path, bundle: Path) -> bool:
    """Return whether a bundle is whole and is what an export without options makes of a run.

    Raises
    ------
    UserError
        If the run is not finished, or its data set is another one.
    """
    run = _finished_run(run_folder)
    folder = Path(run.model.dataset)
    prepared = _data_set(folder, run_folder, run)
    try:
        there = load_manifest(bundle).model
    except ManifestError:
        return False
    language_model = _language_model(None, folder)
    facts = _facts(run, prepared, language_model, precision="float32", stride_bins=None)
    wanted = draft_manifest(run.encoder.spec.grid, facts).model
    copied = [ENCODER_WEIGHTS, *(path.name for path in _files_of(run_folder))]
    return there.model_copy(update={"sha256": {}}) == wanted and all(
        there.sha256.get(name) == sha256_of(run_folder / name) for name in copied
    )


def make_engine(
    manifest: Manifest,
    library: Library,
    gpu: Gpu,
    *,
    opt_batch: int,
    measure: Callable[[Graph], Parity],
) -> Parity | None:
    """Make the engine of a written bundle; where it can run, it must pass the same gate.

    Its kernels are chosen for `opt_batch` rows; `measure` compares it with the network.
    Returns None where there is no GPU to run it.

    Raises
    ------
    EngineError
        If none can be made or loaded; the bundle stays.
    ParityError
        If it is too far from the network; the bundle stays, and the engine is refused.
    """
    try:
        plan = get_engine(manifest, library, gpu, opt_batch=opt_batch)
        if not _has_gpu():
            return None
        parity = measure(TensorrtGraph(manifest, opt_batch=opt_batch, library=library))
    except EngineError as error:
        raise EngineError(
            f"{str(error).rstrip('.')}. The bundle {manifest.folder} is written, without an engine."
        ) from error
    check_engine_parity(parity, manifest, plan)
    return parity


def check_engine_parity(parity: Parity, manifest: Manifest, plan: Path) -> None:
    """Refuse an engine that is too far from the network, now and for the daemon.

    Raises
    ------
    ParityError
        If it is refused. The plan is removed; its JSON keeps the reason, so that the daemon builds
        no other in its place.
    """
    failures = parity.failures()
    if failures:
        refuse_engine(manifest, plan, "; ".join(failures))
    check_parity(
        parity,
        outcome=f"The bundle {manifest.folder} is written, and this engine of it is refused: the "
        "daemon will take CUDA or the CPU.",
    )


def _has_gpu() -> bool:
    try:
        find_gpu()
    except DependencyError:
        return False
    return True


def _engine_target(request: ExportRequest) -> tuple[Library, Gpu] | None:
    """Find library and GPU of a requested engine before the work.

    Raises
    ------
    UserError
        If the graph is int8, which has no engine.
    """
    if request.engine is None:
        return None
    if request.precision == "int8":
        raise UserError(
            "an int8 graph is for a CPU and has no engine. Leave --engine out, or export with "
            "--precision float16."
        )
    library = load_library(request.engine)
    return library, target_gpu(library)


def _files_of(run: Path) -> list[Path]:
    """Return what the daemon reads of a run; not every run has a calibration of confidence."""
    optional = [run / name for name in (CONFIDENCE, CONFIDENCE_ARRAYS)]
    return [run / PROBES, run / PROBES_REPORT, *(path for path in optional if path.is_file())]


def _finished_run(folder: Path) -> RunFolder:
    run = load_run(folder)
    missing = [name for name in (PROBES, PROBES_REPORT) if not (folder / name).is_file()]
    if not run.model.finished or missing:
        raise UserError(
            f"the run in {folder} is not finished: it has not been evaluated. "
            f"Continue with: {run.model.command}"
        )
    return run


def _data_set(folder: Path, run_folder: Path, run: RunFolder) -> PreparedSet:
    if not folder.is_dir():
        raise UserError(
            f"the data set that {run_folder} was trained on is not at {folder}. Say where it is: "
            "--dataset DIR"
        )
    prepared = load_prepared(folder, check_hashes=True)
    wanted, actual = run.model.dataset_sha256, prepared.training_data.sha256
    if actual != wanted:
        raise UserError(
            f"{run_folder} was trained on a data set with sha256 {wanted[:12]}, and {folder} has "
            f"{actual[:12]}. Name the one it was trained on with --dataset DIR, or train again."
        )
    if run.encoder.spec.grid != prepared.grid:
        raise UserError(
            f"the encoder predicts {run.encoder.spec.grid}, and the patches of {folder} are "
            f"{prepared.grid}. Train again."
        )
    return prepared


def _language_model(model: str | None, dataset: Path) -> LanguageModel:
    """Return the model as the daemon finds it: by a hub id, or the whole path of a folder.

    Raises
    ------
    UserError
        If the folder is gone.
    """
    facts = load_facts(dataset)
    if model is None and not facts.model_folder:
        return facts.language_model
    folder = Path(model or facts.model_folder)
    if model is not None and not folder.is_dir():
        return facts.language_model.model_copy(update={"model_id": model, "revision": ""})
    if not folder.is_dir():
        raise UserError(
            f"the patches of {dataset} were made with the model in {folder}, which is gone. Say "
            "where it is: --model DIR"
        )
    return facts.language_model.model_copy(update={"model_id": str(folder.resolve())})


def _facts(
    run: RunFolder,
    prepared: PreparedSet,
    language_model: LanguageModel,
    *,
    precision: Precision,
    stride_bins: int | None,
) -> BundleFacts:
    window = run.model.window
    spec = WindowSpec(
        rate=prepared.window.rate,
        n_bins=window.n_bins,
        stride_bins=stride_bins or window.stride_bins,
        lag_ns=window.lag_ns,
    )
    # No folders: the same run gives the same bundle in any folder.
    command = f"neurrate export --precision {precision}"
    if stride_bins is not None:
        command += f" --stride {stride_bins}"
    return BundleFacts(
        population=prepared.population,
        scaling=run.scaling,
        window=spec,
        language_model=language_model,
        training_data=run.model.training_data,
        trained=True,
        command=command,
        scores=run.model.scores,
    )


def _language_model_narrator(
    request: ExportRequest, run: RunFolder, facts: BundleFacts
) -> Narrate | None:
    """Load the language model, whose tower must be the encoder's; None if nothing is narrated."""
    if not request.narrations:
        return None
    named = facts.language_model
    tower = VisionTower(named.model_id, revision=named.revision)
    check_grid(run.encoder.spec.grid, tower)
    del tower
    return _narrate_with(draft_manifest(run.encoder.spec.grid, facts))


def _narrate_with(manifest: Manifest) -> Narrate:
    """Load the bundle's language model, and return what narrates patch grids with it."""
    narrator = load_narrator(NarratorSettings(), manifest)
    spec = manifest.window_spec
    window = Window(spec, 0, np.empty((spec.n_bins, 0), np.uint16))
    n_units = len(manifest.population)

    def narrate_grids(grids: NDArray[np.float32]) -> Sequence[str]:
        texts: list[str] = []
        firsts = range(0, len(grids), NARRATED_AT_ONCE)
        for first in ProgressBar(firsts, desc="narrating", unit="batch", leave=False):
            embeddings = [
                PatchEmbedding(window, "all", n_units, manifest.patch_grid, grid)
                for grid in grids[first : first + NARRATED_AT_ONCE]
            ]
            texts += [utterance.text for utterance in narrate(narrator, embeddings)]
        return texts

    return narrate_grids


def _gate(
    request: ExportRequest, data: TrainingSet, parts: Split, narrate_grids: Narrate | None
) -> ParityGate:
    """Take windows spread over those that neither training nor the choice of an epoch used."""
    rows = thinned(parts.test, request.windows)
    return ParityGate.of_windows(
        data.counts_of(rows),
        seed=request.seed,
        narrate=narrate_grids,
        n_narrations=request.narrations,
    )


def reference_frames(
    prepared: PreparedSet, data: TrainingSet, parts: Split
) -> list[ReferenceFrame]:
    """Return captioned training frames, spread over all of them."""
    frames = prepared.frames
    trained = np.unique(data.frame[parts.train])
    captioned = np.array([row for row in trained if frames.captions[row].strip()], dtype=np.int64)
    return [
        ReferenceFrame(
            frame=frames.label(row),
            caption=frames.captions[row],
            mean_patch=prepared.targets[row].astype(np.float32).mean(axis=0),
        )
        for row in thinned(captioned, MAX_REFERENCES).tolist()
    ]
