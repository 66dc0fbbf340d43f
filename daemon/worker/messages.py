"""What the daemon and its narrator worker say to each other. No socket here.

``[kind, msgpack header, ...]``; both ends are the same build on the same machine.

=============  =========  ==============================================================
kind           direction  parts after the kind
=============  =========  ==============================================================
``ready``      to daemon  header: pid, provenance; the worker can take a window
``narrate``    to worker  header: batch id, populations; float32 patches of all
``cancel``     to worker  header: batch id; the daemon has given the window up
``said``       to daemon  header: what rows have said so far, and those that have ended
``room``       to daemon  the worker can take another window
``failed``     to daemon  header: batch id, reason; nothing more will come of it
``alive``      to daemon  header: pid; twice a second, whatever the worker is doing
=============  =========  ==============================================================
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
from contracts.narration import Evidence, Provenance, Status, Utterance
from contracts.window import Window, WindowSpec
from daemon.narrators.protocol import EndedRow, PartialRow


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A worker has loaded its model and waits."""

    pid: int
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class NarratorOutput:
    """What has come of one step of the narrator."""

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
    """A window could not be narrated, or none ever will be.

    Attributes
    ----------
    batch_id : int
        Of the window; -1 if the worker could not start.
    reason : str
        One sentence.
    exit_code : int
        0 if the worker goes on; else what it ends with: 2 the user's input, 3 a dependency.
    """

    batch_id: int
    reason: str
    exit_code: int = 0


Reply = ModelLoaded | NarratorOutput | ReadyForNext | Failed | Heartbeat


@dataclass(frozen=True, slots=True)
class Narrate:
    """A window to narrate.

    Attributes
    ----------
    batch_id : int
    embeddings : tuple of PatchEmbedding
        One for each population; their windows have counts of no bins.
    with_partials : bool
        Whether somebody listens to what is said before it is whole.
    """

    batch_id: int
    embeddings: tuple[PatchEmbedding, ...]
    with_partials: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """A window that nobody waits for any more."""

    batch_id: int


Order = Narrate | Cancel


def pack_order(order: Order) -> list[bytes | memoryview]:
    """Turn an order to the worker into parts; the spike counts stay behind."""
    if isinstance(order, Cancel):
        return [b"cancel", msgpack.packb(asdict(order))]
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
    patches = np.stack([embedding.patches for embedding in order.embeddings])
    return [b"narrate", msgpack.packb(header), patches.data.cast("B")]


def unpack_order(parts: Sequence[bytes]) -> Order:
    """Read an order to the worker.

    Raises
    ------
    WireError
        If the parts are not those of one.
    """
    try:
        kind, header_part, *buffers = parts
        header = msgpack.unpackb(header_part)
        if kind == b"cancel":
            return Cancel(**header)
        if kind == b"narrate":
            (buffer,) = buffers
            return _narrate_order(header, buffer)
    except (ValueError, TypeError, KeyError, OverflowError, MisuseError) as error:
        raise WireError("worker", f"not an order to a worker: {error!r}") from error
    raise WireError("worker", f"a worker takes narrate and cancel, got {kind!r:.32}")


def _narrate_order(header: dict[str, Any], buffer: bytes) -> Narrate:
    grid = PatchGrid(**header["grid"])
    populations = header["populations"]
    window = Window(
        spec=WindowSpec(**{**header["spec"], "rate": BinRate(**header["spec"]["rate"])}),
        first_bin=header["first_bin"],
        counts=np.empty((0, 0), dtype=np.uint16),
    )
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
    return [type(reply).__name__.lower().encode(), msgpack.packb(asdict(reply))]


def unpack_reply(parts: Sequence[bytes]) -> Reply:
    """Read a worker's reply.

    Raises
    ------
    WireError
        If the parts are not those of a reply.
    """
    try:
        kind, header_part = parts
        header: dict[str, Any] = msgpack.unpackb(header_part)
        if kind == b"modelloaded":
            return ModelLoaded(header["pid"], Provenance(**header["provenance"]))
        if kind == b"narratoroutput":
            return NarratorOutput(
                tuple(PartialRow(**fields) for fields in header["partials"]),
                tuple(_ended(fields) for fields in header["ended"]),
            )
        if kind == b"failed":
            return Failed(**header)
        if kind == b"readyfornext":
            return ReadyForNext(**header)
        if kind == b"heartbeat":
            return Heartbeat(**header)
    except (ValueError, TypeError, KeyError) as error:
        raise WireError("worker", f"not a worker's reply: {error!r}") from error
    raise WireError("worker", f"not a worker's reply: {kind!r:.32}")


def _ended(fields: dict[str, Any]) -> EndedRow:
    said = fields["utterance"]
    evidence = said["evidence"]
    utterance = Utterance(
        **{
            **said,
            "status": Status(said["status"]),
            "evidence": Evidence(**evidence) if evidence else None,
        }
    )
    return EndedRow(fields["batch_id"], fields["row"], utterance)
