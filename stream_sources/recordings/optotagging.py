"""Cell types from light: which units answer pulses that drive the cells of one Cre line.

Allen sessions have no column of cell types. They have pulses of light at their end, and the
animal's genotype. The rule is that of AllenSDK's notebook on optotagging
(allensdk.readthedocs.io, ``ecephys_optotagging``): pulses of about 10 ms; rate from 1 to 9 ms after
the onset over one more than that from 10 to 2 ms before it; a unit is tagged above 2. The first
millisecond is left out, as light makes an artefact in it. To this `answers` adds a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import h5py
import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S, seconds_to_ns
from contracts.errors import RecordingError, UserError
from contracts.population import Population
from contracts.selection_text import shown
from stream_sources.recordings.nwb import open_nwb
from stream_sources.recordings.nwb_columns import read_text
from stream_sources.recordings.nwb_intervals import interval_table, is_interval, required_times
from stream_sources.recordings.nwb_links import UnreadableError, follow
from stream_sources.recordings.trains import SpikeTrains

MODULE, TABLE = "processing/optotagging", "optogenetic_stimulation"
GENOTYPE = "general/subject/genotype"

NS_PER_MS = NS_PER_S // 1000
PULSE_NS = (9 * NS_PER_MS, 20 * NS_PER_MS)
EVOKED_NS, BASELINE_NS = (NS_PER_MS, 9 * NS_PER_MS), (-10 * NS_PER_MS, -2 * NS_PER_MS)
"""Both of one length."""
SHAM_NS = -30 * NS_PER_MS
"""The rule at this time from each pulse, in the dark, says how many units it tags by chance."""

THRESHOLD = 2.0
FALSE_DISCOVERIES = 0.05
FEWEST_PULSES = 10

CRE_LINES = {"pvalb": "PV", "sst": "SST", "vip": "VIP"}
"""By the beginning of the name of a line, as in ``Sst-IRES-Cre/wt``."""


@dataclass(frozen=True, slots=True, eq=False)
class Optotagging:
    """Pulses of light of about 10 ms, and the animal's genotype; empty where not stated."""

    start_ns: NDArray[np.int64]  # (n_pulses,), session nanoseconds
    genotype: str

    @property
    def cell_type(self) -> str:
        """The cell type of the genotype's Cre line.

        Raises
        ------
        UserError
            If it names none of `CRE_LINES`, or several.
        """
        names = [part.strip().lower() for part in self.genotype.split(";")]
        found = {
            cell_type
            for line, cell_type in CRE_LINES.items()
            for name in names
            if name.startswith(line) and "cre" in name
        }
        if len(found) != 1:
            raise UserError(
                f"the light of optotagging must drive one cell type, by a Cre line of "
                f"{', '.join(CRE_LINES)} in the animal's genotype; it is "
                f"{shown(self.genotype) or 'not stated'}. Leave out --cell-types."
            )
        return found.pop()


