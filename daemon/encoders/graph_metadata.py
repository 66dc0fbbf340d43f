"""What an ONNX file says of itself, read without ONNX: also where no session can be opened.

An ONNX file is one protobuf message, ``ModelProto``: fields in any order, each a tag and a value
whose length is known (protobuf.dev, "Encoding"). Those that are not wanted are passed over, so
that a graph of a gigabyte costs a few reads. Field 14 is ``metadata_props``, entries of a key
(field 1) and a value (field 2) (github.com/onnx/onnx, onnx/onnx.proto).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

METADATA_PROPS, KEY, VALUE = 14, 1, 2
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types; 3 and 4, groups, are in no ONNX file."""

MAX_VARINT_BYTES = 10
MAX_ENTRY_BYTES = 1 << 20
"""Of a field that is read: names and numbers, never weights."""


def read_metadata(path: Path) -> dict[str, str]:
    """Read the entries that an exporter left in a graph.

    Parameters
    ----------
    path : Path
        Of the ``.onnx`` file.

    Returns
    -------
    metadata : dict of str to str
        Empty if it has none, or if the file is not one protobuf message.
    """
    try:
        with path.open("rb") as file:
            entries = [dict(_fields(io.BytesIO(one), {KEY, VALUE})) for one in _metadata_of(file)]
        return {entry[KEY].decode(): entry.get(VALUE, b"").decode() for entry in entries}
    except (OSError, ValueError, KeyError):
        return {}


def _metadata_of(file: BinaryIO) -> Iterator[bytes]:
    return (content for _, content in _fields(file, {METADATA_PROPS}))


def _fields(file: BinaryIO, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the wanted fields that have a length.

    Raises
    ------
    ValueError
        If the bytes are no protobuf message.
    """
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    while file.tell() < end:
        number, wire_type = divmod(_varint(file), 8)
        if wire_type == VARINT:
            _varint(file)
        elif wire_type in {FIXED64, FIXED32}:
            file.seek(8 if wire_type == FIXED64 else 4, io.SEEK_CUR)
        elif wire_type == LENGTH:
            size = _varint(file)
            if size > end - file.tell():
                raise ValueError("a field is longer than the message")
            if number in wanted and size <= MAX_ENTRY_BYTES:
                yield number, file.read(size)
            else:
                file.seek(size, io.SEEK_CUR)
        else:
            raise ValueError(f"wire type {wire_type} is in no ONNX file")


def _varint(file: BinaryIO) -> int:
    value = 0
    for row in range(MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise ValueError("the message ends in a number")
        value |= (byte[0] & 0x7F) << (7 * row)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is longer than ten bytes")
