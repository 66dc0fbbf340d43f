"""What the daemon publishes for displays, as UTF-8 JSON: rates, probes, and what the encoder is.

All three are bounded. A `Rates` of 4,096 units takes some 10 kB, at most 24 kB with five digits
in every count, and 256 populations at most 30 kB beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

from contracts.display_messages import (
    EncoderMessage,
    EncoderPopulationMessage,
    EncoderWindowMessage,
    ProbesMessage,
    RatesMessage,
)
from contracts.errors import WireError
from contracts.manifest import CONFIDENCE, Manifest
from contracts.narration_wire import dump, read_message
from contracts.population import LABELS, Selection
from contracts.window import WindowSpec

RATES_TOPIC = b"rates"
PROBES_TOPIC = b"probes"
ENCODER_TOPIC = b"encoder"

DISPLAYS_VERSION: Final = 1
"""Version of the three messages. Raised when a field changes meaning or goes."""

MAX_RATE_UNITS = 4_096
"""Units of one `Rates`. A session with two Neuropixels probes has some thousand; of more units,
every second, third ... is sent."""

MAX_RATE_POPULATIONS = 256
"""The first so many, in the order of the settings: more than a display has room for."""

MAX_ENCODER_BYTES = 1 << 19
"""Beyond it, the units are left out: some ten thousand. Half of what a listener takes."""

RATE_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Rates:
    """Spikes of an interval, by unit and by population. Fields as in the message."""

    seq: int
    host_ns: int
    fingerprint: str
    start_s: float
    stop_s: float
    n_gap_bins: int
    populations_hz: dict[str, float | None]
    unit_step: int
    unit_counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class ProbeRule:
    """A rule on a concept probe, and its score in one window."""

    population: str
    concept: str
    is_above: bool
    threshold: float
    release: float
    score: float


@dataclass(frozen=True, slots=True)
class ProbeWindow:
    """The times of the window that probes were evaluated on."""

    seq: int
    start_s: float
    stop_s: float
    frame_s: float


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """What the concept probes gave one window. Fields as in the message."""

    seq: int
    host_ns: int
    window: ProbeWindow
    rules: dict[str, ProbeRule]
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class EncoderPopulation:
    """One set of units that is narrated."""

    name: str
    label: str
    expression: str
    kind: Literal["units", "shuffled", "silent"]
    n_units: int


@dataclass(frozen=True, slots=True)
class EncoderFacts:
    """What decodes the spikes. Fields as in the message; columns are empty where left out."""

    bundle: str
    trained: bool
    recording: str
    session_id: str
    scores: dict[str, float]
    language_model: str
    has_confidence: bool
    concepts: tuple[str, ...]
    window: dict[str, float]
    populations: tuple[EncoderPopulation, ...]
    fingerprint: str
    n_units: int
    unit_id: tuple[str, ...] = ()
    probe: tuple[str, ...] = ()
    area: tuple[str, ...] = ()
    cell_type: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = [getattr(self, name) for name in LABELS]
        if any(len(column) not in {0, self.n_units} for column in columns):
            raise ValueError("a column of units must have a text for each of them, or none")


def pack_rates(rates: Rates) -> list[bytes]:
    """Turn rates into ``[topic, JSON]``."""
    # Not `asdict`, which copies every count of its own.
    message: RatesMessage = {
        "version": DISPLAYS_VERSION,
        "seq": rates.seq,
        "host_ns": rates.host_ns,
        "fingerprint": rates.fingerprint,
        "start_s": rates.start_s,
        "stop_s": rates.stop_s,
        "n_gap_bins": rates.n_gap_bins,
        "populations_hz": rates.populations_hz,
        "unit_step": rates.unit_step,
        "unit_counts": list(rates.unit_counts),
    }
    return [RATES_TOPIC, dump(message)]


def pack_probes(probes: ProbeScores) -> list[bytes]:
    """Turn the scores of probes into ``[topic, JSON]``."""
    message = cast("ProbesMessage", {"version": DISPLAYS_VERSION, **asdict(probes)})
    return [PROBES_TOPIC, dump(message)]


def pack_encoder(
    manifest: Manifest,
    spec: WindowSpec,
    selections: Sequence[Selection],
    expressions: Mapping[str, str],
    concepts: Sequence[str] = (),
) -> list[bytes]:
    """Turn the facts of a bundle, and what is narrated with it, into ``[topic, JSON]``.

    `expressions` are those of the settings, by the name of the selection; `concepts` those of the
    probes that triggers use.
    """
    model, units = manifest.model, manifest.population.units
    message: EncoderMessage = {
        "version": DISPLAYS_VERSION,
        "repeat": False,
        "bundle": manifest.sha256,
        "trained": model.trained,
        "recording": model.training_data.recording,
        "session_id": model.training_data.session_id,
        "scores": dict(model.scores),
        "language_model": model.language_model.model_id,
        "has_confidence": manifest.file(CONFIDENCE) is not None,
        "concepts": list(concepts),
        "window": EncoderWindowMessage(
            bins_per_s=spec.rate.bins_per_s,
            n_bins=spec.n_bins,
            duration_s=spec.duration_s,
            stride_s=spec.stride_s,
            lag_s=spec.lag_ns / 1e9,
        ),
        "populations": [
            EncoderPopulationMessage(
                name=one.name,
                label=one.label or one.name,
                expression=expressions[one.name],
                kind=one.kind,
                n_units=one.n_units,
            )
            for one in selections
        ],
        "fingerprint": manifest.population.fingerprint,
        "n_units": len(units),
    }
    columns = {name: [getattr(unit, name) for unit in units] for name in LABELS}
    payload = dump({**message, **columns})
    return [ENCODER_TOPIC, payload if len(payload) <= MAX_ENCODER_BYTES else dump(message)]


def rates_of(message: Mapping[str, Any]) -> Rates:
    """Read rates from their JSON object.

    Raises
    ------
    WireError
        If it is of another version, or a field is missing or of another type.
    """
    rates = read_message(Rates, message, name="message of rates", version=DISPLAYS_VERSION)
    if rates.unit_step < 1 or not rates.start_s < rates.stop_s:
        raise WireError("field", "rates need a step of units and an interval of time")
    return rates


def probes_of(message: Mapping[str, Any]) -> ProbeScores:
    """Read the scores of probes from their JSON object.

    Raises
    ------
    WireError
        As `rates_of`.
    """
    return read_message(ProbeScores, message, name="message of probes", version=DISPLAYS_VERSION)


def encoder_of(message: Mapping[str, Any]) -> EncoderFacts:
    """Read what the encoder is from its JSON object.

    Raises
    ------
    WireError
        As `rates_of`.
    """
    return read_message(
        EncoderFacts, message, name="message of the encoder", version=DISPLAYS_VERSION
    )
