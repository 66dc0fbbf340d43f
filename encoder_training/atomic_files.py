"""Files that are whole or not there: written under another name, forced to the disk, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from contracts.errors import UserError

READABLE = 0o644
"""Mode of what is written. safetensors writes for the owner alone, and others export and run it."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Lend another name to write under; the file takes its own when it is whole and on the disk.

    Parameters
    ----------
    path : Path
        Replaced if it is there. It stays as it was when writing ends in an error, or by a signal.

    Yields
    ------
    partial : Path
        In the same folder, its name beginning with a dot.

    Raises
    ------
    UserError
        If safetensors cannot write it: a full disk, most often.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.chmod(READABLE)
        _sync(partial)
        partial.replace(path)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written: {str(error).splitlines()[0]}. Make room, or name a folder "
            "on another disk; then give the same command again."
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all.

    Parameters
    ----------
    path : Path
    content : bytes
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Parameters
    ----------
    path : Path
    text : str
    """
    write_bytes(path, text.encode())


def write_json(path: Path, data: object) -> None:
    """Write indented JSON, whole or not at all.

    Parameters
    ----------
    path : Path
    data : object
        What `json` can hold, without numbers that are not finite.
    """
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to array
        Without holes in memory.
    metadata : mapping of str to str, optional
        Of the header. The order of several entries is chance, and equal tensors would be unequal
        files.
    """
    with whole_file(path) as partial:
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Parameters
    ----------
    folder : Path
    """
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
