"""The VoltageSource protocol: what a probe's voltages look like to the online sorter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.spikes import Mark


@dataclass(frozen=True, slots=True, eq=False)
class ProbeLayout:
    """Where the channels of a probe are.

    Attributes
    ----------
    channel_ids : tuple of str
        In the order of the columns of a chunk.
    positions_um : array, shape (n_channels, 2), float64, micrometres
        Across the shank and along it, from the tip.
    """

    channel_ids: tuple[str, ...]
    positions_um: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class VoltageChunk:
    """Consecutive samples of all channels.

    Attributes
    ----------
    run : str
        Sixteen hex digits; a new one where sample numbers begin anew.
    first_sample : int
        Number of the first sample since the run's sample 0. One beyond the end of the chunk before
        tells that what is between is lost.
    voltages_uv : array, shape (n_samples, n_channels), float32, microvolts
        As recorded: neither filtered nor referenced.
    """

    run: str
    first_sample: int
    voltages_uv: NDArray[np.float32]


class VoltageSource(Protocol):
    """A probe that records, or a recording of one.

    Attributes
    ----------
    label : str
        For people: ``spikeglx:/data/run_g0_t0.imec0.ap.bin``.
    rate_hz : float
        Samples per second.
    layout : ProbeLayout
        The channels.
    n_samples : int or None
        Samples that it will give in all; None if it cannot know.
    session_start_utc : str
        As in `contracts.spikes.Hello`; empty if unknown.
    """

    @property
    def label(self) -> str: ...  # noqa: D102 - described above
    @property
    def rate_hz(self) -> float: ...  # noqa: D102 - described above
    @property
    def layout(self) -> ProbeLayout: ...  # noqa: D102 - described above
    @property
    def n_samples(self) -> int | None: ...  # noqa: D102 - described above
    @property
    def session_start_utc(self) -> str: ...  # noqa: D102 - described above

    def chunks(self) -> Iterator[VoltageChunk | Mark | None]:
        """Yield chunks in order of time, as they come and of any length.

        Marks come among them, with the run of the chunks and an empty stream. None comes at least
        ten times a second while there is nothing else.
        """
        ...

    def close(self) -> None:
        """Release files and devices; `chunks` ends."""
        ...
