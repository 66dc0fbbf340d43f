"""The JSON of messages that are made for displays, as types: what `contracts.messages` is for all.

They are decimated on purpose: whoever needs every spike or every window subscribes to the source,
or records.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config

# pydantic needs this one: that of Python 3.11 forgets what is required.
from typing_extensions import TypedDict

from contracts.messages import DESCRIBED, Count, HostNs, Name, Probability, TimesMessage

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Hz = Annotated[float, Field(ge=0)]


@with_config(DESCRIBED)
class RatesMessage(TypedDict):
    """Spikes of an interval, by unit and by population; made only while somebody subscribes."""

    version: Literal[1]
    seq: Count
    """Counts these messages in the daemon's life."""
    host_ns: HostNs
    """When it was published, on the daemon's monotonic clock. It may exceed 2**53: read
    integers."""
    fingerprint: Fingerprint
    """Identifies the encoder's units and their order, as in the message encoder."""
    start_s: float
    """Session seconds. Intervals follow each other without a gap, but for a hole in seq and a
    session that begins anew."""
    stop_s: float
    """A tenth of a second later at real time; more where the replay is faster."""
    n_gap_bins: Count
    """Bins of the interval that some stream did not cover."""
    populations_hz: dict[str, Hz | None]
    """Spikes a second and unit; null for a population without units."""
    unit_step: Annotated[int, Field(ge=1)]
    """unit_counts has units 0, unit_step, 2 unit_step ...: 1 up to 4,096 units."""
    unit_counts: list[Count]
    """Spikes of each unit, in the order of the encoder."""


@with_config(DESCRIBED)
class ProbeRuleMessage(TypedDict):
    """A rule on a concept probe, and its score in this window."""

    population: Name
    concept: str
    is_above: bool
    """Whether it fires above the threshold, or below it."""
    threshold: float
    release: float
    """Where it is armed again."""
    score: Probability


@with_config(DESCRIBED)
class ProbesMessage(TypedDict):
    """What the concept probes gave one window; made only while somebody subscribes."""

    version: Literal[1]
    seq: Count
    """Counts these messages in the daemon's life."""
    host_ns: HostNs
    """When it was published, on the daemon's monotonic clock. It may exceed 2**53: read
    integers."""
    window: TimesMessage
    rules: dict[str, ProbeRuleMessage]
    scores: dict[str, dict[str, Probability]]
    """The probability of each concept, by population."""


@with_config(DESCRIBED)
class EncoderWindowMessage(TypedDict):
    """What one window is."""

    bins_per_s: float
    n_bins: Count
    duration_s: float
    stride_s: float
    lag_s: float
    """A window that ends at t describes the frame shown at t - lag."""


@with_config(DESCRIBED)
class EncoderPopulationMessage(TypedDict):
    """One set of units that is narrated."""

    name: Name
    label: str
    """What people read in place of name."""
    expression: str
    """As the settings have it."""
    kind: Literal["units", "shuffled", "silent"]
    """The last two are controls."""
    n_units: Count


@with_config(DESCRIBED)
class EncoderMessage(TypedDict):
    """What decodes the spikes: the bundle's facts, its units and the populations narrated."""

    version: Literal[1]
    repeat: bool
    """True if it was published before and is sent again because a subscriber joined."""
    bundle: Sha256
    """sha256 of the bundle's manifest."""
    trained: bool
    """False for random weights, whose narrations are noise."""
    recording: str
    """What it was trained on: file name or URL."""
    session_id: str
    scores: dict[str, float]
    """On held-out data."""
    language_model: str
    has_confidence: bool
    """Whether narrations have a calibrated confidence."""
    concepts: list[str]
    """Of the probes that triggers use; empty without rules on probes."""
    window: EncoderWindowMessage
    populations: list[EncoderPopulationMessage]
    fingerprint: Fingerprint
    """Identifies the units and their order."""
    n_units: Count
    unit_id: NotRequired[list[str]]
    """Of each unit, in the order of unit_counts of rates; left out, with the four columns below,
    where the message would be too large."""
    probe: NotRequired[list[str]]
    area: NotRequired[list[str]]
    cell_type: NotRequired[list[str]]
    quality: NotRequired[list[str]]
