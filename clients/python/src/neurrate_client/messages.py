"""What a daemon publishes, as frozen types with the names of the JSON.

Fields that this version does not know are ignored. Texts with a fixed set of values, such as
``status``, are not checked against it: a later daemon may add one. What is described in
``schemas/*.schema.json`` is not repeated here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class Times(Struct, frozen=True, kw_only=True):
    """An interval of the recording, session seconds; `frame_s` is when its frame was shown."""

    seq: int
    start_s: float
    stop_s: float
    frame_s: float


class Window(Times, frozen=True, kw_only=True):
    """The same, and which data are missing."""

    n_gap_bins: Count
    blind_streams: tuple[str, ...]


class NarrationStamps(Struct, frozen=True, kw_only=True):
    """The daemon's monotonic clock, nanoseconds, in this order."""

    newest_spike_received: Count
    window_complete: Count
    encoded: Count
    worker_start: Count
    first_token: Count
    last_token: Count
    published: Count


class NarrationLatency(Struct, frozen=True, kw_only=True):
    """Milliseconds; the stages sum to `total`."""

    cut: float
    encode: float
    wait: float
    prefill: float
    decode: float
    publish: float
    total: float


class NarrationAge(Struct, frozen=True, kw_only=True):
    """Milliseconds since the newest spike of the window was received."""

    window_complete: float
    encoded: float
    worker_start: float
    first_token: float
    last_token: float
    published: float


class Evidence(Struct, frozen=True, kw_only=True):
    """The training frame that looks most like it."""

    frame: str
    caption: str
    cosine: float


class Feature(Struct, frozen=True, kw_only=True):
    """A sparse feature that stands out, `z` standard deviations above its mean."""

    feature: Count
    name: str
    z: float


class Provenance(Struct, frozen=True, kw_only=True):
    """What made a narration."""

    bundle: str
    backend: str
    model: str
    prompt: str
    revision: str = ""


class Narration(Struct, frozen=True, kw_only=True):
    """One sentence about one window. `status` is ``ok``, ``truncated`` or ``failed``."""

    version: Literal[1]
    repeat: bool
    id: Annotated[str, Meta(min_length=1)]
    seq: Count
    population: Name
    n_units: Count
    text: str
    status: str
    reason: str
    window: Window
    host_ns: NarrationStamps
    latency_ms: NarrationLatency
    age_ms: NarrationAge
    mean_logprob: float | None
    n_tokens: Count
    evidence: Evidence | None
    provenance: Provenance
    label: str = ""
    n_missing_units: Count = 0
    confidence: float | None = None
    features: tuple[Feature, ...] | None = None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"narration.{self.population}"


class PartialStamps(Struct, frozen=True, kw_only=True):
    """The daemon's monotonic clock, nanoseconds."""

    newest_spike_received: Count
    published: Count


class Partial(Struct, frozen=True, kw_only=True):
    """A sentence that is still being generated; `text` is from its beginning."""

    version: Literal[1]
    population: Name
    text: str
    n_tokens: Count
    window: Times
    host_ns: PartialStamps

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"partial.{self.population}"


class TriggerStamps(Struct, frozen=True, kw_only=True):
    """The daemon's monotonic clock, nanoseconds; None where a probe's trigger has no stamp."""

    newest_spike_received: Count
    window_complete: Count
    encoded: Count
    decided: Count
    published: Count
    worker_start: Count | None = None
    first_token: Count | None = None
    last_token: Count | None = None
    narrated: Count | None = None


class TriggerLatency(Struct, frozen=True, kw_only=True):
    """Milliseconds; the stages sum to `total`. None where a probe's trigger has no stage."""

    cut: float
    encode: float
    decide: float
    publish: float
    total: float
    wait: float | None = None
    prefill: float | None = None
    decode: float | None = None
    say: float | None = None


class TriggerProvenance(Struct, frozen=True, kw_only=True):
    """What made a trigger: the sha256 of the bundle's manifest."""

    bundle: str


class Trigger(Struct, frozen=True, kw_only=True):
    """The condition of a rule became true. `kind` is ``probe``, ``word`` or ``likeness``."""

    version: Literal[1]
    id: Annotated[str, Meta(min_length=1)]
    seq: Count
    name: Name
    kind: str
    rule: str
    population: Name
    calibration: str | None
    dry_run: bool
    score: float
    threshold: float
    scores: dict[str, float]
    window: Window
    narration_id: str | None
    text: str | None
    host_ns: TriggerStamps
    latency_ms: TriggerLatency
    provenance: TriggerProvenance
    confidence: float | None = None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"trigger.{self.name}"


class Mark(Struct, frozen=True, kw_only=True):
    """Something was shown, from `start_ns` to `stop_ns` in session nanoseconds."""

    version: Literal[1]
    repeat: bool
    stream: Name
    run: str
    start_ns: int
    stop_ns: int
    stimulus: str
    presentation_id: int
    frame: int | None
    caption: str | None

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"mark.{self.stream}"


class Units(Struct, frozen=True, kw_only=True):
    """The units of a stream, column by column; an optional column is None if nothing is known."""

    version: Literal[1]
    repeat: bool
    stream: Name
    run: str
    source: str
    fingerprint: str
    unit_id: tuple[str, ...]
    probe: tuple[str, ...]
    area: tuple[str, ...]
    cell_type: tuple[str, ...]
    quality: tuple[str, ...]
    channel: tuple[int | None, ...] | None = None
    depth_um: tuple[float | None, ...] | None = None
    x_um: tuple[float | None, ...] | None = None
    y_um: tuple[float | None, ...] | None = None
    session_start_utc: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        texts = (self.probe, self.area, self.cell_type, self.quality)
        numbers = (self.channel, self.depth_um, self.x_um, self.y_um)
        columns = [*texts, *(column for column in numbers if column is not None)]
        if any(len(column) != len(self.unit_id) for column in columns):
            raise ValueError("the columns of a unit table must have the same length")

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return f"units.{self.stream}"


class Stream(Struct, frozen=True, kw_only=True):
    """`state` is ``live``, ``blind``, ``aside``, ``ended`` or ``waiting``."""

    covered_until_s: float
    state: str


class Queue(Struct, frozen=True, kw_only=True):
    """Windows that wait for the narrator, and those with the ones that are being narrated."""

    waiting: Count
    unfinished: Count


class Statistics(Struct, frozen=True, kw_only=True):
    """The daemon's account of itself, once a second."""

    version: Literal[1]
    host_ns: Count
    uptime_s: float
    session_s: float | None
    counters: dict[str, int | dict[str, int]]
    latency_ms: dict[str, dict[str, float]]
    ready: bool
    reasons: tuple[str, ...]
    streams: dict[str, Stream]
    queue: Queue
    notes: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return "stats"


class Software(Struct, frozen=True, kw_only=True):
    """`commit` is empty in an installed package."""

    version: str
    commit: str


class Daemon(Struct, frozen=True, kw_only=True):
    """What makes the narrations: sent when the daemon has started, and to newcomers."""

    version: Literal[1]
    repeat: bool
    host_ns: Count
    software: Software
    bundle: str
    settings: dict[str, Any]

    @property
    def topic(self) -> str:
        """The topic that it is published under."""
        return "daemon"


class Lost(Struct, frozen=True, kw_only=True):
    """A hole in `seq`: messages that this subscriber was too slow for, or was disconnected from.

    `n` messages of `topic`, from `first_seq` on, were published and did not arrive. After a restart
    of the daemon the numbers begin at 0 again, and what the daemon before had sent last is unknown.
    """

    topic: str
    first_seq: int
    n: int
