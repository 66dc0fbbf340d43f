"""What the daemon publishes about a window, and how late it is.

The stages of a narration are laid end to end, each from the stamp before it to its own, so
that they sum to the whole: ``cut`` + ``encode`` + ``wait`` + ``prefill`` + ``decode`` + ``publish``
= newest spike received to published.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from enum import StrEnum
from typing import Final

NARRATION_VERSION: Final = 1
"""Version of the narration message. Raised when a field changes meaning or goes."""


class Status(StrEnum):
    """How a narration ended."""

    OK = "ok"
    """The model came to an end by itself."""
    TRUNCATED = "truncated"
    """The token limit or the deadline cut it."""
    FAILED = "failed"
    """There is no text; ``reason`` states the cause."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """The life of a narration on the host clock, nanoseconds, in this order.

    Attributes
    ----------
    newest_spike_received : int
        The batch that finished the window arrived.
    worker_start : int
        The narrator took it up.
    """

    newest_spike_received: int
    window_complete: int
    encoded: int
    worker_start: int
    first_token: int
    last_token: int
    published: int

    def in_order(self) -> tuple[int, ...]:
        """Return the stamps from the first to the last."""
        return astuple(self)


STAGES = ("cut", "encode", "wait", "prefill", "decode", "publish")
"""Names of the spans between the stamps; the last word of each is where it ends."""


def latency_ms(stamps: Stamps) -> dict[str, float]:
    """Return the duration of each stage, and ``total``, in milliseconds.

    >>> latency_ms(Stamps(0, 0, 3_000_000, 3_000_000, 4_000_000, 9_000_000, 9_500_000))["total"]
    9.5
    """
    ordered = stamps.in_order()
    stages = {
        stage: (later - earlier) / 1e6
        for stage, earlier, later in zip(STAGES, ordered[:-1], ordered[1:], strict=True)
    }
    return {**stages, "total": (ordered[-1] - ordered[0]) / 1e6}


def age_ms(stamps: Stamps) -> dict[str, float]:
    """Return how old the window was at each stamp: since its newest spike, in milliseconds.

    >>> age_ms(Stamps(0, 0, 3_000_000, 3_000_000, 4_000_000, 9_000_000, 9_500_000))["first_token"]
    4.0
    """
    born_ns = stamps.newest_spike_received
    return {
        stamp.name: (getattr(stamps, stamp.name) - born_ns) / 1e6
        for stamp in fields(stamps)
        if stamp.name != "newest_spike_received"
    }


@dataclass(frozen=True, slots=True)
class Evidence:
    """The training frame whose patches are nearest to the decoded ones.

    `cosine` is that of the mean patches, -1 to 1.
    """

    frame: str
    caption: str
    cosine: float


MAX_FEATURES = 3
"""Features of a narration."""


@dataclass(frozen=True, slots=True)
class NamedFeature:
    """A sparse feature that is larger in the decoded patches than in most training frames.

    `feature` is its number in the file of features; `z` is in standard deviations over the training
    frames.
    """

    feature: int
    name: str
    z: float


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a narration: enough to make it again."""

    bundle: str
    """sha256 of the bundle's manifest."""
    backend: str
    """``llava``, ``retrieval``, ..."""
    model: str
    """Id or folder of the language model; empty for a back-end without one."""
    prompt: str
    """The text around the image tokens; empty for a back-end without one."""
    revision: str = ""
    """Commit of the model, if the bundle names one."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a narrator makes of one patch embedding, before it is addressed and published.

    Attributes
    ----------
    reason : str
        Why it failed or was cut; empty when it is ok.
    mean_logprob : float or None
        Mean log-probability of the tokens; None for a back-end without tokens.
    features : tuple of NamedFeature or None
        Those most above their mean, largest first; None if they are not asked for.
    """

    text: str
    status: Status
    reason: str = ""
    mean_logprob: float | None = None
    n_tokens: int = 0
    evidence: Evidence | None = None
    features: tuple[NamedFeature, ...] | None = None
    start_host_ns: int = 0
    first_token_host_ns: int = 0
    last_token_host_ns: int = 0


@dataclass(frozen=True, slots=True)
class Narration:
    """One sentence about one window, from one population.

    Attributes
    ----------
    id : str
        ``<daemon run>-<population>-<seq>``; a repeat of the last value has the same id.
    seq : int
        Counts the narrations of this population in this daemon's life, from 0.
    window_seq : int
        The window's number on the absolute grid.
    window_start_s, window_stop_s, frame_s : float
        Session seconds: the window, and when the frame that it describes was shown.
    label : str
        What people read in place of `population`, which can stand in a topic; empty from a daemon
        of before.
    n_missing_units : int
        Of its units, those that no stream sends: held at their mean.
    n_gap_bins : int
        Bins of the window that some stream did not cover.
    blind_streams : tuple of str
        Streams that were silent or had ended.
    confidence : float or None
        Probability that the frame that was shown is among the tenth of frames that are most like
        the decoded patches, 0.1 by chance; None where it is not known.
    """

    id: str
    seq: int
    population: str
    n_units: int
    window_seq: int
    window_start_s: float
    window_stop_s: float
    frame_s: float
    n_gap_bins: int
    blind_streams: tuple[str, ...]
    utterance: Utterance
    stamps: Stamps
    provenance: Provenance
    label: str = ""
    n_missing_units: int = 0
    confidence: float | None = None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"narration.{self.population}"


@dataclass(frozen=True, slots=True)
class PartialNarration:
    """A sentence that is still being generated.

    `text` is from its beginning; times are as in `Narration` and `Stamps`.
    """

    population: str
    window_seq: int
    window_start_s: float
    window_stop_s: float
    frame_s: float
    text: str
    n_tokens: int
    newest_spike_received: int
    published: int

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"partial.{self.population}"
