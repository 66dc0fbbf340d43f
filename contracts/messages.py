"""The JSON of every message that the daemon publishes, as types.

The ``pack_`` functions of `contracts` fill these in, and `contracts.schemas` makes the JSON Schemas
of them, in which the texts below are the descriptions. What stands under ``NotRequired`` is left
out by older daemons of the same version, or where it is not known.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config

# pydantic needs this one: that of Python 3.11 forgets what is required.
from typing_extensions import TypedDict

DESCRIBED = ConfigDict(use_attribute_docstrings=True)

Count = Annotated[int, Field(ge=0)]
HostNs = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Id = Annotated[str, Field(min_length=1)]
SessionNs = Annotated[int, Field(ge=-(1 << 62), le=1 << 62)]


@with_config(DESCRIBED)
class TimesMessage(TypedDict):
    """An interval of the recording. Session clock, seconds."""

    seq: int
    """Number on the absolute grid, the same in every replay."""
    start_s: float
    stop_s: float
    frame_s: float
    """When the frame that it describes was on the screen."""


@with_config(DESCRIBED)
class WindowMessage(TimesMessage):
    """The interval of the recording that it is about. Session clock, seconds."""

    n_gap_bins: Count
    """Bins that some stream did not cover."""
    blind_streams: list[str]
    """Streams that were silent or had ended."""


@with_config(DESCRIBED)
class NarrationHostNs(TypedDict):
    """Stamps on the daemon's monotonic clock, ns. They may exceed 2**53: read integers."""

    newest_spike_received: HostNs
    window_complete: HostNs
    encoded: HostNs
    worker_start: HostNs
    first_token: HostNs
    last_token: HostNs
    published: HostNs


@with_config(DESCRIBED)
class NarrationLatencyMs(TypedDict):
    """Milliseconds between the stamps. The stages lie end to end and sum to total."""

    cut: float
    encode: float
    wait: float
    prefill: float
    decode: float
    publish: float
    total: float


@with_config(DESCRIBED)
class NarrationAgeMs(TypedDict):
    """Milliseconds from newest_spike_received to each later stamp."""

    window_complete: float
    encoded: float
    worker_start: float
    first_token: float
    last_token: float
    published: float


@with_config(DESCRIBED)
class EvidenceMessage(TypedDict):
    """The training frame that looks most like it."""

    frame: str
    caption: str
    cosine: float


@with_config(DESCRIBED)
class FeatureMessage(TypedDict):
    """A sparse feature that is larger in the decoded patches than in most training frames."""

    feature: Count
    """Its number in the file of features."""
    name: str
    """The fact that it follows, or the caption of the frame in which it is largest."""
    z: float
    """Standard deviations above its mean over the training frames."""


@with_config(DESCRIBED)
class ProvenanceMessage(TypedDict):
    """What made it."""

    bundle: str
    """sha256 of the bundle's manifest."""
    backend: str
    model: str
    prompt: str
    revision: NotRequired[str]
    """Commit of the model; empty if the bundle names none."""


@with_config(DESCRIBED)
class NarrationMessage(TypedDict):
    """One sentence about one window of spikes, from one population of units."""

    version: Literal[1]
    repeat: bool
    """True if this narration was published before and is sent again because a subscriber joined.
    Pass over an id that you have seen."""
    id: Id
    """Unique; a repeat has the same."""
    seq: Count
    """Counts this population's narrations in the daemon's life."""
    population: Name
    label: NotRequired[str]
    """What people read in place of population: the name in the recording, in any letters."""
    n_units: Count
    """Units that were selected."""
    n_missing_units: NotRequired[Count]
    """Of these, the units that no source sends: held at their mean."""
    confidence: NotRequired[Probability | None]
    """Probability that the frame that was shown is among the tenth of frames most like the decoded
    patches; 0.1 by chance. Null if the bundle has no calibration of it, or nothing was narrated."""
    text: str
    """The narration; empty if status is failed."""
    status: Literal["ok", "truncated", "failed"]
    reason: str
    """Why it failed or was cut; empty when ok."""
    window: WindowMessage
    host_ns: NarrationHostNs
    latency_ms: NarrationLatencyMs
    age_ms: NarrationAgeMs
    mean_logprob: float | None
    """Mean log-probability of the tokens; null for a back-end without tokens."""
    n_tokens: Count
    evidence: EvidenceMessage | None
    """Null if the bundle has no captions."""
    features: NotRequired[list[FeatureMessage] | None]
    """At most three features, each half a standard deviation or more above its mean and of another
    name, the largest first. Null without narrator.features, and for a narration that was given
    up."""
    provenance: ProvenanceMessage


