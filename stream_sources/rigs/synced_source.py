"""A live source on the clock of another one, by pulses that both have recorded.

Theory of operation
-------------------
Spikes are sent only while the two clocks are known to fit (`clock_sync.ClockFollower`): at first
after some pulses, and not after a clock has jumped, the pulses have stopped for long, or either
source has begun a new run. Until then batches are dropped and counted, as their times would be
wrong. Whenever they begin again, so does a run.

The fit changes a little with each pulse. So that batches touch as they did, a batch begins where
the one before ended and ends where the newest fit puts its end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from contracts.clock import NS_PER_S
from contracts.errors import UserError
from contracts.keys import ClientKeys
from contracts.population import Population
from contracts.spikes import Mark, SpikeBatch
from stream_sources.live import LiveSource
from stream_sources.rigs.clock_sync import ClockFit, ClockFollower
from stream_sources.rigs.probe_agreement import ProbeAgreement
from stream_sources.rigs.reference_stream import ReferenceStream
from stream_sources.source import new_run

logger = logging.getLogger(__name__)

MAX_UNPAIRED_NS = 60 * NS_PER_S
"""Of data after the last pulse of both: then the fit is given up. Two clocks whose rates differ by
an unknown millionth are 0.06 ms apart after it."""

N_REFUSED = 30
"""Pulses of both clocks that have come and did not fit from the beginning: they never will. Where
the clocks are known to differ by little, those from while both ran: others have no partner yet."""


SAID_AGAIN_NS = 30 * NS_PER_S
"""Of the source's time: why nothing is sent, while the reason stays the same."""


class Reference(Protocol):
    """What another source sends: `stream_sources.rigs.reference_stream.ReferenceStream`."""

    address: str

    def messages(self) -> Iterator[Mark | SpikeBatch]:
        """Yield what has arrived, without waiting."""
        ...

    def close(self) -> None:
        """Release sockets."""
        ...


@dataclass(slots=True)
class SyncCounters:
    """What became of a source's batches, and of the fit."""

    n_fits: int = 0  # begun anew
    n_batches_sent: int = 0
    n_batches_dropped: int = 0
    n_spikes_dropped: int = 0
    n_pulses: int = 0
    n_reference_pulses: int = 0
    offset_ms: float = 0.0  # of the newest fit
    rate_error_ppm: float = 0.0
    residual_ms: float = 0.0
    max_residual_ms: float = 0.0