def read_optotagging(path: str) -> Optotagging | None:
    """Read the pulses and the genotype of an NWB file; None if it has no table of pulses.

    Raises
    ------
    RecordingError
        If the file or the table cannot be read, or a pulse has no start and stop.
    """
    with open_nwb(path, None, with_spikes=False) as file:
        try:
            module = follow(file, MODULE)
            if not isinstance(module, h5py.Group) or TABLE not in module:
                return None
            table = interval_table(module, TABLE, [])
            start_s, stop_s = (required_times(table, f"{end}_time") for end in ("start", "stop"))
        except UnreadableError as error:
            raise RecordingError(path, f"the table {MODULE}/{TABLE}: {error}") from error
        genotype = read_text(file, GENOTYPE)
    broken = np.flatnonzero(~is_interval(start_s, stop_s))
    if broken.size:
        row = int(broken[0])
        raise RecordingError(
            path,
            f"each pulse of light must have a stop that is not before its start, and {broken.size} "
            f"of {len(start_s)} in {MODULE}/{TABLE} have none: row {row} is from {start_s[row]:g} "
            f"to {stop_s[row]:g} s. Correct the table, or leave out --cell-types.",
        )
    start_ns, stop_ns = seconds_to_ns(start_s), seconds_to_ns(stop_s)
    # Within a nanosecond: seconds are float64, and a pulse of 9 ms is none of 10 ms.
    is_pulse = (stop_ns - start_ns > PULSE_NS[0] + 1) & (stop_ns - start_ns < PULSE_NS[1] - 1)
    return Optotagging(np.sort(start_ns[is_pulse]), genotype)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Which units answer pulses, in the order of the population, shape (n_units,)."""

    by_ratio: NDArray[np.bool_]  # AllenSDK's rule
    tagged: NDArray[np.bool_]  # Of these, those that are no accident


def answers(trains: SpikeTrains, pulses_ns: NDArray[np.int64]) -> Answers:
    """Look for units that answer pulses at these times.

    A few dozen pulses are a fraction of a second, in which a slow unit doubles its rate by chance.
    So a unit must also have more spikes after the pulses than before by an exact binomial test, at
    5 % false discoveries among all units (Benjamini and Hochberg).
    """
    from scipy.stats import binom, false_discovery_control

    after, before = (_count(trains, pulses_ns, window) for window in (EVOKED_NS, BASELINE_NS))
    seconds = len(pulses_ns) * (EVOKED_NS[1] - EVOKED_NS[0]) / NS_PER_S
    by_ratio = after / seconds / (before / seconds + 1) > THRESHOLD
    p = np.minimum(binom.sf(after - 1, after + before, 0.5), 1.0)
    return Answers(by_ratio, by_ratio & (false_discovery_control(p) <= FALSE_DISCOVERIES))


def with_tagged_cells(
    population: Population, trains: SpikeTrains, light: Optotagging | None
) -> tuple[Population, str]:
    """Return the population with the cell types that light shows, and a sentence about them.

    Units that do not answer have no cell type, whatever a column of the recording says.

    Raises
    ------
    UserError
        If there are too few pulses, the genotype names no one cell type, or no unit answers.
    """
    n_pulses = 0 if light is None else len(light.start_ns)
    if light is None or n_pulses < FEWEST_PULSES:
        raise UserError(
            f"--cell-types optotagging needs {FEWEST_PULSES} pulses of light of 9 to 20 ms or more "
            f"in {MODULE}/{TABLE}, and the recording has {n_pulses}. Leave it out: cell types then "
            "are those of a column, if there is one."
        )
    cell_type = light.cell_type
    found = answers(trains, light.start_ns)
    is_tagged = found.tagged
    if not is_tagged.any():
        raise UserError(
            f"no unit answers the {n_pulses} pulses of light, so that none is known to be "
            f"{cell_type}. Take other --units, or leave out --cell-types."
        )
    sham = answers(trains, light.start_ns + SHAM_NS)
    units = [
        replace(unit, cell_type=cell_type if is_one else "")
        for unit, is_one in zip(population.units, is_tagged, strict=True)
    ]
    return Population(units), (
        f"{int(is_tagged.sum())} of {len(units)} units answer {n_pulses} pulses of light and are "
        f"called {cell_type}, after the genotype {shown(light.genotype)}: of "
        f"{int(found.by_ratio.sum())} by AllenSDK's rule those that are no accident. 30 ms before "
        f"the pulses, in the dark, there are {int(sham.tagged.sum())} of "
        f"{int(sham.by_ratio.sum())}. The others have no cell type: they may be of any, as not "
        "every cell of a line answers"
    )


def _count(
    trains: SpikeTrains, pulses_ns: NDArray[np.int64], window_ns: Sequence[int]
) -> NDArray[np.int64]:
    """Count each unit's spikes in a window around every pulse, half open; shape (n_units,)."""
    counts = np.zeros(len(trains.start), np.int64)
    edges_ns = np.stack([pulses_ns + window_ns[0], pulses_ns + window_ns[1]], axis=1)
    first = trains.positions(int(edges_ns[0, 0]), trains.start)
    last = trains.positions(int(edges_ns[-1, 1]), first)
    times_ns, unit = trains.taken(first, last)
    at = np.searchsorted(pulses_ns, times_ns - window_ns[0], side="right") - 1
    is_in = (at >= 0) & (times_ns < edges_ns[np.maximum(at, 0), 1])
    np.add.at(counts, unit[is_in], 1)
    return counts