@with_config(DESCRIBED)
class PartialHostNs(TypedDict):
    """Stamps on the daemon's monotonic clock, ns. They may exceed 2**53: read integers."""

    newest_spike_received: HostNs
    published: HostNs


@with_config(DESCRIBED)
class PartialMessage(TypedDict):
    """A sentence that is still being generated; never repeated, and ended by its narration."""

    version: Literal[1]
    population: Name
    text: str
    """The whole text so far."""
    n_tokens: Count
    window: TimesMessage
    host_ns: PartialHostNs


@with_config(DESCRIBED)
class TriggerHostNs(TypedDict):
    """Stamps on the daemon's monotonic clock, ns. They may exceed 2**53: read integers."""

    newest_spike_received: HostNs
    window_complete: HostNs
    encoded: HostNs
    worker_start: NotRequired[HostNs]
    first_token: NotRequired[HostNs]
    last_token: NotRequired[HostNs]
    narrated: NotRequired[HostNs]
    """When the narration was published."""
    decided: HostNs
    """When the rule was found to be true."""
    published: HostNs


@with_config(DESCRIBED)
class TriggerLatencyMs(TypedDict):
    """Milliseconds between the stamps. The stages lie end to end and sum to total."""

    cut: float
    encode: float
    wait: NotRequired[float]
    prefill: NotRequired[float]
    decode: NotRequired[float]
    say: NotRequired[float]
    decide: float
    publish: float
    total: float


@with_config(DESCRIBED)
class TriggerProvenance(TypedDict):
    """What made it."""

    bundle: str
    """sha256 of the bundle's manifest."""


def _by_kind(schema: dict[str, Any]) -> None:
    """Add to a trigger's schema what a probe's has and one of a narration has not, and back."""
    schema["if"] = {"properties": {"kind": {"const": "probe"}}}
    schema["then"] = {
        "properties": {
            "narration_id": {"type": "null"},
            "text": {"type": "null"},
            "calibration": {"type": "string"},
        }
    }
    schema["else"] = {
        "properties": {
            "narration_id": {"type": "string"},
            "text": {"type": "string"},
            "calibration": {"type": "null"},
            "scores": {"maxProperties": 0},
            "host_ns": {"required": ["worker_start", "first_token", "last_token", "narrated"]},
            "latency_ms": {"required": ["wait", "prefill", "decode", "say"]},
        }
    }


@with_config(ConfigDict(use_attribute_docstrings=True, json_schema_extra=_by_kind))
class TriggerMessage(TypedDict):
    """The condition of one rule became true."""

    version: Literal[1]
    id: Id
    """Unique. Triggers are never repeated."""
    seq: Count
    """Counts this rule's triggers in the daemon's life. A hole: this subscriber was too slow."""
    name: Name
    """Of the rule."""
    kind: Literal["probe", "word", "likeness"]
    """What the rule listens to."""
    rule: str
    """The condition as it was written."""
    population: Name
    calibration: str | None
    """The population by which the probe's probability was calibrated: all, where this one has no
    calibration of its own. Null for narrations."""
    dry_run: bool
    """True if it reached no sink but the publish socket."""
    score: float
    """A probability, 1 for a word that was found, or a cosine."""
    threshold: float
    """What the score had to cross."""
    scores: dict[str, Probability]
    """The probability of every concept in this window and population; empty for narrations."""
    confidence: NotRequired[Probability | None]
    """Confidence of the decoding, as in narrations. Null where it is not known, or a rule on a
    probe does not ask for it."""
    window: WindowMessage
    narration_id: str | None
    """The narration that it was found in."""
    text: str | None
    """Its words."""
    host_ns: TriggerHostNs
    latency_ms: TriggerLatencyMs
    provenance: TriggerProvenance


@with_config(DESCRIBED)
class MarkMessage(TypedDict):
    """Something that a source says was shown: one stimulus presentation."""

    version: Literal[1]
    repeat: bool
    """True if it was published before and is sent again because a subscriber joined."""
    stream: Name
    run: RunId
    """One start of the source."""
    start_ns: int
    """When it was on the screen, session ns. It may exceed 2**53: read integers."""
    stop_ns: int
    stimulus: str
    """Name of the presentation table: natural_movie_one."""
    presentation_id: int
    """Row in that table."""
    frame: int | None
    """Frame of the movie, or number of the image."""
    caption: str | None


