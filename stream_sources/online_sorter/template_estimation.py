"""Templates estimated from a recording of raw voltages and its sorting.

Waveforms that a sorter or an analyzer has saved cannot be used: they were filtered forwards and
backwards, or whitened, and a filter that knows no later sample makes other waveforms of the same
spikes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, UserError, listed
from contracts.population import Population, Unit
from stream_sources.online_sorter.causal_filter import causal_recording
from stream_sources.online_sorter.matching import MS_AFTER, MS_BEFORE
from stream_sources.online_sorter.templates import (
    Preprocessing,
    SorterTemplates,
    background_samples,
)
from stream_sources.rigs.voltages import ProbeLayout

logger = logging.getLogger(__name__)

MIN_SPIKES = 20
"""Of a unit, for a template: noise of 10 uV is then 2 uV in the mean."""

MAX_SPIKES = 500
"""Of a unit; more would not change the mean visibly."""

SHIFT_MS = 0.5
"""How far the trough of the causally filtered waveform may be from the sorter's spike time."""

SHORTEST_S = 2.0
"""Of the recording."""

LEAST_RATE_HZ = 10_000.0
"""Below it a spike is no more than a few samples: action potentials are sampled at 20 to 40 kHz."""


def estimate_templates(
    recording: Any,
    sorting: Any,
    *,
    origin: str,
    units: Sequence[Unit] | None = None,
    preprocessing: Preprocessing | None = None,
    ms_before: float = 1.0,
    ms_after: float = 2.0,
    radius_um: float = 100.0,
    seed: int = 0,
) -> SorterTemplates:
    """Average the waveforms of each unit after causal preprocessing.

    Spike times are moved so that the trough on the peak channel is at `SorterTemplates.n_before`:
    the methods compare waveforms around a trough that they have detected.

    Parameters
    ----------
    recording : spikeinterface.BaseRecording
        One segment of raw voltages with gains and a probe.
    sorting : spikeinterface.BaseSorting
        Of the same samples.
    units : sequence of Unit, optional
        Of the sorting's units, in its order; their places on the probe are filled in here. By
        default units with the sorting's ids and no other label.
    radius_um : float
        Channels farther from the peak channel are not part of a template.

    Returns
    -------
    templates : SorterTemplates
        Without units of fewer than `MIN_SPIKES` spikes; the log names them.

    Raises
    ------
    UserError
        If the recording does not have what is needed, or no unit has enough spikes.
    """
    check_recording(recording, origin)
    if recording.get_total_duration() < SHORTEST_S:
        found_s = recording.get_total_duration()
        raise UserError(f"{origin}: it must have {SHORTEST_S:g} s or more, got {found_s:.3f}.")
    preprocessing = preprocessing or Preprocessing()
    rate_hz = float(recording.get_sampling_frequency())
    if problem := preprocessing.problem(rate_hz):
        raise UserError(f"{origin}: {problem}.")
    n_before, n_after = (
        max(round(wanted * rate_hz / 1e3), int(np.ceil(least * rate_hz / 1e3)))
        for wanted, least in ((ms_before, MS_BEFORE), (ms_after, MS_AFTER))
    )
    filtered = causal_recording(recording, preprocessing)
    counts = _counts(sorting, origin)
    kept = np.flatnonzero(counts >= MIN_SPIKES)
    spikes = _chosen(sorting, recording.get_num_samples(), n_before + n_after, seed)
    waveforms, channels = _aligned(filtered, sorting, spikes, n_before, n_after)
    layout = layout_of(recording)
    is_active = _within(layout, channels, radius_um)
    waveforms[np.broadcast_to(~is_active[:, None], waveforms.shape)] = 0
    return SorterTemplates(
        population=Population(_placed(sorting, units, kept, channels, layout)),
        rates_hz=counts[kept] / (recording.get_num_samples() / rate_hz),
        waveforms_uv=waveforms[kept],
        is_active=is_active[kept],
        n_before=n_before,
        layout=layout,
        rate_hz=rate_hz,
        preprocessing=preprocessing,
        noise_uv=_noise(filtered, seed),
        background_uv=_background(filtered),
        origin=origin,
    )


def layout_of(recording: Any) -> ProbeLayout:
    """Return the channels of a SpikeInterface recording."""
    return ProbeLayout(
        tuple(str(channel) for channel in recording.channel_ids),
        np.asarray(recording.get_channel_locations(), dtype=np.float64)[:, :2],
    )


def check_recording(recording: Any, origin: str) -> None:
    """Refuse a recording that is not of raw voltages, of one segment, with gains and a probe.

    Raises
    ------
    RecordingError
        With every problem found.
    """
    problems = []
    if recording.get_num_segments() != 1:
        problems.append(
            f"it has {recording.get_num_segments()} segments, and session time has one zero. Save "
            "the one that is used, select_segments(...), as a recording of its own"
        )
    if (rate_hz := recording.get_sampling_frequency()) < LEAST_RATE_HZ:
        problems.append(
            f"its sampling rate is {rate_hz:g} Hz, and spikes need {LEAST_RATE_HZ:g} or more. Name "
            "the action potential band (not LFP)"
        )
    if recording.is_filtered():
        problems.append(
            "it was saved after a filter (its is_filtered is true), and voltages are filtered here "
            "in another way. Name the raw recording; if this one is raw, "
            "annotate(is_filtered=False) before it is saved"
        )
    if not recording.has_scaleable_traces():
        problems.append(
            "it states no gain to microvolts for its channels: set_channel_gains and "
            "set_channel_offsets"
        )
    if not recording.has_probe():
        problems.append(
            "it does not say where its channels are on the probe. Give --geometry, a file of "
            "probeinterface, or save it after set_probe"
        )
    if problems:
        raise RecordingError(origin, *problems)


