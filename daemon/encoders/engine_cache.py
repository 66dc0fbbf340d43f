"""Engines are caches: kept beside the bundle, known by what they were made for, made when missing.

An engine is two files, ``<gpu>-<library version>-<first 12 digits of the graph's sha256>-x<rows>``
with ``.plan`` and with ``.json``, which says all of it in full, and the plan's own sha256. They lie
in the folder ``engines`` of the bundle, or in the user's cache where the bundle cannot be written
to. One that was tried and found wrong leaves its JSON, with the reason, and is not made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import asdict
from pathlib import Path

from contracts.errors import DependencyError, EngineError
from contracts.manifest import ENCODER_ONNX, Manifest
from daemon.encoders.engine_build import BuiltEngine, build_engine
from daemon.encoders.engine_files import (
    EngineKey,
    EngineModel,
    check_not_refused,
    keep_plan,
    key_of,
    read_facts,
    read_plan,
    replace_file,
    write_facts,
)
from daemon.encoders.gpu import Gpu, find_gpu
from daemon.encoders.trt_library import Library

LOG = logging.getLogger(__name__)

FOLDER = "engines"
ANY_GPU = Gpu("any GPU", "")
"""What a portable engine is for."""


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
        Rows for which its kernels are chosen.

    Returns
    -------
    plan : Path

    Raises
    ------
    EngineError
        If the library cannot make one of this graph, or the one that it made was refused.
    """
    key = key_of(manifest, library, gpu, opt_batch=opt_batch)
    plans = [folder / key.file_name for folder in _folders(manifest)]
    for plan in plans:
        check_not_refused(plan, key)
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


def refuse_engine(manifest: Manifest, plan: Path, reason: str) -> None:
    """Remove a plan, and leave beside its place why; `get_engine` makes no other for the same.

    Parameters
    ----------
    manifest : Manifest
        Of its bundle.
    plan : Path
        As `get_engine` gave it.
    reason : str
        A clause. If it can be written nowhere, that is a line in the log.
    """
    refused = read_facts(plan).model_copy(update={"refused": reason})
    for folder in dict.fromkeys((plan.parent, *_folders(manifest))):
        try:
            write_facts(folder / plan.name, refused)
            plan.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("cannot note in %s that an engine is refused: %s", folder, error.strerror)
        else:
            return


def _make(manifest: Manifest, library: Library, key: EngineKey, plans: list[Path]) -> Path:
    graph = (manifest.folder / ENCODER_ONNX).read_bytes()
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
    if built.timing_cache:
        replace_file(plan.with_name(key.timing_name), built.timing_cache)
    keep_plan(plan, facts, built.plan)


def _folders(manifest: Manifest) -> list[Path]:
    """Return where engines may lie: the bundle's own folder first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [manifest.folder / FOLDER, cache / "neurrate" / FOLDER]
