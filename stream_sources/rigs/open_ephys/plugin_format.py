"""The messages of the ZMQ Interface plugin, read and written. No socket here.

A message has two or three parts: an envelope that ends in NUL, a header in JSON, a payload. The
layout is that of open-ephys-plugins/zmq-interface ``Source/ZmqInterface.cpp`` at 3851391 (version
1.0.0) and, for versions up to 0.2, at 519cc97. Numbers in payloads are little-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import WireError, shown

DATA, EVENT = b"DATA\0", b"EVENT\0"
"""Envelopes of continuous data, and of TTL events and spikes."""

TTL_EVENT = 3
"""``type`` of a TTL event; the plugin's other types are settings and texts."""

TTL_PAYLOAD = struct.Struct("<BBQ")
"""Line from 0, state, and the word of all lines."""

DATA_HEADER = """{{
  "message_num": {number},
  "type": "data",
  "content": {{
    "stream": {stream},
    "channel_num": {channel},
    "channel_name": "CH{next_channel}",
    "num_samples": {n_samples},
    "sample_num": {first_sample},
    "sample_rate": {rate_hz}
  }},
  "data_size": {n_bytes},
  "timestamp": {unix_ms}
}}""".replace("\n", "\r\n")
"""Filled in for each channel of each block; json.dumps with an indent takes five times as long."""

MAX_SAMPLE = 1 << 40
"""Sample numbers beyond it, 424 days at 30 kHz, are damage and not time."""

HEARTBEAT_REPLY = b"heartbeat received"


class DataBlock(NamedTuple):
    """Continuous data of one channel (up to version 0.2, of all): the rig's clock.

    `rate_hz` is None where a version does not send it, `channel` where the block has all of them.
    `payload` holds float32, not looked at yet; `microvolts` reads it.
    """

    number: int
    stream: str
    first_sample: int
    n_samples: int
    rate_hz: float | None
    channel: int | None = None
    payload: bytes = b""

    def microvolts(self) -> NDArray[np.float32]:
        """Return the voltages of one channel, shape (n_samples,).

        Raises
        ------
        WireError
            If there are not as many as the header says.
        """
        if self.channel is None or len(self.payload) != 4 * self.n_samples:
            raise WireError(
                "field",
                f"a block of {self.n_samples} samples of one channel needs "
                f"{4 * self.n_samples} bytes, got {len(self.payload)}",
            )
        return np.frombuffer(self.payload, dtype="<f4")


class SortedSpike(NamedTuple):
    """A spike; `sorted_id` is 0 for one that the GUI has not sorted."""

    number: int
    stream: str
    electrode: str
    sample: int
    sorted_id: int


class TtlEdge(NamedTuple):
    """A change of a TTL line, which counts from 0."""

    number: int
    stream: str
    sample: int
    line: int
    is_high: bool


class OtherMessage(NamedTuple):
    """Something else, known by its number alone."""

    number: int


PluginMessage = DataBlock | SortedSpike | TtlEdge | OtherMessage


def read_message(parts: Sequence[bytes]) -> PluginMessage:
    """Read one message of any version from 0.2 to 1.0.

    Raises
    ------
    WireError
        If it is no message of the plugin, with ``reason`` "envelope", "header" or "field".
    """
    if len(parts) not in {2, 3} or parts[0] not in {DATA, EVENT}:
        raise WireError(
            "envelope",
            f"a message of {len(parts)} parts that begins with {parts[0][:16]!r} is not one of "
            "the ZMQ Interface; is the port that of another plugin, such as Event Broadcaster?",
        )
    try:
        header = json.loads(parts[1])
    except ValueError as error:
        raise WireError(
            "header",
            f"the header is not whole JSON ({error}). The plugin cuts it where the name of a "
            "stream, channel or electrode is not ASCII; rename those",
        ) from error
    if not isinstance(header, dict):
        raise WireError("header", "the header is not a JSON object")
    number = _integer(header, "message_num", "message_no")
    match header.get("type"):
        case "data":
            return _read_data(number, _object(header, "content"), parts[2:])
        case "spike":
            return _read_spike(number, _object(header, "spike"))
        case "event":
            return _read_event(number, _object(header, "content"), parts[2:])
    return OtherMessage(number)