def _counts(sorting: Any, origin: str) -> NDArray[np.int64]:
    """Return the spikes of each unit; name the units that have too few in the log.

    Raises
    ------
    UserError
        If all have too few.
    """
    unit_index = sorting.to_spike_vector()["unit_index"]
    counts = np.bincount(unit_index, minlength=len(sorting.unit_ids)).astype(np.int64)
    dropped = [str(sorting.unit_ids[row]) for row in np.flatnonzero(counts < MIN_SPIKES)]
    if len(dropped) == len(counts):
        raise UserError(
            f"{origin}: no unit has {MIN_SPIKES} spikes or more, of {len(counts)} units. Record "
            "longer, or sort anew."
        )
    if dropped:
        fields = {"n": len(dropped), "unit_id": listed(dropped), "min_spikes": MIN_SPIKES}
        logger.warning("units without a template", extra={**fields, "source": origin})
    return counts


def _chosen(sorting: Any, n_samples: int, margin: int, seed: int) -> NDArray[Any]:
    """Return at most `MAX_SPIKES` spikes of each unit, none of them at the ends."""
    from spikeinterface.core import random_spikes_selection

    chosen = random_spikes_selection(
        sorting,
        num_samples=[n_samples],
        method="uniform",
        max_spikes_per_unit=MAX_SPIKES,
        margin_size=margin,
        seed=seed,
    )
    spikes: NDArray[Any] = sorting.to_spike_vector()[np.sort(chosen)]
    return spikes


def _aligned(
    filtered: Any, sorting: Any, spikes: NDArray[Any], n_before: int, n_after: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Average, find each unit's trough and peak channel, and average again around the trough."""
    from spikeinterface.core import estimate_templates

    def average(moved: NDArray[Any]) -> NDArray[np.float32]:
        templates: NDArray[np.float32] = estimate_templates(
            filtered,
            moved,
            sorting.unit_ids,
            n_before,
            n_after,
            return_in_uV=False,
            n_jobs=1,
            progress_bar=False,
        )
        return templates.astype(np.float32)

    shift = round(SHIFT_MS * filtered.get_sampling_frequency() / 1e3)
    first = average(spikes)
    near = first[:, n_before - shift : n_before + shift + 1]
    channels = near.min(axis=1).argmin(axis=1)
    late = near[np.arange(len(near)), :, channels].argmin(axis=1) - shift
    moved = spikes.copy()
    moved["sample_index"] += late[spikes["unit_index"]]
    return average(moved), channels


def _within(layout: ProbeLayout, channels: NDArray[np.intp], radius_um: float) -> NDArray[np.bool_]:
    apart = layout.positions_um[:, None] - layout.positions_um[channels][None]
    near: NDArray[np.bool_] = np.linalg.norm(apart, axis=2).T <= radius_um
    return near


def _placed(
    sorting: Any,
    units: Sequence[Unit] | None,
    kept: NDArray[np.intp],
    channels: NDArray[np.intp],
    layout: ProbeLayout,
) -> list[Unit]:
    """Return the units that are kept, with the channel and the place of their peak."""
    named = list(units) if units is not None else [Unit(str(name)) for name in sorting.unit_ids]
    placed = []
    for row in kept.tolist():
        x_um, y_um = layout.positions_um[channels[row]].tolist()
        known = named[row].depth_um
        placed.append(
            replace(
                named[row],
                channel=int(channels[row]),
                depth_um=y_um if known is None else known,
                x_um=x_um,
                y_um=y_um,
            )
        )
    return placed


def _noise(filtered: Any, seed: int) -> NDArray[np.float64]:
    from spikeinterface.core import get_noise_levels

    n_chunks = 20
    chunk_s = min(0.5, filtered.get_total_duration() / 2)
    noise: NDArray[np.float64] = get_noise_levels(
        filtered,
        return_in_uV=False,
        method="mad",
        force_recompute=True,  # the raw recording's own may have been inherited as a property
        random_slices_kwargs={
            "num_chunks_per_segment": n_chunks,
            "chunk_duration": f"{chunk_s * 1e3:.0f}ms",
            "seed": seed,
        },
        n_jobs=1,
        progress_bar=False,
    ).astype(np.float64)
    return noise


def _background(filtered: Any) -> NDArray[np.float32]:
    """Return the middle of the recording."""
    n_samples = background_samples(filtered.get_sampling_frequency())
    first = (filtered.get_num_samples() - n_samples) // 2
    traces: NDArray[np.float32] = filtered.get_traces(
        start_frame=first, end_frame=first + n_samples
    )
    # As it comes back from a file (template_files).
    return traces.astype(np.float16).astype(np.float32)
