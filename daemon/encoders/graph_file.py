"""Reads the file of a graph: only bytes that the manifest's sha256 covers, no other file.

ONNX lets a tensor be stored in another file ("external data"), at any path. A runtime that opens a
graph by its path loads such files too, and the manifest's sha256 does not cover them. Bundles do
not need them, so a graph that names one is refused. Runtimes are given the bytes that were checked,
not a path: its file could be replaced after the check.

References
----------
onnx/onnx.proto3, for the numbers of the fields; protobuf.dev, "Encoding".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import ManifestError

TENSOR, ENTRY, LOCATION = "TensorProto", "StringStringEntryProto", "location"
EXTERNAL_DATA, DATA_LOCATION, EXTERNAL = 13, 14, 1
"""Fields of a tensor, and the value of the second for one that is stored in another file."""

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: TENSOR, 6: "GraphProto", 10: TENSOR, 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
}  # fmt: skip
"""By message, the fields that are messages in which a tensor may be."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

MAX_DEPTH = 100
"""Depth of nested messages; protobuf's own limit. An encoder has 5."""

MAX_SHOWN = 5


def read_graph(path: Path, *, sha256: str | None = None) -> bytes:
    """Read a self-contained graph; `sha256` is the one in the manifest, if there is one.

    Raises
    ------
    ManifestError
        If it cannot be read, has another hash, is not a protobuf message, or names other files.
    """
    folder = str(path.parent)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(folder, f"{path.name} cannot be read: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        problem = f"{path.name} has another sha256 than the manifest says; it was changed or cut"
        raise ManifestError(folder, problem)
    try:
        names = sorted(set(external_files(content)))
    except (ValueError, IndexError) as error:
        raise ManifestError(folder, f"{path.name} is no ONNX graph: {error}") from error
    if names:
        shown = ", ".join(map(repr, names[:MAX_SHOWN])) + ("..." if len(names) > MAX_SHOWN else "")
        raise ManifestError(
            folder,
            f"{path.name} keeps weights in other files, {shown}, which the manifest's sha256 does "
            "not cover; export the encoder again, as one file",
        )
    return content


def external_files(content: bytes) -> Iterator[str]:
    """Yield the path of every external tensor of an ONNX model, or "" where it states none.

    Raises
    ------
    ValueError, IndexError
        If it is not a protobuf message, or is truncated.
    """
    yield from _in_message(memoryview(content), "ModelProto", 0)


def _in_message(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} messages are nested in one another")
    is_external, location = False, ""
    for number, value in _fields(message):
        inner = MESSAGES.get(kind, {}).get(number)
        if inner and isinstance(value, memoryview):
            yield from _in_message(value, inner, depth + 1)
        elif kind == TENSOR and number == DATA_LOCATION:
            is_external |= value == EXTERNAL
        elif kind == TENSOR and number == EXTERNAL_DATA and isinstance(value, memoryview):
            is_external = True  # whatever DATA_LOCATION is: some readers look at this field only
            entry = dict(_fields(value))
            if _text(entry.get(1)) == LOCATION:
                location = _text(entry.get(2))
    if is_external:
        yield location


def _text(value: memoryview | int | None) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and value of each field; the content of fixed-size ones is not needed.

    Raises
    ------
    ValueError
        If it breaks the encoding. Groups do too: nothing writes them, and a runtime skips them.
    """
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == BYTES:
            size, position = _varint(message, position)
        elif wire_type in {FIXED64, FIXED32}:
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position} is not one of protobuf 3")
        if position + size > len(message):
            raise ValueError(f"a field of {size} bytes is cut at byte {position}")
        if wire_type == BYTES:
            yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} is longer than 64 bits")
