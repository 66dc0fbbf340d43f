"""The plugin's messages: the bytes of version 1.0, older headers, what is none of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contracts.errors import WireError
from stream_sources.rigs.open_ephys.plugin_format import (
    DataBlock,
    OtherMessage,
    SortedSpike,
    TtlEdge,
    data_message,
    read_message,
    spike_message,
    ttl_message,
)

DATA_HEADER = """{
  "message_num": 7,
  "type": "data",
  "content": {
    "stream": "ProbeA-AP",
    "channel_num": 3,
    "channel_name": "CH4",
    "num_samples": 2,
    "sample_num": 697,
    "sample_rate": 30000.0
  },
  "data_size": 8,
  "timestamp": 1764427000123
}"""

SPIKE_HEADER = """{
  "message_num": 8,
  "type": "spike",
  "spike": {
    "stream": "ProbeA-AP",
    "source_node": 102,
    "electrode": "Electrode 1",
    "sample_num": 700,
    "num_channels": 1,
    "num_samples": 40,
    "sorted_id": 2,
    "threshold": [
      -50.0
    ]
  },
  "timestamp": 1764427000123
}"""


def crlf(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def test_bytes_of_continuous_data():
    """Envelope with its NUL, JSON as JUCE writes it, float32."""
    microvolts = np.array([1.0, -2.0], np.float32)
    parts = data_message(7, "ProbeA-AP", 3, 697, 30_000.0, microvolts, 1764427000123)
    assert parts == [b"DATA\x00", crlf(DATA_HEADER), bytes.fromhex("0000803f000000c0")]
    block = read_message(parts)
    assert block == DataBlock(7, "ProbeA-AP", 697, 2, 30_000.0, 3, parts[2])
    assert isinstance(block, DataBlock)
    np.testing.assert_array_equal(block.microvolts(), microvolts)


def test_bytes_of_a_spike():
    """The key is "spike", there is no data_size, and the waveform is float32."""
    parts = spike_message(8, "ProbeA-AP", "Electrode 1", 700, 2, 1764427000123)
    assert parts == [b"EVENT\x00", crlf(SPIKE_HEADER), bytes(160)]
    assert read_message(parts) == SortedSpike(8, "ProbeA-AP", "Electrode 1", 700, 2)


def test_bytes_of_a_ttl_event():
    """Ten bytes: line, state, and the word of all lines."""
    parts = ttl_message(9, "ProbeA-AP", 701, 2, True, 1764427000123)
    assert parts[0] == b"EVENT\x00"
    assert parts[2] == bytes.fromhex("02010400000000000000")
    assert json.loads(parts[1])["data_size"] == 10
    assert read_message(parts) == TtlEdge(9, "ProbeA-AP", 701, 2, is_high=True)


OLD = [
    (
        {
            "message_no": 4,
            "type": "data",
            "content": {
                "n_channels": 16,
                "n_samples": 1024,
                "n_real_samples": 697,
                "timestamp": 1394,
                "sample_rate": 30000,
            },
            "data_size": 65536,
        },
        DataBlock(4, "", 1394, 697, 30_000.0),
    ),
    (
        {"message_no": 4, "type": "data", "content": {"n_real_samples": 697, "timestamp": 9}},
        DataBlock(4, "", 9, 697, None),
    ),
    (
        {"message_no": 4, "type": "data", "content": {"n_real_samples": 0, "timestamp": 9}},
        OtherMessage(4),
    ),
    (
        {"message_no": 5, "type": "spike", "spike": {"timestamp": 1400, "electrode_id": 1}},
        SortedSpike(5, "", "1", 1400, 0),
    ),
    (
        {
            "message_no": 6,
            "type": "event",
            "content": {
                "type": 3,
                "sample_num": 6,
                "event_id": 1,
                "event_channel": 2,
                "timestamp": 1400,
            },
            "data_size": 0,
        },
        TtlEdge(6, "", 1400, 2, is_high=True),
    ),
    ({"message_num": 7, "type": "param", "content": {}}, OtherMessage(7)),
    ({"message_num": 7, "type": "event", "content": {"type": 5}}, OtherMessage(7)),
]


@pytest.mark.parametrize(("header", "message"), OLD)
def test_headers_of_older_versions(header: dict[str, object], message: object):
    """Up to 0.2 a block is one message for all channels and the counter is message_no."""
    assert read_message([b"DATA\0", json.dumps(header).encode(), b""]) == message


BAD = [
    ([b"\x01\x00", b"{}"], "envelope"),
    ([b"DATA\0"], "envelope"),
    ([b"EVENT\0", b'{"message_num": 3, "type": "sp'], "header"),
    ([b"EVENT\0", b"[]"], "header"),
    ([b"EVENT\0", b"\xff\xff"], "header"),
    ([b"EVENT\0", b"{}"], "field"),
    ([b"EVENT\0", b'{"message_num": true, "type": "x"}'], "field"),
    ([b"EVENT\0", b'{"message_num": 3, "type": "spike"}'], "field"),
    ([b"EVENT\0", b'{"message_num": 3, "type": "spike", "spike": {"sample_num": 1e3}}'], "field"),
    ([b"DATA\0", b'{"message_num": 3, "type": "data", "content": {"num_samples": 5}}'], "field"),
    (
        [
            b"EVENT\0",
            b'{"message_num": 3, "type": "event", "content": {"type": 3, "sample_num": 5}}',
            b"123",
        ],
        "field",
    ),
]


@pytest.mark.parametrize(("parts", "reason"), BAD)
def test_what_is_no_message_of_the_plugin_is_refused(parts: list[bytes], reason: str):
    """The reason is short and stable, and no other error leaves."""
    with pytest.raises(WireError) as caught:
        read_message(parts)
    assert caught.value.reason == reason
