"""The ``.meta`` of an emulated probe: which electrodes a recording's channels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError

N_READOUT = 384
"""Channels that these probes have."""


class _Part(NamedTuple):
    """A probe, as its data sheet and SpikeGLX have it."""

    imro_type: int
    range_v: float
    largest: int
    gain: int


PROBES = {
    "NP1010": _Part(imro_type=0, range_v=0.6, largest=512, gain=500),
    "NP2000": _Part(imro_type=21, range_v=0.5, largest=8192, gain=80),
    "NP2013": _Part(imro_type=2013, range_v=0.62, largest=2048, gain=100),
}
"""Neuropixels 1.0, and 2.0 with one shank and with four."""


class _Electrode(NamedTuple):
    shank: int
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class EmulatedProbe:
    """How the channels of a recording are saved.

    Attributes
    ----------
    order : array, shape (n_channels,), int64
        Channel of the recording of each column.
    channels : tuple of int
        Channel of the probe of each column; rising.
    """

    part_number: str
    index: int
    order: NDArray[np.int64]
    channels: tuple[int, ...]
    electrodes: tuple[_Electrode, ...]  # of each column

    @property
    def n_columns(self) -> int:
        """Numbers of a sample: the channels and the digital word."""
        return len(self.channels) + 1

    @property
    def largest(self) -> int:
        """Steps of the converter on one side of zero."""
        return PROBES[self.part_number].largest

    @property
    def uv_per_bit(self) -> float:
        """Microvolts of one step."""
        part = PROBES[self.part_number]
        return part.range_v / part.largest / part.gain * 1e6

    def meta(self, bin_path: Path, rate_hz: float) -> dict[str, str]:
        """Return the fields that SpikeGLX writes when it opens the file."""
        part, n_channels = PROBES[self.part_number], len(self.channels)
        names = "".join(
            f"(AP{channel};{channel}:{column})" for column, channel in enumerate(self.channels)
        )
        word = 2 * N_READOUT if part.imro_type == 0 else N_READOUT
        saved = ",".join(map(str, [*self.channels, word]))
        return {
            "acqApLfSy": f"{N_READOUT},{N_READOUT if part.imro_type == 0 else 0},1",
            "appVersion": "20240620",
            "fileCreateTime": "2026-01-01T00:00:00",
            "fileName": bin_path.name,
            "imAiRangeMax": f"{part.range_v:g}",
            "imAiRangeMin": f"{-part.range_v:g}",
            "imChan0apGain": str(part.gain),
            "imDatPrb_pn": self.part_number,
            "imDatPrb_port": "1",
            "imDatPrb_slot": "2",
            "imDatPrb_sn": str(1000 + self.index),
            "imDatPrb_type": str(part.imro_type),
            "imMaxInt": str(part.largest),
            "imSampRate": f"{rate_hz:.12g}",
            "nSavedChans": str(self.n_columns),
            "snsApLfSy": f"{n_channels},0,1",
            "snsSaveChanSubset": saved,
            "syncSourcePeriod": "1",
            "typeThis": "imec",
            "userNotes": "written by neurrate emulate spikeglx",
            "~imroTbl": self._imro(),
            "~snsChanMap": f"({N_READOUT},0,1){names}(SY0;{word}:{n_channels})",
        }

    def _imro(self) -> str:
        """Return the table of all channels; those that are not saved have free electrodes."""
        part = PROBES[self.part_number]
        used = dict(zip(self.channels, self.electrodes, strict=True))
        # An electrode of 1.0 belongs to its channel, so that no two channels can have the same.
        taken = set(self.electrodes) if part.imro_type else set()
        free = (one for one in map(_Electrode, repeat(0), count()) if one not in taken)
        entries = []
        for channel in range(N_READOUT):
            shank, number = used.get(channel) or (
                next(free) if part.imro_type else _Electrode(0, channel)
            )
            bank = number // N_READOUT
            fields = {
                0: (channel, bank, 0, part.gain, 250, 1),
                21: (channel, 1 << bank, 0, number),
                2013: (channel, shank, bank, 0, number),
            }[part.imro_type]
            entries.append(f"({' '.join(map(str, fields))})")
        return f"({part.imro_type},{N_READOUT})" + "".join(entries)


def emulated_probe(
    positions_um: NDArray[np.float64], part_number: str, index: int = 0
) -> EmulatedProbe:
    """Find the electrodes of a probe at which the channels of a recording are.

    Parameters
    ----------
    positions_um : array, shape (n_channels, 2), float64, micrometres
        Of the channels; from any origin.

    Raises
    ------
    UserError
        If the probe has no electrodes that lie like that.
    """
    if part_number not in PROBES:
        raise UserError(f"--probe must be one of {', '.join(PROBES)}, got {part_number!r}.")
    if len(positions_um) > N_READOUT:
        raise UserError(
            f"{part_number} has {N_READOUT} channels, the recording {len(positions_um)}."
        )
    electrodes = _electrodes_at(positions_um, part_number)
    if PROBES[part_number].imro_type == 0:  # an electrode has a channel of its own
        channels = [electrode.number % N_READOUT for electrode in electrodes]
        if len(set(channels)) < len(channels):
            raise UserError(
                f"the channels lie at electrodes of {part_number} that share a channel: it cannot "
                "record them together. Take --probe NP2013, or fewer channels."
            )
    else:
        channels = list(range(len(electrodes)))
    order = np.argsort(channels)
    return EmulatedProbe(
        part_number,
        index,
        order,
        tuple(channels[row] for row in order.tolist()),
        tuple(electrodes[row] for row in order.tolist()),
    )


def _electrodes_at(positions_um: NDArray[np.float64], part_number: str) -> Sequence[_Electrode]:
    """Take the positions as they are, or else each electrode as the place of the first channel.

    Raises
    ------
    UserError
        If none fits the others too.
    """
    from probeinterface.neuropixels_tools import build_neuropixels_probe

    probe = build_neuropixels_probe(part_number)
    n_shanks = 1 if probe.shank_ids is None else len(set(probe.shank_ids))
    per_shank = probe.get_contact_count() // n_shanks
    at = {_place(xy): divmod(row, per_shank) for row, xy in enumerate(probe.contact_positions)}
    relative = np.asarray(positions_um) - positions_um[0]
    for origin in [positions_um[0], *probe.contact_positions]:
        rows = [at.get(_place(origin + offset)) for offset in relative]
        found = [_Electrode(*row) for row in rows if row is not None]
        if len(found) == len(rows):
            return found
    raise UserError(
        f"the channels of the recording do not lie at electrodes of {part_number}. Give it the "
        "positions of such a probe (probeinterface.neuropixels_tools.build_neuropixels_probe), or "
        "another --probe."
    )


def _place(xy: NDArray[np.float64]) -> tuple[int, int]:
    """Return a position in tenths of a micrometre, which compares."""
    return round(float(xy[0]) * 10), round(float(xy[1]) * 10)
