"""What a graph says of itself is found wherever it stands in the file."""

from __future__ import annotations

import pytest

from contracts.manifest import ENCODER_ONNX
from daemon.encoders.graph_metadata import read_metadata


def entry(key: bytes, value: bytes) -> bytes:
    """Return a metadata entry as field 14 of a message."""
    inner = b"".join(
        bytes([number << 3 | 2, len(text)]) + text for number, text in ((1, key), (2, value))
    )
    return bytes([14 << 3 | 2, len(inner)]) + inner


GRAPH = b"\x3a\x85\x02" + b"\x72\x10bfloat16" + b"z" * 251
"""Field 7, 261 bytes that look like metadata here and there."""
VERSION = b"\x08\x0a"
"""Field 1, a number."""
FIXED = b"\x1d\0\0\0\0" + b"\x21\0\0\0\0\0\0\0\0"
"""Fields 3 and 4, numbers of four and of eight bytes."""


def test_real_graph(tiny_bundle):
    """What the exporter wrote is read, without ONNX Runtime."""
    assert read_metadata(tiny_bundle.folder / ENCODER_ONNX) == {"precision": "float32"}


@pytest.mark.parametrize(
    "content",
    [
        entry(b"precision", b"bfloat16") + VERSION + GRAPH,
        VERSION + entry(b"precision", b"bfloat16") + FIXED + GRAPH,
        GRAPH + FIXED + entry(b"precision", b"bfloat16"),
    ],
)
def test_order_of_fields_is_free(tmp_path, content):
    """Protobuf promises no order: metadata may stand first, last or between."""
    (tmp_path / "graph").write_bytes(content)
    assert read_metadata(tmp_path / "graph") == {"precision": "bfloat16"}


@pytest.mark.parametrize(
    "content",
    [b"", b"not a graph", GRAPH[:40], b"\x08", b"\x08" + b"\xff" * 20, entry(b"", b"")[:1]],
)
def test_no_message_no_metadata(tmp_path, content):
    """A file that is cut, or no protobuf message, says nothing and stops nobody."""
    (tmp_path / "graph").write_bytes(content)
    assert read_metadata(tmp_path / "graph") == {}


def test_missing_file_says_nothing(tmp_path):
    """Whoever opens the graph says that it is not there."""
    assert read_metadata(tmp_path / "none") == {}
