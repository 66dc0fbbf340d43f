"""An engine's two files: a plan, and beside it what it was made for or why it is refused.

A plan is native code for a GPU. The sha256 finds a plan that was cut or changed by accident; who
can write both files can run code in the daemon, as who can write its program can. Take engines
only from where you take programs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import EngineError
from contracts.manifest import ENCODER_ONNX, MAX_ENCODER_BATCH, Manifest
from daemon.encoders.engine_build import RECIPE
from daemon.encoders.gpu import Gpu
from daemon.encoders.trt_library import Library

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
    opt_batch: int
    """Rows for which kernels were chosen."""
    recipe: int
    """How it was built: `daemon.encoders.engine_build.RECIPE`."""
    precision: str
    """float32, float16 or bfloat16."""
    plan_sha256: str
    """Of the plan."""
    refused: str = ""
    """Why it is not used; then there is no plan, and none is made again for the same."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine must be made for, to be used.

    Attributes
    ----------
    library, version : str
    gpu, compute_capability : str
    onnx_sha256 : str
    opt_batch : int
        Rows for which kernels are chosen.
    recipe : int
        Of the build.
    """

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
        """Name of the file of what the library learned about kernels: for graphs of any kind."""
        return f"{self._made_on}.timing"

    @property
    def _made_on(self) -> str:
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-").lower()
        return f"{gpu}-{self.library.replace('_', '-')}-{self.version}"


def key_of(manifest: Manifest, library: Library, gpu: Gpu, *, opt_batch: int) -> EngineKey:
    """Return what an engine must be made for.

    Parameters
    ----------
    manifest : Manifest
        Of the bundle.
    library : Library
    gpu : Gpu
        As `daemon.encoders.engine_cache.target_gpu` gave it.
    opt_batch : int
        Rows that will be encoded at once; brought into 1 to `MAX_ENCODER_BATCH`.

    Returns
    -------
    EngineKey
    """
    return EngineKey(
        library=library.name,
        version=library.version,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        onnx_sha256=manifest.model.sha256[ENCODER_ONNX],
        opt_batch=min(max(1, opt_batch), MAX_ENCODER_BATCH),
    )


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


def check_not_refused(plan: Path, key: EngineKey) -> None:
    """Look whether an engine was made before, tried, and found wrong.

    Parameters
    ----------
    plan : Path
        Where it would lie.
    key : EngineKey
        What it would be made for.

    Raises
    ------
    EngineError
        With the reason, and what to remove for another try.
    """
    try:
        facts = read_facts(plan)
    except EngineError:
        return  # no JSON: nothing was ever said of it
    if facts.refused and not _differences(facts, key):
        raise EngineError(_refusal(plan, facts))


def keep_plan(plan: Path, facts: EngineModel, content: bytes) -> None:
    """Write an engine, the plan first: without its JSON it is not loaded.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    replace_file(plan, content)
    write_facts(plan, facts)


def write_facts(plan: Path, facts: EngineModel) -> None:
    """Write what stands beside a plan.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    text = json.dumps(facts.model_dump(), indent=1) + "\n"
    replace_file(plan.with_suffix(".json"), text.encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, and make its folder.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _differences(facts: EngineModel, key: EngineKey) -> list[str]:
    wanted, found = asdict(key), facts.model_dump(include=set(asdict(key)))
    return [
        f"{name.replace('_', ' ')} {found[name]!r}, wanted {wanted[name]!r}"
        for name in wanted
        if found[name] != wanted[name]
    ]


def _refusal(plan: Path, facts: EngineModel) -> str:
    return (
        f"the engine {plan.name} was refused: {facts.refused}; to have it made and tried again, "
        f"remove {plan.with_suffix('.json')}"
    )
