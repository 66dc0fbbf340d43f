"""The narration desk: words get their address, their stamps and their number, and go out."""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from contracts.clock import Clock, ns_to_second
from contracts.embedding import PatchEmbedding
from contracts.narration import (
    Narration,
    PartialNarration,
    Provenance,
    Stamps,
    Status,
    Utterance,
    latency_ms,
)
from contracts.narration_wire import pack_narration, pack_partial
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.service.latencies import LatencyRecorder
from daemon.worker.narrator_client import NarratedPopulation, PartialText

logger = logging.getLogger(__name__)


class NarrationPublisher:
    """Publishes what a narrator said.

    Parameters
    ----------
    publisher : Publisher
    counters : Counters
    latencies : LatencyRecorder
    clock : Clock
    on_narration : callable, optional
        Told of each narration after it has been published; on the fast loop, must not block.
    """

    def __init__(
        self,
        publisher: Publisher,
        counters: Counters,
        latencies: LatencyRecorder,
        clock: Clock,
        on_narration: Callable[[Narration], None] = lambda _: None,
    ) -> None:
        self._on_narration = on_narration
        self._publisher = publisher
        self._counters = counters
        self._latencies = latencies
        self._clock = clock
        self._run = secrets.token_hex(4)
        self._n_said: Counter[str] = Counter()

    def publish(self, narrated: NarratedPopulation) -> None:
        """Publish what was said of one population; never waits."""
        said = _finite(narrated.utterance)
        narration = self._address(narrated.embedding, said, narrated.provenance)
        self._publisher.publish(pack_narration(narration))
        durations_ms = latency_ms(narration.stamps)
        if said.status is not Status.FAILED:  # what was never said was not late
            self._latencies.record(durations_ms)
        self._counters.narrations[said.status.value] += 1
        _log(narration, durations_ms)
        self._on_narration(narration)

    def publish_partial(self, heard: PartialText) -> None:
        """Publish what has been said so far of one population; never waits."""
        window = heard.embedding.window
        partial = PartialNarration(
            population=heard.embedding.population,
            window_seq=window.seq,
            window_start_s=ns_to_second(window.start_ns),
            window_stop_s=ns_to_second(window.stop_ns),
            frame_s=ns_to_second(window.frame_ns),
            text=heard.text,
            n_tokens=heard.n_tokens,
            newest_spike_received=window.newest_received_host_ns,
            published=self._clock.now_ns(),
        )
        self._publisher.publish(pack_partial(partial))

    def _address(
        self, embedding: PatchEmbedding, said: Utterance, provenance: Provenance
    ) -> Narration:
        window, population = embedding.window, embedding.population
        seq = self._n_said[population]
        self._n_said[population] += 1
        return Narration(
            id=f"{self._run}-{population}-{seq}",
            seq=seq,
            population=population,
            n_units=embedding.n_units,
            window_seq=window.seq,
            window_start_s=ns_to_second(window.start_ns),
            window_stop_s=ns_to_second(window.stop_ns),
            frame_s=ns_to_second(window.frame_ns),
            n_gap_bins=window.n_gap_bins,
            blind_streams=window.blind_streams,
            said=said,
            stamps=Stamps(
                newest_spike_received=window.newest_received_host_ns,
                window_complete=window.complete_host_ns,
                encoded=embedding.encoded_host_ns,
                worker_start=said.start_host_ns,
                first_token=said.first_token_host_ns,
                last_token=said.last_token_host_ns,
                published=self._clock.now_ns(),
            ),
            provenance=provenance,
        )


def _finite(said: Utterance) -> Utterance:
    """Leave out what is not a number: JSON has no word for it, and the loop must go on."""
    if said.mean_logprob is not None and not math.isfinite(said.mean_logprob):
        said = replace(said, mean_logprob=None)
    if said.evidence is not None and not math.isfinite(said.evidence.cosine):
        said = replace(said, evidence=None)
    return said


def _log(narration: Narration, durations_ms: dict[str, float]) -> None:
    """Write the one canonical line of a narration."""
    said = narration.said
    logger.info(
        "narrated",
        extra={
            "population": narration.population,
            "window": narration.window_seq,
            "window_stop_s": round(narration.window_stop_s, 3),
            "status": said.status.value,
            "reason": said.reason,
            "n_tokens": said.n_tokens,
            "n_gap_bins": narration.n_gap_bins,
            **{f"{stage}_ms": round(ms, 2) for stage, ms in durations_ms.items()},
        },
    )
