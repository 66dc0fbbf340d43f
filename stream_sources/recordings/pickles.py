"""Files that run code when they are read, in folders that SpikeInterface loads."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import RecordingError

UNSAFE = (".pkl", ".pickle")

UNREAD = "provenance.pkl"
"""Where SpikeInterface notes what a saved recording was made of; it does not load it."""

PLAIN = frozenset(
    (f"{package}.{module}" if module else package, name)
    for package in ("numpy", "numpy.core", "numpy._core")
    for module, name in (
        ("", "ndarray"), ("", "dtype"), ("multiarray", "_reconstruct"), ("multiarray", "scalar"),
    )
)  # fmt: skip
"""What an array of texts needs to be unpickled. None of it runs what the pickle says."""


def refuse_pickles(path: Path, *, besides: Sequence[str] = ()) -> None:
    """Refuse a pickle, and a folder in which SpikeInterface might load one.

    An array of Python objects (``.npy``) is a pickle too. SpikeInterface saves texts so, and reads
    them: these are let through, and nothing else.

    Parameters
    ----------
    besides : sequence of str
        Folders in it that are not loaded.

    Raises
    ------
    RecordingError
        If there is one, with its name.
    """
    inside = path.rglob("*") if path.is_dir() else iter([path])
    for file in inside:
        if file.name == UNREAD or (besides and set(file.relative_to(path).parts) & set(besides)):
            continue
        if _is_unsafe(file, besides):
            raise RecordingError(
                str(file),
                "a pickle may run any program, and is not read. Save it anew with SpikeInterface: "
                '.save(folder=...), or .dump("recording.json") of a recording',
            )


def _is_unsafe(file: Path, besides: Sequence[str]) -> bool:
    if file.suffix == ".npy" and file.is_file():
        return not _is_plain_array(file)
    if file.name == ".zmetadata":
        return _has_pickled_array(file, besides)
    return file.suffix in UNSAFE or (file.name == ".zarray" and b'"pickle"' in file.read_bytes())


def _has_pickled_array(file: Path, besides: Sequence[str]) -> bool:
    """Whether the file that Zarr reads in place of every ``.zarray`` names a pickle."""
    try:
        entries = json.loads(file.read_bytes())["metadata"]
        return any(
            '"pickle"' in json.dumps(entry)
            for name, entry in entries.items()
            if not set(name.split("/")) & set(besides)
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # Zarr cannot read it either
        return False


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle that needs more than arrays, texts and references."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            text = f"the pickle needs {module}.{name}; only texts and references are read"
            raise UnsafePickleError(text)
        return super().find_class(module, name)


class _ChunkUnpickler(_PlainUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        # A dict with a constructor of its own, which unpickling does not call.
        if (module, name) == ("hdmf_zarr.utils", "ZarrReference"):
            return dict
        return super().find_class(module, name)


def load_plain(data: bytes) -> Any:
    """Return a pickled array of texts or of hdmf-zarr's references, which become dicts.

    Raises
    ------
    UnsafePickleError
        If it needs anything else, before that is loaded.
    pickle.UnpicklingError
        If it is damaged; also other errors.
    """
    return _ChunkUnpickler(io.BytesIO(data)).load()


def _is_plain_array(path: Path) -> bool:
    """Whether an array can be read without running anything; what is no array cannot be read."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            if not read_header(file)[2].hasobject:
                return True
            _PlainUnpickler(file).load()
        except pickle.UnpicklingError:
            return False
        except Exception:  # whatever a broken file makes these raise; its reader will say so
            return True
    return True
