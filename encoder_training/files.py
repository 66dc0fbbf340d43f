"""Files of a run: safetensors that are whole or not there, and values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from contracts.atomic_files import whole_file
from contracts.errors import UserError


@contextmanager
def tensor_file(path: Path) -> Iterator[Path]:
    """Lend another name to write a safetensors file under, as `whole_file` does.

    Raises
    ------
    UserError
        If safetensors cannot write it: a full disk, most often.
    """
    try:
        with whole_file(path) as partial:
            yield partial
    except SafetensorError as error:
        raise UserError(
            f"{path} cannot be written: {str(error).splitlines()[0]}. Make room, or name a folder "
            "on another disk; then give the same command again."
        ) from error


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all.

    `metadata` should have one entry: the order of several varies, and equal tensors would be
    unequal files.
    """
    with tensor_file(path) as partial:
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))


def plain(value: Any) -> Any:
    """Return the same tree with null for numbers that are not finite, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
