"""The ``.meta`` beside a ``.ap.bin``: what its numbers mean. Nothing is read from the samples.

SpikeGLX writes it when the file is opened, and again when it is closed. Only then does it have
``fileSizeBytes``, ``fileTimeSecs`` and ``firstSample`` (billkarsh/SpikeGLX
``Src-datafile/DataFile.cpp``, `openForWrite` and `closeAndFinalize`), so none of them is needed to
follow a recording.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, UserError, shown
from stream_sources.rigs.voltages import ProbeLayout

if TYPE_CHECKING:
    from probeinterface import Probe

AP_FILE = re.compile(r".*\.(imec\d*\.ap)\.bin")
"""Name of a file with the action potential band of a probe."""

RATES_HZ = (1e3, 1e6)


@dataclass(frozen=True, slots=True, eq=False)
class ProbeMeta:
    """What a file of a probe holds.

    Attributes
    ----------
    rate_hz : float
        Samples per second.
    n_columns : int
        Numbers (int16) of one sample: those of the channels first, then those that are no voltage.
    layout : ProbeLayout
        The channels, in the order of the columns.
    uv_per_bit : array, shape (n_channels,), float32, microvolts
        What one step of the converter is at the electrode.
    sync_column : int or None
        Column of the digital word; None if it was not saved.
    n_bytes : int or None
        Size of the ``.bin``; None while it is being written.
    """

    rate_hz: float
    n_columns: int
    layout: ProbeLayout
    uv_per_bit: NDArray[np.float32]
    sync_column: int | None
    n_bytes: int | None


def meta_path(bin_path: Path) -> Path:
    """Return the path of the ``.meta`` of a ``.ap.bin``.

    Raises
    ------
    UserError
        If the path is not one of a ``.ap.bin``, or one of the two files is missing.
    """
    if bin_path.is_dir():
        files = sorted(path.name for path in bin_path.rglob("*.ap.bin"))
        raise UserError(
            f"{bin_path} is a folder. Name one file of a probe in it: "
            f"{', '.join(files) or 'there is no .ap.bin'}."
        )
    if not AP_FILE.fullmatch(bin_path.name):
        raise UserError(
            f"{bin_path} is no recording of a probe's action potentials. Name its .ap.bin file "
            "(RUN_g0_t0.imec0.ap.bin); .lf.bin has field potentials, .nidq.bin other signals."
        )
    path = bin_path.with_suffix(".meta")
    for one in (bin_path, path):
        if not one.is_file():
            raise UserError(
                f"{one}: there is no such file. SpikeGLX writes a .bin and a .meta side by side "
                "once it records; both are needed."
            )
    return path


def stream_of(path: Path) -> str:
    """Return SpikeGLX's name of the stream of a ``.ap.bin`` or its ``.meta``: ``imec0.ap``.

    A run's name may have dots too.

    Raises
    ------
    RecordingError
        If the name is not one of a probe's action potentials.
    """
    found = AP_FILE.fullmatch(path.with_suffix(".bin").name)
    if found is None:
        raise RecordingError(
            str(path),
            "its name is not that of a probe's action potentials (RUN_g0_t0.imec0.ap.bin)",
        )
    return found.group(1)


def read_meta(path: Path) -> ProbeMeta:
    """Read a ``.meta``.

    Raises
    ------
    RecordingError
        If it is not whole, or not of a probe's action potentials, or of an unknown probe.
    """
    from probeinterface.neuropixels_tools import parse_spikeglx_meta

    try:
        meta: dict[str, str] = parse_spikeglx_meta(path)
        return _read_fields(meta, path)
    except KeyError as error:
        raise RecordingError(str(path), f"{error} is missing; is the file whole?") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise RecordingError(str(path), f"it is no .meta of SpikeGLX: {error}") from error


def check_size(bin_path: Path, n_bytes: int, meta: ProbeMeta) -> None:
    """Refuse a finished ``.bin`` that is not as its ``.meta`` says; one that grows has no size yet.

    Raises
    ------
    RecordingError
        With both sizes.
    """
    row_bytes = meta.n_columns * 2
    if meta.n_bytes is None or (n_bytes == meta.n_bytes and n_bytes % row_bytes == 0):
        return
    raise RecordingError(
        str(bin_path),
        f"its .meta is that of a recording of {meta.n_bytes:,} bytes in samples of {row_bytes}, "
        f"and the file has {n_bytes:,}: it was cut, is still being copied, or the .meta is "
        "another's",
    )


def final_size(path: Path) -> int | None:
    """Return the size of the ``.bin`` as its ``.meta`` has it; None before the recording is over.

    A ``.meta`` that is being written just now has none either.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    size = re.search(r"^fileSizeBytes=(\d+)$", text, re.MULTILINE)
    return int(size.group(1)) if size else None