def data_message(
    number: int,
    stream: str,
    channel: int,
    first_sample: int,
    rate_hz: float,
    microvolts: NDArray[np.float32],
    unix_ms: int,
) -> list[bytes]:
    """Return one channel's block, `microvolts` of shape (n_samples,), as version 1.0 sends it."""
    payload = microvolts.astype("<f4").tobytes()
    text = DATA_HEADER.format(
        number=number,
        stream=json.dumps(stream),
        channel=channel,
        next_channel=channel + 1,
        n_samples=len(microvolts),
        first_sample=first_sample,
        rate_hz=rate_hz,
        n_bytes=len(payload),
        unix_ms=unix_ms,
    )
    return [DATA, text.encode("ascii"), payload]


def spike_message(
    number: int, stream: str, electrode: str, sample: int, sorted_id: int, unix_ms: int
) -> list[bytes]:
    """Return a spike with a flat waveform of one channel and 40 samples."""
    spike = {
        "stream": stream,
        "source_node": 102,
        "electrode": electrode,
        "sample_num": sample,
        "num_channels": 1,
        "num_samples": 40,
        "sorted_id": sorted_id,
        "threshold": [-50.0],
    }
    header = _header(number, "spike", {"spike": spike, "timestamp": unix_ms})
    return [EVENT, header, bytes(4 * 40)]


def ttl_message(
    number: int, stream: str, sample: int, line: int, is_high: bool, unix_ms: int
) -> list[bytes]:
    """Return the change of one TTL line; the word has this line alone."""
    content = {"stream": stream, "source_node": 100, "type": TTL_EVENT, "sample_num": sample}
    fields = {"content": content, "data_size": TTL_PAYLOAD.size, "timestamp": unix_ms}
    payload = TTL_PAYLOAD.pack(line, is_high, is_high << line)
    return [EVENT, _header(number, "event", fields), payload]


def _header(number: int, kind: str, fields: dict[str, Any]) -> bytes:
    """Return a header as JUCE writes it: two spaces, CRLF, no NUL."""
    text = json.dumps({"message_num": number, "type": kind, **fields}, indent=2)
    return text.replace("\n", "\r\n").encode("ascii")


def _read_data(number: int, content: dict[str, Any], payload: Sequence[bytes]) -> PluginMessage:
    n_samples = _integer(content, "num_samples", "n_real_samples")
    if n_samples <= 0:  # up to 0.2 they are sent
        return OtherMessage(number)
    rate_hz = content.get("sample_rate")
    if rate_hz is not None and not isinstance(rate_hz, int | float):
        raise WireError("field", f"sample_rate must be a number, got {shown(repr(rate_hz))}")
    return DataBlock(
        number,
        str(content.get("stream", "")),
        _integer(content, "sample_num", "timestamp"),
        n_samples,
        None if rate_hz is None else float(rate_hz),
        _integer(content, "channel_num") if "channel_num" in content else None,
        payload[0] if payload else b"",
    )


def _read_spike(number: int, spike: dict[str, Any]) -> SortedSpike:
    # Up to 0.2 spikes had an electrode_id and a timestamp, and no sorted_id.
    electrode = spike.get("electrode", spike.get("electrode_id", ""))
    sorted_id = _integer(spike, "sorted_id") if "sorted_id" in spike else 0
    sample = _integer(spike, "sample_num", "timestamp")
    return SortedSpike(number, str(spike.get("stream", "")), str(electrode), sample, sorted_id)


def _read_event(number: int, content: dict[str, Any], payload: Sequence[bytes]) -> PluginMessage:
    if content.get("type") != TTL_EVENT:
        return OtherMessage(number)
    stream = str(content.get("stream", ""))
    if "event_channel" in content:  # up to 0.2
        sample = _integer(content, "timestamp", "sample_num")
        line, state = _integer(content, "event_channel"), _integer(content, "event_id")
        return TtlEdge(number, stream, sample, line, bool(state))
    if not payload or len(payload[0]) != TTL_PAYLOAD.size:
        raise WireError("field", f"a TTL event has a payload of {TTL_PAYLOAD.size} bytes")
    line, state, _ = TTL_PAYLOAD.unpack(payload[0])
    return TtlEdge(number, stream, _integer(content, "sample_num"), line, bool(state))


def _object(header: dict[str, Any], key: str) -> dict[str, Any]:
    value = header.get(key)
    if not isinstance(value, dict):
        raise WireError("field", f"{key} must be a JSON object, got {shown(repr(value))}")
    return value


def _integer(fields: dict[str, Any], *keys: str) -> int:
    """Return the first of several fields that is there.

    Raises
    ------
    WireError
        If there is none, or it is no integer within bounds.
    """
    value = next((fields[key] for key in keys if key in fields), None)
    if type(value) is not int or abs(value) > MAX_SAMPLE:
        raise WireError("field", f"{keys[0]} must be an integer, got {shown(repr(value))}")
    return value
