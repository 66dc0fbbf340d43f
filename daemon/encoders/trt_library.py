"""TensorRT's two libraries, which share one Python API: found, checked, and heard.

``tensorrt`` makes an engine for one GPU by trying kernels on it. ``tensorrt_rtx`` makes one for
every GPU from Ampere on, without any at hand, and finishes it where it is loaded
(docs.nvidia.com, TensorRT-RTX, "CPU-Only AOT and TensorRT-RTX Engines").

Only names that are in TensorRT 10 and 11 both are used here and in the modules beside: precision
stands in the graph and not in flags, which 11 removed (docs/decisions/0014-engines.md).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from contracts.errors import DependencyError

LOG = logging.getLogger(__name__)

KNOWN_MAJOR = {"tensorrt": (10, 11), "tensorrt_rtx": (1,)}
"""Libraries in the order in which they are tried, and the versions whose API we use."""

INSTALL = {"tensorrt": "neurrate[gpu]", "tensorrt_rtx": "neurrate[rtx]"}


@dataclass(frozen=True, slots=True)
class Library:
    """One of the two, loaded.

    Attributes
    ----------
    name : str
        Of the module.
    version : str
    module : module
    is_portable : bool
        Whether its engines are for any GPU, and made without one.
    """

    name: str
    version: str
    module: Any = field(repr=False)
    is_portable: bool


def load_library(name: str) -> Library:
    """Import one of the libraries.

    Parameters
    ----------
    name : str
        ``tensorrt`` or ``tensorrt_rtx``.

    Returns
    -------
    Library

    Raises
    ------
    DependencyError
        If it is not installed, cannot be loaded, or has another API than ours.
    """
    install = f"pip install '{INSTALL[name]}'"
    try:
        module = import_module(name)
        version = str(module.__version__)
        is_known = int(version.partition(".")[0]) in KNOWN_MAJOR[name]
    except ModuleNotFoundError as error:
        if error.name == name:
            raise DependencyError(f"{name} is not installed ({install})") from error
        raise DependencyError(
            f"{name} is installed and lacks {error.name}; install it again: {install}"
        ) from error
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as error:
        raise DependencyError(
            f"{name} is installed and cannot be loaded ({_first_line(error)}); install it again: "
            f"{install}"
        ) from error
    if not is_known:
        majors = " and ".join(str(major) for major in KNOWN_MAJOR[name])
        raise DependencyError(f"{name} {version} is installed, and Neurrate knows {majors}")
    return Library(name, version, module, is_portable=name == "tensorrt_rtx")


def first_library() -> Library:
    """Return the library to use: TensorRT, else TensorRT for RTX.

    Raises
    ------
    DependencyError
        With the reason for each.
    """
    reasons = []
    for name in KNOWN_MAJOR:
        try:
            return load_library(name)
        except DependencyError as error:
            reasons.append(str(error))
    raise DependencyError("; ".join(reasons))


class Listener:
    """What a library said while something was made or loaded.

    Parameters
    ----------
    library : Library

    Attributes
    ----------
    logger : tensorrt.ILogger
        To be handed to the library.
    errors : list of str
        Since the list was last cleared, which is for whoever starts something new.
    """

    def __init__(self, library: Library) -> None:
        trt = library.module
        errors: list[str] = []

        class _Logger(trt.ILogger):  # type: ignore[misc, name-defined] # loaded just now
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if int(severity) <= int(trt.ILogger.Severity.ERROR):
                    errors.append(re.sub(r"\s+", " ", message).strip())
                else:
                    LOG.debug("%s: %s", library.name, message)

        self.errors = errors
        self.logger = _Logger()

    def sentence(self, otherwise: str) -> str:
        """Return the errors as one sentence; `otherwise` if the library gave none."""
        return "; ".join(dict.fromkeys(self.errors)) or otherwise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