def _read_fields(meta: Mapping[str, str], path: Path) -> ProbeMeta:
    kind = meta.get("typeThis", "imec")
    if kind != "imec":
        raise RecordingError(
            str(path), f"it describes a file of {shown(kind)}, not of a probe: name the .ap.bin"
        )
    n_ap, n_lf, n_sync = (int(n) for n in meta["snsApLfSy"].split(","))
    n_columns, rate_hz = int(meta["nSavedChans"]), float(meta["imSampRate"])
    problems = []
    # The name on the disk may have been changed; which signal it is may not.
    original = AP_FILE.fullmatch(re.split(r"[\\/]", meta["fileName"])[-1])
    ours = AP_FILE.fullmatch(path.with_suffix(".bin").name)
    if not n_ap:
        problems.append(
            "snsApLfSy: no channel of action potentials was saved (an .lf.bin has none)"
        )
    elif n_lf or n_ap + n_sync != n_columns:
        problems.append(f"snsApLfSy={n_ap},{n_lf},{n_sync} does not make nSavedChans={n_columns}")
    elif original is None or ours is None or original.group(1) != ours.group(1):
        problems.append(f"it was written for {shown(meta['fileName'])}: the .meta of another file")
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        problems.append(f"imSampRate={rate_hz:g} is not from 1,000 to 1,000,000")
    if problems:
        raise RecordingError(str(path), *problems)
    probe = _read_probe(meta, path)
    if probe.get_contact_count() != n_ap:
        raise RecordingError(
            str(path),
            f"imroTbl and snsSaveChanSubset make {probe.get_contact_count()} channels, snsApLfSy "
            f"{n_ap}: the channel map does not match",
        )
    size = meta.get("fileSizeBytes")
    return ProbeMeta(
        rate_hz=rate_hz,
        n_columns=n_columns,
        layout=_layout(probe, path),
        uv_per_bit=_uv_per_bit(meta, probe),
        sync_column=n_ap if n_sync else None,
        n_bytes=None if size is None else int(size),
    )


def _read_probe(meta: Mapping[str, str], path: Path) -> Probe:
    from probeinterface import read_spikeglx

    part = meta.get("imDatPrb_pn", "")
    try:
        return read_spikeglx(path)
    except (AssertionError, IndexError, KeyError, ValueError) as error:
        raise RecordingError(
            str(path),
            f"the probe (imDatPrb_pn={shown(part) or 'missing'}, imroTbl) is none that "
            f"probeinterface knows: {type(error).__name__} {error}. A newer probeinterface may",
        ) from error


def _layout(probe: Probe, path: Path) -> ProbeLayout:
    """Return the channels under the names that SpikeInterface gives them."""
    from probeinterface.neuropixels_tools import get_saved_channel_indices_from_spikeglx_meta

    stream = stream_of(path)
    saved = get_saved_channel_indices_from_spikeglx_meta(path)[: probe.get_contact_count()]
    names = tuple(f"{stream}#AP{channel}" for channel in saved.tolist())
    return ProbeLayout(names, np.asarray(probe.contact_positions, dtype=np.float64))


def _uv_per_bit(meta: Mapping[str, str], probe: Probe) -> NDArray[np.float32]:
    """Return the step of each channel: range / largest number / gain, as the manual has it.

    Neuropixels 1.0 has a gain for each channel in ``imroTbl``; later probes have one, in
    ``imChan0apGain`` or, before 2023, in the data sheet.

    Raises
    ------
    ValueError
        If a step is not positive.
    """
    n_channels = probe.get_contact_count()
    gains = probe.contact_annotations.get("ap_gains")
    if gains is None:
        gains = [float(meta.get("imChan0apGain", probe.annotations.get("ap_gain", 0)))] * n_channels
    # The oldest files lack imMaxInt. The converter has `adc_bit_depth` bits, one for the sign.
    largest = int(meta.get("imMaxInt", 1 << (int(probe.annotations["adc_bit_depth"]) - 1)))
    steps = float(meta["imAiRangeMax"]) / largest / np.asarray(gains, dtype=np.float64) * 1e6
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ValueError("imAiRangeMax, imMaxInt and the gains of imroTbl must be positive")
    return steps.astype(np.float32)
