"""Engines are caches: kept beside the bundle, known by what they were made for, made when missing.

An engine is two files, ``<gpu>-<library version>-<first 12 digits of the graph's sha256>-x<rows>``
with ``.plan`` and with ``.json``, which holds all of it in full, and the plan's own sha256. They
are in the folder ``engines`` of the bundle, or in the user's cache where the bundle cannot be
written to. An engine that gave wrong results leaves its JSON, with the reason, and is not made
again. A graph that gave wrong results on a processor leaves such a JSON as well.

A plan is native code for a GPU. The sha256 detects a plan that was cut or changed by accident;
whoever can write both files can run code in the daemon, as can whoever can write its program. Take
engines only from where you take programs.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.atomic_files import write_bytes, write_json
from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, MAX_ENCODER_BATCH, Manifest
from daemon.encoders.graph_file import read_graph
from daemon.encoders.tensorrt_build import (
    RECIPE,
    BuiltEngine,
    Gpu,
    Library,
    build_engine,
    find_gpu,
)

LOG = logging.getLogger(__name__)

FOLDER = "engines"
ANY_GPU = Gpu("any GPU", "")
"""The target of a portable engine."""

HASH_DIGITS = 12
"""Of the graph's sha256 in a file name; all 64 are in the JSON."""


class EngineModel(BaseModel):
    """The JSON beside a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: str
    """``tensorrt``, ``tensorrt_rtx``, or for a graph on a processor ``onnxruntime``."""
    version: str
    """Of the library; an engine is for exactly one."""
    gpu: str
    """Name of the GPU it is for, as the driver reports it; ``any GPU`` for a portable one; the
    name of the processor."""
    compute_capability: str
    """Of that GPU; empty for a portable one; of a processor, a hash of its instruction sets."""
    onnx_sha256: str
    """Of the graph it was made from."""
    opt_batch: int
    """Rows for which kernels were chosen."""
    recipe: int
    """How it was built: `daemon.encoders.tensorrt_build.RECIPE`."""
    precision: str
    """float32, float16 or int8."""
    plan_sha256: str
    """Of the plan; empty for a graph on a processor."""
    refused: str = ""
    """Why it is not used; then there is no plan, and none is made again for the same."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """The fields of `EngineModel` that must agree for an engine to be used."""

    library: str
    version: str
    gpu: str
    compute_capability: str
    onnx_sha256: str
    opt_batch: int
    recipe: int = RECIPE

    @property
    def file_name(self) -> str:
        """Name of the plan."""
        return f"{self._made_on}-{self.onnx_sha256[:HASH_DIGITS]}-x{self.opt_batch}.plan"

    @property
    def timing_name(self) -> str:
        """Name of the library's file of kernel timings, which serve any graph."""
        return f"{self._made_on}.timing"

    @property
    def _made_on(self) -> str:
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-").lower()
        return f"{gpu}-{self.library.replace('_', '-')}-{self.version}"


def target_gpu(library: Library) -> Gpu:
    """Return the GPU that the library's engines would be for here; `ANY_GPU` if portable.

    Raises
    ------
    DependencyError
        If it needs a GPU to build for, and there is none.
    """
    if library.is_portable:
        return ANY_GPU
    try:
        return find_gpu()
    except DependencyError as error:
        raise DependencyError(
            f"{library.name} makes an engine on the GPU that it is for, and {error}. Make it on "
            "that machine, or use tensorrt-rtx, whose engines are made anywhere."
        ) from error


def key_of(manifest: Manifest, library: Library, gpu: Gpu, *, opt_batch: int) -> EngineKey:
    """Return the key of a bundle's engine; `opt_batch` is clipped to 1 to `MAX_ENCODER_BATCH`."""
    return EngineKey(
        library=library.name,
        version=library.version,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        onnx_sha256=manifest.model.sha256[ENCODER_ONNX],
        opt_batch=min(max(1, opt_batch), MAX_ENCODER_BATCH),
    )


def get_engine(manifest: Manifest, library: Library, gpu: Gpu, *, opt_batch: int = 1) -> Path:
    """Return the path of a bundle's engine for the GPU of `target_gpu`, made now if none fits.

    Its kernels are chosen for `opt_batch` rows.

    Raises
    ------
    EngineError
        If the library cannot make one of this graph, or the one that it made was refused.
    """
    key = key_of(manifest, library, gpu, opt_batch=opt_batch)
    check_not_refused(manifest, key)
    plans = [folder / key.file_name for folder in _folders(manifest)]
    for plan in plans:
        if not plan.exists():
            continue
        try:
            read_plan(plan, key)
        except EngineError as error:
            LOG.warning("%s It is made again.", error)
        else:
            return plan
    others = sorted({path.name for plan in plans for path in plan.parent.glob("*.plan")})
    LOG.info(
        "making an engine for %s with %s %s%s; it is kept",
        gpu.name,
        library.name,
        library.version,
        f" (there is {', '.join(others)}, which is for something else)" if others else "",
    )
    return _make(manifest, library, key, plans)