@with_config(DESCRIBED)
class UnitsMessage(TypedDict):
    """The units of one stream, column by column, in the order of the stream."""

    version: Literal[1]
    repeat: bool
    """True if it was published before and is sent again because a subscriber joined."""
    stream: Name
    run: RunId
    """One start of the source."""
    source: str
    """Where the spikes come from, for people."""
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """Identifies the table: see wire-format.md."""
    session_start_utc: NotRequired[str]
    """When session time was zero, as 2019-01-19T08:54:18Z."""
    table: NotRequired[str]
    """How the table was made, for people."""
    unit_id: Annotated[list[str], Field(min_length=1)]
    """The data set's own label of each unit; unique together with probe."""
    probe: list[str]
    area: list[str]
    cell_type: list[str]
    quality: list[str]
    channel: NotRequired[list[int | None]]
    """Number of each unit's peak channel on its probe."""
    depth_um: NotRequired[list[float | None]]
    """Depth as the recording states it, micrometers."""
    x_um: NotRequired[list[float | None]]
    """Position of the peak channel across the probe, micrometers."""
    y_um: NotRequired[list[float | None]]
    """Position of the peak channel along the probe, micrometers."""


@with_config(DESCRIBED)
class StreamMessage(TypedDict):
    """What is known of one stream."""

    covered_until_s: float
    """Session seconds."""
    state: Literal["live", "blind", "ended", "waiting", "aside"]


@with_config(DESCRIBED)
class QueueMessage(TypedDict):
    """Windows between the encoder and the narrator."""

    waiting: Count
    """For the narrator."""
    unfinished: Count
    """Those, and the ones that are being narrated."""


@with_config(DESCRIBED)
class StatisticsMessage(TypedDict):
    """The daemon's account of itself, once a second."""

    version: Literal[1]
    host_ns: HostNs
    """The daemon's monotonic clock. It may exceed 2**53: read integers."""
    uptime_s: float
    session_s: float | None
    """Session seconds up to which windows are complete; null before the first spike."""
    counters: dict[str, int | dict[str, int]]
    """By name, those with a label by label: see metrics.md."""
    latency_ms: dict[str, dict[str, float]]
    """p50, p95, p99, max and n of each stage and of total; empty before the first narration."""
    ready: bool
    reasons: list[str]
    """Why it is not ready."""
    notes: NotRequired[list[str]]
    """What a ready one does without."""
    streams: dict[str, StreamMessage]
    queue: QueueMessage


@with_config(DESCRIBED)
class SoftwareMessage(TypedDict):
    """Which software it is."""

    version: str
    commit: str
    """Ends in -dirty where files differ from it; empty in an installed package."""


@with_config(DESCRIBED)
class DaemonMessage(TypedDict):
    """What makes the narrations: sent when the daemon has started."""

    version: Literal[1]
    repeat: bool
    """True if it was published before and is sent again because a subscriber joined."""
    host_ns: HostNs
    """When the daemon started, on its monotonic clock. It may exceed 2**53: read integers."""
    software: SoftwareMessage
    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 of the bundle's manifest."""
    settings: dict[str, Any]
    """Every effective setting, by group."""


@with_config(DESCRIBED)
class RecorderMessage(TypedDict):
    """What a recorder writes of itself into its journal, once a second and at its end."""

    version: Literal[1]
    state: Literal["recording", "stopping"]
    reason: str
    """Why it stops; empty while it records."""
    host_ns: HostNs
    """Monotonic clock of the recording machine. It may exceed 2**53: read integers."""
    wall_ns: int
    """UTC at that moment, nanoseconds since 1970."""
    received: dict[str, Count]
    """Messages by kind."""
    n_spikes: Count
    holes: dict[str, Count]
    """Messages that never arrived, found by their numbers, by kind."""
    overflowed: dict[str, Count]
    """Messages that the recorder had no room for, by kind."""
    unreadable: Count
    """Messages that follow no format. They are in the journal all the same."""
    repeats: Count
    """Messages sent again that are in the journal, and are not written twice."""
    refused: Count
    """Messages of topics that no program of ours has, not written."""
    queue_bytes: Count
    written_bytes: Count
    free_bytes: Count
