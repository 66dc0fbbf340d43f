"""What a calibration depends on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from encoder_training.calibration.folder import Option
from stream_sources.online_sorter.matching import DEFAULT_METHOD
from stream_sources.online_sorter.templates import Preprocessing

DEFAULT_SORTER = "lupin"
"""Of SpikeInterface's own sorters the one whose packages are all among ours, see decision 35."""


@dataclass(frozen=True, slots=True)
class CurationRules:
    """What a unit must meet; each is a limit that still passes.

    Attributes
    ----------
    min_snr : float
        Largest deflection of its mean waveform, in standard deviations of the noise there. Below
        about 4 the online sorter mistakes noise for spikes.
    min_rate_hz : float
        Spikes per second of the calibrated minutes. Fewer say nothing within a window, and give a
        noisy template.
    max_violations : float
        Share of the intervals between its spikes that are shorter than 1.5 ms, in which no neuron
        fires twice.
    max_shared : float
        Share of its spikes that coincide, within 0.4 ms, with those of one unit with more spikes:
        above it is the same neuron, found twice.
    """

    min_snr: float = 4.0
    min_rate_hz: float = 0.2
    max_violations: float = 0.03
    max_shared: float = 0.5


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The options of ``neurrate calibrate``."""

    recording: str
    out: Path
    minutes: float = 10.0
    stream: str = ""  # Of a recording with several, as SpikeInterface calls it
    geometry: Path | None = None  # probeinterface file, for a recording that lacks one
    sorter: str = DEFAULT_SORTER
    sorting: Path | None = None  # In place of `sorter`: a sorting of the recording
    method: str = DEFAULT_METHOD  # Of the online sorter, as is the length of its blocks
    block_ms: float = 100.0
    areas: Path | None = None
    presentations: Path | None = None
    probe: str = "probe0"  # Name of the probe, in the unit table
    rules: CurationRules = field(default_factory=CurationRules)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    seed: int = 0

    def as_text(self) -> dict[str, Option]:
        """Return what the result depends on, but for what is in the files that are named."""
        rules, band = asdict(self.rules), asdict(self.preprocessing)
        return {
            "RECORDING": str(Path(self.recording).resolve()),
            "--minutes": self.minutes,
            "--recording-stream": self.stream,
            "--geometry": _path(self.geometry),
            "--sorter": None if self.sorting else self.sorter,
            "--sorting": _path(self.sorting),
            "--method": self.method,
            "--block-ms": self.block_ms,
            "--areas": _path(self.areas),
            "--presentations": _path(self.presentations),
            "--probe": self.probe,
            "--seed": self.seed,
            **{f"--{name.replace('_', '-')}": value for name, value in rules.items()},
            **{f"preprocessing {name}": value for name, value in band.items()},
        }


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