def check_not_refused(manifest: Manifest, key: EngineKey) -> None:
    """Look whether an engine was made before, tried, and refused.

    Raises
    ------
    EngineError
        With the reason, and what to remove for another try.
    """
    for folder in _folders(manifest):
        try:
            facts = read_facts(folder / key.file_name)
        except EngineError:
            continue  # no JSON: it was not refused
        if facts.refused and not _differences(facts, key):
            raise EngineError(_refusal(folder / key.file_name, facts))


def refuse_engine(manifest: Manifest, plan: Path, reason: str) -> None:
    """Remove a plan, and keep the reason; `get_engine` makes no other for the same key.

    Where the reason, a clause, cannot be written either, that is a line in the log.
    """
    _keep_refusal(manifest, plan, read_facts(plan).model_copy(update={"refused": reason}))


def refuse_graph(manifest: Manifest, key: EngineKey, *, precision: str, reason: str) -> None:
    """Keep the reason why a bundle's own graph is not used on the processor of the key."""
    facts = EngineModel(**asdict(key), precision=precision, plan_sha256="", refused=reason)
    _keep_refusal(manifest, _folders(manifest)[0] / key.file_name, facts)


def _keep_refusal(manifest: Manifest, plan: Path, facts: EngineModel) -> None:
    for folder in dict.fromkeys((plan.parent, *_folders(manifest))):
        try:
            _write_facts(folder / plan.name, facts)
            plan.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("cannot note in %s that an engine is refused: %s", folder, error.strerror)
        else:
            return


def read_plan(plan: Path, key: EngineKey) -> bytes:
    """Read an engine, if its JSON fits both the file and the key.

    Raises
    ------
    EngineError
        With everything that differs, or why it was refused.
    """
    facts = read_facts(plan)
    problems = _differences(facts, key)
    if problems:
        raise EngineError(f"{plan.name} is an engine for {'; '.join(problems)}.")
    if facts.refused:
        raise EngineError(_refusal(plan, facts))
    content = plan.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.plan_sha256:
        raise EngineError(
            f"{plan.name} has another sha256 than its JSON says: it was cut or changed, and is "
            "not loaded."
        )
    return content


def read_facts(plan: Path) -> EngineModel:
    """Read the JSON beside a plan.

    Raises
    ------
    EngineError
        If it is missing or has other fields.
    """
    try:
        return EngineModel.model_validate_json(plan.with_suffix(".json").read_bytes())
    except (OSError, ValidationError) as error:
        raise EngineError(
            f"{plan.name} has no JSON beside it that says what it is for, and is not loaded."
        ) from error


def keep_plan(plan: Path, facts: EngineModel, content: bytes) -> None:
    """Write an engine, the plan first: without its JSON it is not loaded.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(plan, content)
    _write_facts(plan, facts)


def _make(manifest: Manifest, library: Library, key: EngineKey, plans: list[Path]) -> Path:
    graph = read_graph(manifest.folder / ENCODER_ONNX, sha256=manifest.model.sha256[ENCODER_ONNX])
    timings = [plan.with_name(key.timing_name) for plan in plans]
    known = next((timing for timing in timings if timing.is_file()), None)
    built = build_engine(
        library, graph, opt_batch=key.opt_batch, timing_cache=known.read_bytes() if known else b""
    )
    LOG.info(
        "engine of %d bytes, %s, made in %.1f s", len(built.plan), built.precision, built.duration_s
    )
    for plan in plans:
        try:
            _keep(plan, key, built)
        except OSError as error:
            LOG.info("engines cannot be kept in %s (%s)", plan.parent, error.strerror)
        else:
            return plan
    folders = ", ".join(str(plan.parent) for plan in plans)
    raise EngineError(
        f"an engine was made and can be kept in none of {folders}. Make one of them writable, or "
        "set encoder.device = cuda."
    )


def _keep(plan: Path, key: EngineKey, built: BuiltEngine) -> None:
    facts = EngineModel(
        **asdict(key),
        precision=built.precision,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
    )
    keep_plan(plan, facts, built.plan)
    if built.timing_cache:
        write_bytes(plan.with_name(key.timing_name), built.timing_cache)


def _write_facts(plan: Path, facts: EngineModel) -> None:
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_json(plan.with_suffix(".json"), facts.model_dump())


def _folders(manifest: Manifest) -> list[Path]:
    """Return where engines may be: the bundle's own folder first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [manifest.folder / FOLDER, cache / "neurrate" / FOLDER]


def _differences(facts: EngineModel, key: EngineKey) -> list[str]:
    wanted, actual = asdict(key), facts.model_dump(include=set(asdict(key)))
    return [
        f"{name.replace('_', ' ')} {actual[name]!r}, wanted {wanted[name]!r}"
        for name in wanted
        if actual[name] != wanted[name]
    ]


def _refusal(plan: Path, facts: EngineModel) -> str:
    name = f"the engine {plan.name}" if facts.plan_sha256 else f"the graph {ENCODER_ONNX}"
    return (
        f"{name} was refused: {facts.refused}; to have it tried again, "
        f"remove {plan.with_suffix('.json')}"
    )
