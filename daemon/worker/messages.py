"""The messages between the daemon and its narrator worker. No socket here.

``[kind, msgpack header, ...]``. Both ends are the same build on the same machine, so there is no
version: what is not understood is an error on either side. `ORDERS` and `REPLIES` are the kinds.
The exchange, after the worker has loaded its model::

    worker: loaded                      pid, provenance; it has room for a window
    daemon: narrate                     batch id, populations, float32 patches of all
    worker: output, output, ...         rows as they grow and as they end
    worker: ready                       room for another window; may come before the last row
    daemon: cancel                      batch id; the daemon has given that window up
    worker: failed                      batch id, reason; no more rows of that window will come

and ``heartbeat`` twice a second on a connection of its own, whatever the worker is doing.

Patches travel as one raw buffer after the header: at 24 x 24 x 1024, 2.4 MB a population, which
msgpack would copy. Spike counts are not sent; the narrator does not need them.

Invariants (``tests/daemon/worker/test_messages.py``):

1. What one end packs the other reads, equal: ``test_batch_round_trip``, ``test_reply_round_trip``
2. Anything else is a `WireError`, whatever it is: ``test_noise_is_a_wire_error``,
   ``test_mangled_batch_is_a_wire_error_or_a_value``,
   ``test_mangled_reply_is_a_wire_error_or_a_value``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
import numpy as np

from contracts.binning import BinRate
from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.errors import MisuseError, WireError
from contracts.narration import Evidence, NamedFeature, Provenance, Status, Utterance
from contracts.window import Window, WindowSpec
from daemon.narrators.protocol import EndedRow, PartialRow


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """The worker has loaded its model, and can take a window."""

    pid: int
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class NarratorOutput:
    """The rows that one step of the narrator has advanced or ended."""

    partials: tuple[PartialRow, ...] = ()
    ended: tuple[EndedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadyForNext:
    """The worker can take another window."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker's process runs, busy or not."""

    pid: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A window could not be narrated, or the worker cannot start.

    `batch_id` is -1 if the worker could not start. `exit_code` is 0 if it continues; else its own:
    2 the user's input, 3 a dependency.
    """

    batch_id: int
    reason: str
    exit_code: int = 0


Reply = ModelLoaded | NarratorOutput | ReadyForNext | Failed | Heartbeat


@dataclass(frozen=True, slots=True)
class Narrate:
    """A window to narrate.

    One embedding for each population; as received, their windows have counts of no bins.
    """

    batch_id: int
    embeddings: tuple[PatchEmbedding, ...]
    with_partials: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """The daemon has given a window up."""

    batch_id: int


Order = Narrate | Cancel

# A kind is what goes over the wire, chosen apart from the class names, which may change.
ORDERS: dict[bytes, type[Order]] = {b"narrate": Narrate, b"cancel": Cancel}
REPLIES: dict[bytes, type[Reply]] = {
    b"loaded": ModelLoaded,
    b"output": NarratorOutput,
    b"ready": ReadyForNext,
    b"failed": Failed,
    b"heartbeat": Heartbeat,
}
_KINDS = {message_class: kind for kind, message_class in (*ORDERS.items(), *REPLIES.items())}


def pack_order(order: Order) -> list[bytes | memoryview]:
    """Turn an order to the worker into parts, without the spike counts."""
    if isinstance(order, Cancel):
        return [_KINDS[Cancel], msgpack.packb(asdict(order))]
    # Window and grid are the same for all populations of a batch, and are sent once.
    first = order.embeddings[0]
    header = {
        "batch_id": order.batch_id,
        "with_partials": order.with_partials,
        "grid": asdict(first.grid),
        "spec": asdict(first.window.spec),
        "first_bin": first.window.first_bin,
        "populations": [embedding.population for embedding in order.embeddings],
        "n_units": [embedding.n_units for embedding in order.embeddings],
    }
    # One copy, into one buffer: the embeddings may be views of the encoder's output.
    patches = np.stack([embedding.patches for embedding in order.embeddings])
    return [_KINDS[Narrate], msgpack.packb(header), patches.data.cast("B")]


def unpack_order(parts: Sequence[bytes]) -> Order:
    """Read an order to the worker.

    Raises
    ------
    WireError
        If the parts are not those of one.
    """
    # An error here ends the worker, and the daemon starts another: it can only be internal.
    try:
        kind, header_part, *buffers = parts
        order_class = ORDERS[kind]
        header = msgpack.unpackb(header_part)
        if order_class is Cancel:
            return Cancel(**header)
        (buffer,) = buffers  # exactly one, or it is a ValueError like the rest
        return _narrate_order(header, buffer)
    # Whatever a header may hold: our own types refuse it with one of these.
    except (ValueError, TypeError, KeyError, OverflowError, MisuseError) as error:
        raise WireError("worker", f"not an order to a worker: {error!r:.200}") from error


def _narrate_order(header: dict[str, Any], buffer: bytes) -> Narrate:
    # Both types check their own values, so that an impossible rate or grid goes no further.
    grid = PatchGrid(**header["grid"])
    populations = header["populations"]
    # No counts: a narrator needs the window for its span and its number alone.
    window = Window(
        spec=WindowSpec(**{**header["spec"], "rate": BinRate(**header["spec"]["rate"])}),
        first_bin=header["first_bin"],
        counts=np.empty((0, 0), dtype=np.uint16),
    )
    # A view of the message; `reshape` refuses a buffer of any other length.
    patches = np.frombuffer(buffer, np.float32)
    patches = patches.reshape(len(populations), grid.n_patches, grid.dim)
    embeddings = tuple(
        PatchEmbedding(
            window=window, population=population, n_units=n_units, grid=grid, patches=rows
        )
        for population, n_units, rows in zip(populations, header["n_units"], patches, strict=True)
    )
    return Narrate(header["batch_id"], embeddings, header["with_partials"])


def pack_reply(reply: Reply) -> list[bytes]:
    """Turn a worker's reply into parts."""
    return [_KINDS[type(reply)], msgpack.packb(asdict(reply))]


def unpack_reply(parts: Sequence[bytes]) -> Reply:
    """Read a worker's reply.

    Raises
    ------
    WireError
        If the parts are not those of a reply.
    """
    # Strict on both sides: a missing or an extra field is a TypeError or a KeyError.
    try:
        kind, header_part = parts
        reply_class = REPLIES[kind]
        header: dict[str, Any] = msgpack.unpackb(header_part)
        if reply_class is ModelLoaded:
            return ModelLoaded(header["pid"], Provenance(**header["provenance"]))
        if reply_class is NarratorOutput:
            return NarratorOutput(
                tuple(PartialRow(**fields) for fields in header["partials"]),
                tuple(_ended(fields) for fields in header["ended"]),
            )
        return reply_class(**header)
    except (ValueError, TypeError, KeyError) as error:
        raise WireError("worker", f"not a worker's reply: {error!r:.200}") from error


def _ended(fields: dict[str, Any]) -> EndedRow:
    # msgpack holds no enums and no classes: `asdict` made texts and maps of them.
    values = fields["utterance"]
    evidence, features = values["evidence"], values["features"]
    utterance = Utterance(
        **{
            **values,
            "status": Status(values["status"]),
            "evidence": Evidence(**evidence) if evidence else None,
            "features": None if features is None else tuple(NamedFeature(**f) for f in features),
        }
    )
    return EndedRow(fields["batch_id"], fields["row"], utterance)
