"""A safetensors file of one float16 tensor that is written in place: its head, and safe writes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import UserError

TENSOR = "patches"
HALF = np.dtype("<f2")

ALIGNMENT = 8
"""Of the data in a safetensors file, bytes (its format page, huggingface/safetensors)."""

MAX_HEADER_BYTES = 1 << 20
"""A header of one tensor takes about 400 bytes."""

Shape = tuple[int, int, int]
"""Frames, patches of a frame, numbers of a patch."""


def header_of(shape: Shape, metadata: Mapping[str, str]) -> bytes:
    """Return the head of the file, padded so that the data behind it is aligned.

    A header is its own length as eight bytes, then JSON; its length depends on the metadata's
    length alone.
    """
    entries = {
        "__metadata__": dict(metadata),
        TENSOR: {"dtype": "F16", "shape": list(shape), "data_offsets": [0, data_bytes(shape)]},
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def data_bytes(shape: Shape) -> int:
    """Return what the tensor takes, bytes."""
    return int(np.prod(shape, dtype=np.int64)) * HALF.itemsize


def read_layout(path: Path) -> tuple[int, Shape, dict[str, str]]:
    """Read the head of a whole file.

    The offset is where the data begins, bytes.

    Raises
    ------
    UserError
        If it is no such file, or not whole.
    """
    problem = ""
    try:
        entry, metadata, offset = _read_header(path)
        n_frames, n_patches, dim = (int(length) for length in entry["shape"])
        shape = (n_frames, n_patches, dim)
        size = path.stat().st_size
        if entry["dtype"] != "F16" or size != offset + data_bytes(shape):
            problem = f"{entry} in {size:,} bytes"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error)
    if problem:
        raise UserError(
            f"{path} must hold one whole tensor {TENSOR!r}, float16 of three dimensions, and does "
            f"not: {problem}. Prepare the data set again."
        )
    return offset, shape, metadata


def reserve(path: Path, n_bytes: int) -> None:
    """Make a file of a size whose room on the disk is taken; none if there is not enough.

    Raises
    ------
    OSError
        If the disk is full.
    """
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError:
            path.unlink()
            raise


def write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write bytes at a place in a file, and wait until they are on the disk.

    Not through a map of the file: where a write to a map fails, the process ends by a signal.
    """
    rest = memoryview(content)
    while rest:
        n_written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[n_written:], offset + n_written
    os.fsync(descriptor)


def _read_header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(n_header, MAX_HEADER_BYTES)))  # cut short: ValueError
    return header[TENSOR], header.get("__metadata__", {}), 8 + n_header
