"""The public types as a user writes them: this file only has to type-check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

from contracts.binning import BinRate, bin_spikes
from contracts.clock import Clock, HostClock, ns_to_second, second_to_ns, seconds_to_ns
from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.manifest import Manifest, load_manifest
from contracts.narration import Narration, Stamps, Status, Utterance, latency_ms
from contracts.narration_wire import pack_narration, unpack_narration
from contracts.population import Population, Selection, Unit
from contracts.spikes import Hello, Mark, SourceMessage, SpikeBatch, StreamEnd
from contracts.window import Window, WindowSpec
from contracts.wire import pack, unpack
from contracts.wire_header import Part
from daemon.encoders.protocol import Encoder
from daemon.narrators.protocol import Narrator, narrate
from stream_sources.source import SpikeSource


class LabSource:
    """A source of one's own: the protocol is satisfied by these members and no base class."""

    stream = "rig"
    run = "0123456789abcdef"
    label = "our rig"
    n_spikes: int | None = None
    span_ns: tuple[int, int] | None = None

    def __init__(self, population: Population) -> None:
        self.population = population

    def batches(self) -> Iterator[SpikeBatch]:
        times, rows = np.empty(0, np.int64), np.empty(0, np.uint32)
        yield SpikeBatch(self.stream, self.run, 0, 0, 1, times, rows)

    def marks(self) -> Iterator[Mark]:
        yield Mark(self.stream, self.run, 0, 1, "natural_movie_one", 0, frame=None)

    def close(self) -> None:
        return None


def a_source_of_ones_own() -> SpikeSource:
    return LabSource(Population([Unit("1", area="VISp")]))


def times_and_bins(seconds: NDArray[np.float64]) -> None:
    rate = BinRate(120)
    times = assert_type(seconds_to_ns(seconds), NDArray[np.int64])
    assert_type(second_to_ns(1.5), int)
    assert_type(ns_to_second(1), float)
    assert_type(rate.bin_of(5), int)
    assert_type(rate.bin_of(times), NDArray[np.int64])
    rows = np.zeros(len(times), np.uint32)
    counts = bin_spikes(times, rows, first_bin=0, n_bins=20, rate=rate, n_units=3)
    assert_type(counts, NDArray[np.uint16])
    window = Window(WindowSpec(rate, n_bins=20, stride_bins=10), 0, counts)
    assert_type(window.detached(), Window)


def over_the_wire(message: SourceMessage) -> str:
    parts = assert_type(pack(message), list[Part])
    match unpack(parts):
        case SpikeBatch() as batch:
            return batch.stream
        case Hello(population=population):
            return population.fingerprint
        case Mark(caption=caption):
            return caption or ""
        case StreamEnd(n_batches=n_batches):
            return str(n_batches)


def through_the_rooms(
    bundle: Path, encoder: Encoder, narrator: Narrator, window: Window
) -> list[Utterance]:
    manifest = assert_type(load_manifest(bundle), Manifest)
    selection = assert_type(manifest.population.select("VISp"), Selection)
    grid: PatchGrid = manifest.patch_grid
    embedding = PatchEmbedding(
        window, selection.name, selection.n_units, grid, np.zeros((grid.n_patches, grid.dim), "f4")
    )
    assert_type(encoder.manifest, Manifest)
    return list(narrate(narrator, [embedding]))


def narrations(narration: Narration) -> Status:
    payload = pack_narration(narration)[1]
    stamps: Stamps = unpack_narration(payload).stamps
    assert_type(latency_ms(stamps), dict[str, float])
    return narration.utterance.status


def a_clock() -> Clock:
    return HostClock()
