"""What a daemon makes for displays, as frozen types with the names of the JSON.

Rates and probes are published while somebody subscribes to their topics.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from neurrate_client.messages import (
    Count,
    Daemon,
    Mark,
    Name,
    Narration,
    Partial,
    Statistics,
    Times,
    Trigger,
    Units,
)


class Rates(Struct, frozen=True, kw_only=True):
    """Spikes of an interval of the session, by population and by unit."""

    version: Literal[1]
    seq: Count
    host_ns: Count
    fingerprint: str
    start_s: float
    stop_s: float
    n_gap_bins: Count
    populations_hz: dict[Name, float | None]
    unit_step: Annotated[int, Meta(ge=1)]
    unit_counts: tuple[Count, ...]

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return "rates"


class ProbeRule(Struct, frozen=True, kw_only=True):
    """A rule on a concept probe, and its score in one window."""

    population: Name
    concept: str
    is_above: bool
    threshold: float
    release: float
    score: float


class Probes(Struct, frozen=True, kw_only=True):
    """What the concept probes gave one window."""

    version: Literal[1]
    seq: Count
    host_ns: Count
    window: Times
    rules: dict[Name, ProbeRule]
    scores: dict[Name, dict[str, float]]

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return "probes"


class EncoderWindow(Struct, frozen=True, kw_only=True):
    """What one window is."""

    bins_per_s: float
    n_bins: Count
    duration_s: float
    stride_s: float
    lag_s: float


class EncoderPopulation(Struct, frozen=True, kw_only=True):
    """One set of units. `kind` is ``units``, or ``shuffled`` or ``silent`` for a control."""

    name: Name
    label: str
    expression: str
    kind: str
    n_units: Count


class EncoderFacts(Struct, frozen=True, kw_only=True):
    """What decodes the spikes; columns of units are None where the table was too large."""

    version: Literal[1]
    repeat: bool
    bundle: str
    trained: bool
    recording: str
    session_id: str
    scores: dict[str, float]
    language_model: str
    has_confidence: bool
    concepts: tuple[str, ...]
    window: EncoderWindow
    populations: tuple[EncoderPopulation, ...]
    fingerprint: str
    n_units: Count
    unit_id: tuple[str, ...] | None = None
    probe: tuple[str, ...] | None = None
    area: tuple[str, ...] | None = None
    cell_type: tuple[str, ...] | None = None
    quality: tuple[str, ...] | None = None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return "encoder"


Message = (
    Narration
    | Partial
    | Trigger
    | Mark
    | Units
    | Statistics
    | Daemon
    | EncoderFacts
    | Rates
    | Probes
)
