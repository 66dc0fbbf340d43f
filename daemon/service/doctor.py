"""The checks of ``neurrate doctor``, one function each. Nothing is printed here."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from contracts.errors import ManifestError
from contracts.manifest import load_manifest

NEEDED = (
    "numpy", "msgpack", "pyzmq", "pydantic", "prometheus-client", "h5py", "pynwb",
    "spikeinterface", "safetensors", "torch", "transformers",
)  # fmt: skip
"""Distributions without which some verb does not work."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""Two builds of one module: exactly one of them must be installed."""

PORTS = {"ingest.connect": 5570, "publish.bind": 5571, "http.port": 9571}
"""The defaults in `daemon.service.settings`; a test says that they agree."""

SMI_TIMEOUT_S = 5.0
"""nvidia-smi answers in a second, and hangs where a driver does."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result.

    `kind` is empty unless the problem keeps Neurrate from running; then it is the kind of error.
    """

    name: str
    found: str  # a version, a count, a state
    problem: str = ""  # a sentence with a remedy
    kind: Literal["", "dependency", "input"] = ""


def version_of(distribution: str) -> str | None:
    """Return an installed distribution's version without importing it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def packages() -> Iterator[Finding]:
    """Look at the interpreter and the packages."""
    yield Finding("python", platform.python_version())
    yield Finding("neurrate", version_of("neurrate") or "not installed, run from a folder")
    for name in NEEDED:
        version = version_of(name)
        if version is None:
            problem = f"{name} is not installed. Install it: {_pip(name)}"
            yield Finding(name, "missing", problem, "dependency")
        else:
            yield Finding(name, version)
    if version_of("pyzmq"):
        import zmq

        yield Finding("libzmq", zmq.zmq_version())


def onnx_runtime() -> Iterator[Finding]:
    """Look at the encoder's runtime and its execution providers."""
    installed = {name: version for name in RUNTIMES if (version := version_of(name))}
    for name, version in installed.items():
        yield Finding(name, version)
    if not installed:
        problem = (
            "Neither onnxruntime nor onnxruntime-gpu is installed. Install one: "
            f"{_pip('neurrate[cpu]')} or {_pip('neurrate[gpu]')}"
        )
        yield Finding("onnxruntime", "missing", problem, "dependency")
        return
    if len(installed) > 1:
        problem = (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. "
            f"Remove both and install one again: {_pip('onnxruntime onnxruntime-gpu', 'uninstall')}"
        )
        yield Finding("onnxruntime", "twice", problem)
    from contracts.errors import DependencyError
    from daemon.encoders.onnx import import_runtime

    try:
        providers = list(import_runtime().get_available_providers())
    except (DependencyError, AttributeError) as error:
        problem = f"onnxruntime is installed and cannot be loaded: {error}. Install it again."
        yield Finding("execution providers", "none", problem, "dependency")
        return
    yield Finding("execution providers", ", ".join(providers))


def encoder_devices() -> Iterator[Finding]:
    """Look at TensorRT, and say where the encoder would run, and why not somewhere faster."""
    from contracts.errors import DependencyError
    from daemon.encoders.auto import outlook
    from daemon.encoders.tensorrt_build import KNOWN_MAJOR, load_library

    for name in KNOWN_MAJOR:
        try:
            yield Finding(name, load_library(name).version)
        except DependencyError as error:
            is_absent = version_of(name) is None
            problem = "" if is_absent else f"{error}. The encoder does without it."
            yield Finding(name, "not installed" if is_absent else "not used", problem)
    yield Finding("encoder", f"would run on {outlook()}")


def machine() -> Iterator[Finding]:
    """Look at processors, memory and GPUs."""
    yield Finding("processors", f"{len(os.sched_getaffinity(0))} usable")
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", f"{memory_bytes / 2**30:.1f} GiB")
    yield _gpu()


def _gpu() -> Finding:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("gpu", "none: nvidia-smi is not here; the encoder and LLaVA use the CPU")
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"nvidia-smi is here and fails: {error}. Check the driver, or set device = cpu."
        return Finding("gpu", "unknown", problem)
    return Finding("gpu", "; ".join(answer.stdout.strip().splitlines()) or "none")


def ports(wanted: dict[str, int] | None = None) -> Iterator[Finding]:
    """Look whether ports are free: those of `wanted` by setting, or the defaults."""
    for setting, port in (PORTS if wanted is None else wanted).items():
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError as error:
                problem = (
                    f"Port {port} is taken ({error.strerror}): if that is not Neurrate already "
                    f"running, set {setting} or stop the other process."
                )
                yield Finding(f"port {port}", "taken", problem)
            else:
                yield Finding(f"port {port}", f"free ({setting})")


def bundle(folder: Path) -> Iterator[Finding]:
    """Look whether a bundle is whole: every file is there and has its sha256."""
    try:
        manifest = load_manifest(folder)
    except ManifestError as error:
        yield Finding("bundle", "refused", f"{error}. Export it again or copy it whole.", "input")
        return
    units, n_files = len(manifest.population), len(manifest.model.sha256)
    yield Finding("bundle", f"{units} units, {n_files} files match their sha256")
    yield Finding("bundle sha256", manifest.sha256)
    if not manifest.model.trained:
        problem = "The bundle has random weights: its narrations are noise. Train an encoder."
        yield Finding("bundle weights", "random", problem)


def _pip(what: str, verb: str = "install") -> str:
    return f"{Path(sys.executable).name} -m pip {verb} {what}"
