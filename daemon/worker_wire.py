"""What the daemon and its narrator worker say to each other. No socket here.

``[kind, msgpack header, ...]``; both ends are the same build on the same machine.

=============  =========  ==========================================================
kind           direction  parts after the kind
=============  =========  ==========================================================
``ready``      to daemon  header: pid, provenance; the worker can take a batch
``narrate``    to worker  header: batch id, populations; float32 patches of all
``said``       to daemon  header: batch id, utterances; the worker is free again
``failed``     to daemon  header: batch id, reason; the worker is free again
=============  =========  ==========================================================
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
from daemon.handover import NarrationBatch


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its model and waits."""

    pid: int
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Said:
    """A batch has been narrated."""

    batch_id: int
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A batch could not be narrated, or no batch ever will be.

    Attributes
    ----------
    batch_id : int
        Of the batch; -1 if the worker could not start.
    reason : str
        One sentence.
    exit_code : int
        0 if the worker goes on; else what it ends with: 2 the user's input, 3 a dependency.
    """

    batch_id: int
    reason: str
    exit_code: int = 0


Reply = Ready | Said | Failed


def pack_batch(batch_id: int, narration_batch: NarrationBatch) -> list[bytes]:
    """Turn a narration batch into parts; the spike counts stay behind."""
    first = narration_batch[0]
    header = {
        "batch_id": batch_id,
        "grid": asdict(first.grid),
        "spec": asdict(first.window.spec),
        "first_bin": first.window.first_bin,
        "populations": [embedding.population for embedding in narration_batch],
        "n_units": [embedding.n_units for embedding in narration_batch],
    }
    patches = np.stack([embedding.patches for embedding in narration_batch])
    return [b"narrate", msgpack.packb(header), patches.tobytes()]


def unpack_batch(parts: Sequence[bytes]) -> tuple[int, list[PatchEmbedding]]:
    """Read a narration batch back; its windows have counts of no bins.

    Returns
    -------
    batch_id : int
    embeddings : list of PatchEmbedding

    Raises
    ------
    WireError
        If the parts are not those of a batch.
    """
    try:
        kind, header_part, buffer = parts
        header = msgpack.unpackb(header_part)
        grid = PatchGrid(**header["grid"])
        populations = header["populations"]
        spec = {**header["spec"], "rate": BinRate(**header["spec"]["rate"])}
        window = Window(
            spec=WindowSpec(**spec),
            first_bin=header["first_bin"],
            counts=np.empty((0, 0), dtype=np.uint16),
        )
        patches = np.frombuffer(buffer, np.float32)
        patches = patches.reshape(len(populations), grid.n_patches, grid.dim)
        embeddings = [
            PatchEmbedding(
                window=window, population=population, n_units=n_units, grid=grid, patches=rows
            )
            for population, n_units, rows in zip(
                populations, header["n_units"], patches, strict=True
            )
        ]
    except (ValueError, TypeError, KeyError, OverflowError, MisuseError) as error:
        raise WireError("worker", f"not a narration batch: {error!r}") from error
    if kind != b"narrate":
        raise WireError("worker", f"a worker takes 'narrate', got {kind!r:.32}")
    return header["batch_id"], embeddings


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
        if kind == b"ready":
            return Ready(header["pid"], Provenance(**header["provenance"]))
        if kind == b"said":
            said = tuple(_utterance(fields) for fields in header["utterances"])
            return Said(header["batch_id"], said)
        if kind == b"failed":
            return Failed(**header)
    except (ValueError, TypeError, KeyError) as error:
        raise WireError("worker", f"not a worker's reply: {error!r}") from error
    raise WireError("worker", f"a worker says ready, said or failed, got {kind!r:.32}")


def _utterance(fields: dict[str, Any]) -> Utterance:
    evidence = fields["evidence"]
    return Utterance(
        **{
            **fields,
            "status": Status(fields["status"]),
            "evidence": Evidence(**evidence) if evidence else None,
        }
    )
