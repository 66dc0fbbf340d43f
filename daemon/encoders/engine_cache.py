"""Engines are caches: kept beside the bundle, known by what they were made for, made when missing.

An engine is two files, ``<gpu>-<library version>-<first 12 digits of the graph's sha256>.plan``
and the same with ``.json``, which says all of it in full, and the plan's own sha256. They lie in
the folder ``engines`` of the bundle, or in the user's cache where the bundle cannot be written to.

A plan is native code for a GPU. The sha256 finds a plan that was cut or changed by accident; who
can write both files can run code in the daemon, as who can write its program can. Take engines
only from where you take programs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, Manifest
from daemon.encoders.engine_build import BuiltEngine, build_engine
from daemon.encoders.gpu import Gpu, find_gpu
from daemon.encoders.trt_library import Library

LOG = logging.getLogger(__name__)

FOLDER = "engines"
ANY_GPU = Gpu("any GPU", "")
"""What a portable engine is for."""

HASH_DIGITS = 12
"""Of the graph's sha256 in a file name; all 64 stand in the JSON."""


class EngineModel(BaseModel):
    """What stands beside a plan."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    library: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    version: str
    """Of the library; an engine is for exactly one."""
    gpu: str
    """Name of the GPU it is for, as the driver says it; ``any GPU`` for a portable one."""
    compute_capability: str
    """Of that GPU; empty for a portable one."""
    onnx_sha256: str
    """Of the graph it was made from."""
    precision: str
    """float32, float16 or bfloat16."""
    opt_batch: int
    """Rows for which kernels were chosen."""
    plan_sha256: str
    """Of the plan."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine must be made for, to be used.

    Attributes
    ----------
    library, version : str
    gpu, compute_capability : str
    onnx_sha256 : str
    """

    library: str
    version: str
    gpu: str
    compute_capability: str
    onnx_sha256: str

    @property
    def file_name(self) -> str:
        """Name of the plan."""
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-").lower()
        library = self.library.replace("_", "-")
        return f"{gpu}-{library}-{self.version}-{self.onnx_sha256[:HASH_DIGITS]}.plan"


def key_of(manifest: Manifest, library: Library, gpu: Gpu) -> EngineKey:
    """Return what an engine for a bundle, a library and a GPU must be made for."""
    return EngineKey(
        library=library.name,
        version=library.version,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        onnx_sha256=manifest.model.sha256[ENCODER_ONNX],
    )


def target_gpu(library: Library) -> Gpu:
    """Return the GPU that the library's engines would be for here.

    Parameters
    ----------
    library : Library

    Returns
    -------
    Gpu
        `ANY_GPU` if they are portable.

    Raises
    ------
    DependencyError
        If it needs a GPU to build for, and none is here.
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


def get_engine(manifest: Manifest, library: Library, gpu: Gpu, *, opt_batch: int = 1) -> Path:
    """Return a bundle's engine, made now if none fits.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle.
    library : Library
    gpu : Gpu
        As `target_gpu` gave it.
    opt_batch : int
        Rows for which kernels are chosen, if it is made now.

    Returns
    -------
    plan : Path

    Raises
    ------
    EngineError
        If the library cannot make one of this graph.
    """
    key = key_of(manifest, library, gpu)
    folders = _folders(manifest)
    for folder in folders:
        plan = folder / key.file_name
        if not plan.exists():
            continue
        try:
            read_plan(plan, key)
        except EngineError as error:
            LOG.warning("%s It is made again.", error)
        else:
            return plan
    others = sorted({path.name for folder in folders for path in folder.glob("*.plan")})
    LOG.info(
        "making an engine for %s with %s %s%s; it is kept",
        gpu.name,
        library.name,
        library.version,
        f" (there is {', '.join(others)}, which is for something else)" if others else "",
    )
    return _make(manifest, library, key, folders, opt_batch)


def read_plan(plan: Path, key: EngineKey) -> bytes:
    """Read an engine, if it is what its JSON says and what is wanted.

    Parameters
    ----------
    plan : Path
    key : EngineKey
        What it must be made for.

    Returns
    -------
    plan : bytes

    Raises
    ------
    EngineError
        With everything that differs.
    """
    facts = read_facts(plan)
    wanted, found = asdict(key), facts.model_dump(include=set(asdict(key)))
    problems = [
        f"{name.replace('_', ' ')} {found[name]!r}, wanted {wanted[name]!r}"
        for name in wanted
        if found[name] != wanted[name]
    ]
    if problems:
        raise EngineError(f"{plan.name} is an engine for {'; '.join(problems)}.")
    content = plan.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.plan_sha256:
        raise EngineError(
            f"{plan.name} has another sha256 than its JSON says: it was cut or changed, and is "
            "not loaded."
        )
    return content


def read_facts(plan: Path) -> EngineModel:
    """Read what stands beside a plan.

    Parameters
    ----------
    plan : Path

    Returns
    -------
    EngineModel

    Raises
    ------
    EngineError
        If it is missing or is no such JSON.
    """
    try:
        return EngineModel.model_validate_json(plan.with_suffix(".json").read_bytes())
    except (OSError, ValidationError) as error:
        raise EngineError(
            f"{plan.name} has no JSON beside it that says what it is for, and is not loaded."
        ) from error


def _make(
    manifest: Manifest, library: Library, key: EngineKey, folders: list[Path], opt_batch: int
) -> Path:
    graph = (manifest.folder / ENCODER_ONNX).read_bytes()
    timing_name = f"{key.file_name.rpartition('-')[0]}.timing"
    known = next((f / timing_name for f in folders if (f / timing_name).is_file()), None)
    built = build_engine(
        library, graph, opt_batch=opt_batch, timing_cache=known.read_bytes() if known else b""
    )
    LOG.info(
        "engine of %d bytes, %s, made in %.1f s", len(built.plan), built.precision, built.duration_s
    )
    for folder in folders:
        try:
            return _keep(folder, key, built, opt_batch, timing_name)
        except OSError as error:
            LOG.info("engines cannot be kept in %s (%s)", folder, error.strerror)
    raise EngineError(
        f"an engine was made and can be kept in none of {', '.join(map(str, folders))}. Make one "
        "of them writable, or set encoder.device = cuda."
    )


def _keep(
    folder: Path, key: EngineKey, built: BuiltEngine, opt_batch: int, timing_name: str
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    facts = EngineModel(
        **asdict(key),
        precision=built.precision,
        opt_batch=opt_batch,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
    )
    plan = folder / key.file_name
    if built.timing_cache:
        _replace(folder / timing_name, built.timing_cache)
    _replace(plan, built.plan)
    text = json.dumps(facts.model_dump(), indent=1) + "\n"
    _replace(plan.with_suffix(".json"), text.encode())
    return plan


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _folders(manifest: Manifest) -> list[Path]:
    """Return where engines may lie: the bundle's own folder first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [manifest.folder / FOLDER, cache / "neurrate" / FOLDER]
