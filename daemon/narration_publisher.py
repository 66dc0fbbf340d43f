"""Builds each narration message (window, timestamps, sequence number) and publishes it."""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
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
from contracts.narration_wire import pack_narration, pack_partial, rounded_confidence
from daemon.counters import Counters
from daemon.publisher import Publisher
from daemon.worker.narrator_client import NarratedPopulation, PartialText

logger = logging.getLogger(__name__)


class NarrationPublisher:
    """Publishes narrations, whole and partial. Called on the fast loop.

    `on_latency` is given the durations of each narration that did not fail, milliseconds by stage;
    `on_narration` each narration after it has been published, and must not block. `labels` has what
    people read in place of a population's name; `confidence_of` says how sure a decoding is.
    """

    def __init__(
        self,
        publisher: Publisher,
        counters: Counters,
        clock: Clock,
        on_latency: Callable[[Mapping[str, float]], None],
        on_narration: Callable[[Narration], None] = lambda _: None,
        labels: Mapping[str, str] | None = None,
        confidence_of: Callable[[PatchEmbedding], float | None] = lambda _: None,
    ) -> None:
        self._confidence_of = confidence_of
        self._labels = labels or {}
        self._on_narration = on_narration
        self._publisher = publisher
        self._counters = counters
        self._on_latency = on_latency
        self._clock = clock
        self._run = secrets.token_hex(4)
        self._next_seq: Counter[str] = Counter()

    def publish(self, narrated: NarratedPopulation) -> None:
        """Publish the narration of one population; never waits."""
        utterance = _finite(narrated.utterance)
        narration = self._narration(narrated.embedding, utterance, narrated.provenance)
        self._publisher.publish(pack_narration(narration))
        durations_ms = latency_ms(narration.stamps)
        if utterance.status is not Status.FAILED:  # its stamps say when it failed, not how long
            self._on_latency(durations_ms)
        self._counters.narrations[utterance.status.value] += 1
        _log(narration, durations_ms)
        self._on_narration(narration)

    def publish_partial(self, partial_text: PartialText) -> None:
        """Publish the unfinished sentence of one population; never waits."""
        window = partial_text.embedding.window
        partial = PartialNarration(
            population=partial_text.embedding.population,
            window_seq=window.seq,
            window_start_s=ns_to_second(window.start_ns),
            window_stop_s=ns_to_second(window.stop_ns),
            frame_s=ns_to_second(window.frame_ns),
            text=partial_text.text,
            n_tokens=partial_text.n_tokens,
            newest_spike_received=window.newest_received_host_ns,
            published=self._clock.now_ns(),
        )
        self._publisher.publish(pack_partial(partial))

    def _narration(
        self, embedding: PatchEmbedding, utterance: Utterance, provenance: Provenance
    ) -> Narration:
        window, population = embedding.window, embedding.population
        seq = self._next_seq[population]
        self._next_seq[population] += 1
        has_text = utterance.status is not Status.FAILED
        return Narration(
            id=f"{self._run}-{population}-{seq}",
            seq=seq,
            population=population,
            n_units=embedding.n_units,
            n_missing_units=embedding.n_absent,
            window_seq=window.seq,
            window_start_s=ns_to_second(window.start_ns),
            window_stop_s=ns_to_second(window.stop_ns),
            frame_s=ns_to_second(window.frame_ns),
            n_gap_bins=window.n_gap_bins,
            blind_streams=window.blind_streams,
            utterance=utterance,
            stamps=Stamps(
                newest_spike_received=window.newest_received_host_ns,
                window_complete=window.complete_host_ns,
                encoded=embedding.encoded_host_ns,
                worker_start=utterance.start_host_ns,
                first_token=utterance.first_token_host_ns,
                last_token=utterance.last_token_host_ns,
                published=self._clock.now_ns(),
            ),
            provenance=provenance,
            label=self._labels.get(population, population),
            confidence=self._confidence_of(embedding) if has_text else None,
        )


def _finite(utterance: Utterance) -> Utterance:
    """Leave out what is not a number: JSON cannot hold it, and a NaN must not stop the loop."""
    if utterance.mean_logprob is not None and not math.isfinite(utterance.mean_logprob):
        utterance = replace(utterance, mean_logprob=None)
    if utterance.evidence is not None and not math.isfinite(utterance.evidence.cosine):
        utterance = replace(utterance, evidence=None)
    return utterance


def _log(narration: Narration, durations_ms: dict[str, float]) -> None:
    """Write the one canonical line of a narration, and at DEBUG its text."""
    utterance = narration.utterance
    logger.debug(
        "narration",
        extra={
            "population": narration.population,
            "window": narration.window_seq,
            "window_start_s": round(narration.window_start_s, 3),
            "window_stop_s": round(narration.window_stop_s, 3),
            "text": utterance.text,
        },
    )
    logger.info(
        "narrated",
        extra={
            "population": narration.population,
            "window": narration.window_seq,
            "window_stop_s": round(narration.window_stop_s, 3),
            "status": utterance.status.value,
            "reason": utterance.reason,
            "confidence": rounded_confidence(narration.confidence),
            "n_tokens": utterance.n_tokens,
            "n_gap_bins": narration.n_gap_bins,
            **{f"{stage}_ms": round(ms, 2) for stage, ms in durations_ms.items()},
        },
    )