class SyncedSource:
    """Translates the times of a source; a `stream_sources.live.LiveSource` itself.

    Parameters
    ----------
    pulse, reference_pulse : str
        ``stimulus`` of the marks that are the sync pulses, of either source.
    within_s : float, optional
        Both clocks are known to differ by less; needed for strictly periodic pulses.
    agreement : ProbeAgreement, optional
        Compares the responses of both probes to marks.
    """

    def __init__(
        self,
        source: LiveSource,
        reference: Reference,
        *,
        pulse: str,
        reference_pulse: str,
        within_s: float | None = None,
        agreement: ProbeAgreement | None = None,
    ) -> None:
        self.counters = SyncCounters()
        self.stream, self.label, self.run = source.stream, source.label, new_run()
        self.n_spikes: int | None = None
        self.span_ns: tuple[int, int] | None = None
        self._source, self._reference = source, reference
        self._pulse, self._reference_pulse = pulse, reference_pulse
        within_ns = None if within_s is None else round(within_s * NS_PER_S)
        self._follower = ClockFollower(within_ns=within_ns)
        self._agreement = agreement
        self._source_run = self._reference_run = ""
        self._logged_reason = ""
        self._unsynced_ns = self._logged_ns = 0  # since when; of the source
        self._fit: ClockFit | None = None
        self._seq = 0
        self._end_ns: tuple[int, int] | None = None  # of the newest batch, on both clocks

    @property
    def population(self) -> Population:
        """The units of the source."""
        return self._source.population

    @property
    def table(self) -> str:
        """How the source's unit table was made."""
        return str(getattr(self._source, "table", ""))

    def messages(self) -> Iterator[SpikeBatch | Mark | None]:
        """Yield the source's batches and marks on the reference's clock, once it is known.

        Raises
        ------
        UserError
            If the pulses of the two fit at several offsets, or at none.
        """
        for message in self._source.messages():
            self._read_reference()
            if message is None:
                yield None
                continue
            if message.run != self._source_run:
                if self._source_run:
                    problem = "the source has begun a new run"
                    self._follower.begin_again(problem, has_reference=True)
                self._source_run, self._end_ns = message.run, None
            if isinstance(message, Mark) and message.stimulus == self._pulse:
                self.counters.n_pulses += 1
                self._follower.add(message.start_ns)
            yield self._translated(message)

    def batches(self) -> Iterator[SpikeBatch]:
        """Yield the batches alone."""
        return (one for one in self.messages() if isinstance(one, SpikeBatch))

    def marks(self) -> Iterator[Mark]:
        """Yield nothing: marks come among `messages`."""
        return iter(())

    def close(self) -> None:
        """Close both."""
        self._source.close()
        self._reference.close()

    def _read_reference(self) -> None:
        for message in self._reference.messages():
            if message.run != self._reference_run:
                if self._reference_run:
                    problem = "the reference has begun a new run"
                    self._follower.begin_again(problem, has_ours=True)
                self._reference_run = message.run
            if isinstance(message, Mark) and message.stimulus == self._reference_pulse:
                self.counters.n_reference_pulses += 1
                self._follower.add_reference(message.start_ns)
            elif self._agreement is not None:
                self._agreement.add_reference(message)

    def _translated(self, message: SpikeBatch | Mark) -> SpikeBatch | Mark | None:
        self._choose_fit(message.stop_ns)
        if self._fit is None:
            if isinstance(message, SpikeBatch):
                self.counters.n_batches_dropped += 1
                self.counters.n_spikes_dropped += message.n_spikes
            return None
        if isinstance(message, Mark):
            times_ns = np.array([message.start_ns, message.stop_ns])
            start_ns, stop_ns = self._fit.translate(times_ns).tolist()
            return replace(message, run=self.run, start_ns=start_ns, stop_ns=stop_ns)
        batch = self._translated_batch(message, self._fit)
        if self._agreement is not None:
            self._agreement.add(batch)
        return batch

    def _translated_batch(self, batch: SpikeBatch, fit: ClockFit) -> SpikeBatch:
        start_ns, stop_ns = fit.translate(np.array([batch.start_ns, batch.stop_ns])).tolist()
        if self._end_ns is not None and self._end_ns[0] == batch.start_ns:
            start_ns = min(self._end_ns[1], stop_ns - 1)
        times_ns = np.clip(fit.translate(batch.spike_time_ns), start_ns, stop_ns - 1)
        self._end_ns = batch.stop_ns, stop_ns
        self._seq += 1
        self.counters.n_batches_sent += 1
        return replace(
            batch,
            run=self.run,
            seq=self._seq - 1,
            start_ns=start_ns,
            stop_ns=stop_ns,
            spike_time_ns=times_ns,
        )

    def _choose_fit(self, now_ns: int) -> None:
        """Take the newest fit; begin a run if there was none before, and say why there is none."""
        follower, counters = self._follower, self.counters
        fit = follower.fit
        if fit is not None and now_ns - follower.last_paired_ns > MAX_UNPAIRED_NS:
            follower.begin_again("no pulse has come on both clocks for 60 s")
            fit = None
        if fit is None:
            self._log_problem(follower.problem, now_ns)
        elif self._fit is None:
            self.run, self._seq, self._end_ns, self._logged_reason = new_run(), 0, None, ""
            counters.n_fits += 1
            fields = {"source": self.label, "reference": self._reference.address, "run": self.run}
            logger.info("clocks fit", extra={**fields, **_numbers(fit)})
        if fit is not None and fit is not self._fit:
            for name, value in _numbers(fit).items():
                setattr(counters, name, value)
        self._fit = fit

    def _log_problem(self, problem: str, now_ns: int) -> None:
        """Log why nothing is sent, at once for each reason, and again while it stays.

        Raises
        ------
        UserError
            If enough pulses have come and they have never fitted.
        """
        if self._follower.n_pulses >= N_REFUSED and not self.counters.n_fits:
            raise UserError(
                f"the clock of {self.label} cannot be joined to {self._reference.address} "
                f"({self._pulse!r} to {self._reference_pulse!r}): {problem}. Give both an "
                "irregular sync signal; or, for periodic pulses, say with --sync-within by how "
                "many seconds the clocks differ at most: less than half of the period."
            )
        reason = re.sub(r"[0-9.]+", "", problem)  # numbers and times of pulses change
        if not self._logged_reason or now_ns < self._logged_ns:  # a new run's time may be earlier
            self._unsynced_ns = now_ns
        elif reason == self._logged_reason and now_ns - self._logged_ns < SAID_AGAIN_NS:
            return
        self._logged_reason, self._logged_ns = reason, now_ns
        counters = self.counters
        fields = {
            "why": problem,
            "for_s": round((now_ns - self._unsynced_ns) / NS_PER_S, 1),
            "pulses": f"{counters.n_pulses} {self._pulse!r} here",
            "reference_pulses": f"{counters.n_reference_pulses} {self._reference_pulse!r} there",
        }
        logger.warning("not in sync: nothing is sent", extra=fields)


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """Whose clock a source keeps to, as a command line has it.

    Attributes
    ----------
    address : str
        Of the reference.
    pulse, reference_pulse : str
        As in `SyncedSource`; the reference's are called the same if empty.
    within_s : float, optional
        As in `SyncedSource`.
    lag_ms : float
        By how much later this probe is expected to answer to marks.
    keys : ClientKeys, optional
        To connect to the reference with.
    """

    address: str
    pulse: str
    reference_pulse: str = ""
    within_s: float | None = None
    lag_ms: float = 0.0
    keys: ClientKeys | None = None


def on_clock_of(source: LiveSource, options: SyncOptions) -> SyncedSource:
    """Put a source on the clock of another one.

    Raises
    ------
    UserError
        If the address is none.
    """
    pulse, reference_pulse = options.pulse, options.reference_pulse or options.pulse
    return SyncedSource(
        source,
        ReferenceStream(options.address, options.keys),
        pulse=pulse,
        reference_pulse=reference_pulse,
        within_s=options.within_s,
        agreement=ProbeAgreement(pulses=(pulse, reference_pulse), expected_lag_ms=options.lag_ms),
    )


def _numbers(fit: ClockFit) -> dict[str, float]:
    """Return a fit for logs and counters."""
    return {
        "offset_ms": round((fit.reference_ns - fit.ours_ns) / 1e6, 3),
        "rate_error_ppm": round(fit.rate_error * 1e6, 2),
        "residual_ms": round(fit.residual_ns / 1e6, 4),
        "max_residual_ms": round(fit.max_residual_ns / 1e6, 4),
    }
