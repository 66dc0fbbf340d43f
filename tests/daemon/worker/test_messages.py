"""Daemon and worker: what one packs the other reads, and nothing else gets through."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import WireError
from contracts.narration import Evidence, NamedFeature, Provenance, Status, Utterance
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.worker.messages import (
    REPLIES,
    Cancel,
    Failed,
    Heartbeat,
    ModelLoaded,
    Narrate,
    NarratorOutput,
    Order,
    ReadyForNext,
    Reply,
    pack_order,
    pack_reply,
    unpack_order,
    unpack_reply,
)
from tests.support.daemon_components import embeddings_of
from tests.support.tiny_bundle import tiny_windows

JUNK = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def through(order: Order) -> Order:
    """Return an order as the worker reads it."""
    return unpack_order([bytes(part) for part in pack_order(order)])


def narrate_parts() -> list[bytes]:
    """Return an order as it is sent."""
    order = Narrate(1, tuple(embeddings_of(tiny_windows(1)[0])))
    return [bytes(part) for part in pack_order(order)]


def test_cancel_round_trip():
    """It names its window."""
    assert through(Cancel(2**40)) == Cancel(2**40)


def test_batch_round_trip():
    """Patches, populations and window come back; the spike counts stay behind."""
    window = replace(tiny_windows(3)[2], blind_streams=("probeB",))
    sent = embeddings_of(window, ("all", "PV"))
    got = through(Narrate(7, tuple(sent), with_partials=True))
    assert isinstance(got, Narrate)
    assert (got.batch_id, got.with_partials) == (7, True)
    assert [embedding.population for embedding in got.embeddings] == ["all", "PV"]
    for mine, theirs in zip(sent, got.embeddings, strict=True):
        assert np.array_equal(mine.patches, theirs.patches)
        assert (mine.grid, mine.n_units) == (theirs.grid, theirs.n_units)
        assert (mine.window.spec, mine.window.seq) == (theirs.window.spec, theirs.window.seq)
        assert theirs.window.counts.size == 0


@pytest.mark.parametrize(
    "reply",
    [
        ModelLoaded(12, Provenance("b", "llava", "m", "p")),
        NarratorOutput(),
        NarratorOutput(
            (PartialRow(2**40, 3, "Ein H", 2),),
            (
                EndedRow(
                    2**40,
                    0,
                    Utterance(
                        "Ein Hund.", Status.OK, n_tokens=3, evidence=Evidence("1", "A dog.", 0.5)
                    ),
                ),
                EndedRow(
                    1,
                    2,
                    Utterance(
                        "",
                        Status.FAILED,
                        "because",
                        mean_logprob=-0.5,
                        features=(NamedFeature(3, "Nacht", 1.5), NamedFeature(0, "", 0.5)),
                        start_host_ns=2**60,
                    ),
                ),
            ),
        ),
        ReadyForNext(),
        Heartbeat(77),
        Failed(3, "no memory"),
        Failed(-1, "no model", exit_code=2),
    ],
)
def test_reply_round_trip(reply: Reply):
    """Every reply comes back equal."""
    assert unpack_reply(pack_reply(reply)) == reply


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_noise_is_a_wire_error(parts: list[bytes]):
    """Random parts are refused by both ends."""
    with pytest.raises(WireError):
        unpack_order(parts)
    with pytest.raises(WireError):
        unpack_reply(parts)


@given(st.sampled_from(["grid", "spec", "first_bin", "populations", "n_units", "batch_id"]), JUNK)
def test_mangled_batch_is_a_wire_error_or_a_value(key: str, junk: object):
    """Whatever stands in one field, nothing but WireError is raised."""
    parts = narrate_parts()
    header = msgpack.unpackb(parts[1])
    header[key] = junk
    try:
        unpack_order([parts[0], msgpack.packb(header), parts[2]])
    except WireError:
        pass


@pytest.mark.parametrize("rate", [{"num": 0, "den": 1}, {"num": 1, "den": -1}])
def test_impossible_rate_is_a_wire_error(rate: dict[str, int]):
    """What our own types refuse is the peer's error here."""
    parts = narrate_parts()
    header = msgpack.unpackb(parts[1])
    header["spec"]["rate"] = rate
    with pytest.raises(WireError):
        unpack_order([parts[0], msgpack.packb(header), parts[2]])


@given(st.sampled_from(list(REPLIES)), JUNK)
def test_mangled_reply_is_a_wire_error_or_a_value(kind: bytes, junk: object):
    """Whatever the header is, nothing but WireError is raised."""
    try:
        unpack_reply([kind, msgpack.packb(junk)])
    except WireError:
        pass
