"""The filter and the reference, chunk by chunk: any cutting into chunks gives the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_sources.online_sorter.templates import Preprocessing

SETTLING_MS = 30.0
"""What a filter of a whole recording begins with before each piece, so that it is as after a long
time: nine periods of 300 Hz."""


class CausalFilter:
    """Filters consecutive chunks of one run, in float32.

    Each sample is computed from the ones before by the same operations wherever chunks are cut, so
    that results are equal to the last bit.
    """

    def __init__(self, preprocessing: Preprocessing, rate_hz: float) -> None:
        self._reference = preprocessing.reference
        self._sections = sections(preprocessing, rate_hz).astype(np.float32)
        self._state: NDArray[np.float32] | None = None
        self.apply(np.zeros((1, 1), dtype=np.float32))  # compiles
        self.reset()

    def reset(self) -> None:
        """Begin anew with the next chunk, as after a gap."""
        self._state = None

    def apply(self, voltages_uv: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next samples, filtered and referenced.

        Parameters
        ----------
        voltages_uv : array, shape (n_samples, n_channels), float32, microvolts
            Finite; left as they are.

        Returns
        -------
        filtered_uv : array, shape (n_samples, n_channels), float32, microvolts
            In the order of C.
        """
        from scipy.signal import sosfilt_zi

        from stream_sources.online_sorter.filter_kernels import filter_sections, subtract_median

        filtered = np.array(voltages_uv, dtype=np.float32, order="C")
        if not len(filtered):
            return filtered
        if self._state is None:
            # As if the first sample had been there for ever: an amplifier's offset is no step.
            steady = sosfilt_zi(self._sections.astype(np.float64))[:, :, None] * voltages_uv[0]
            self._state = steady.astype(np.float32)
        filter_sections(filtered, self._sections, self._state)
        if self._reference == "median":
            subtract_median(filtered)
        return filtered


def sections(preprocessing: Preprocessing, rate_hz: float) -> NDArray[np.float64]:
    """Return the filter's second-order sections, shape (n_sections, 6), float64."""
    from scipy.signal import butter

    band = (preprocessing.low_hz, preprocessing.high_hz)
    designed: NDArray[np.float64] = butter(
        preprocessing.order, band, btype="bandpass", output="sos", fs=rate_hz
    )
    return designed


def causal_recording(recording: Any, preprocessing: Preprocessing) -> Any:
    """Return a SpikeInterface recording that is filtered as `CausalFilter` does, in microvolts.

    Lazy, and right at any place of a long recording: each piece is filtered from `SETTLING_MS`
    before it. Equal to `CausalFilter` but for rounding and the first milliseconds.
    """
    from spikeinterface.preprocessing import common_reference, scale_to_uV
    from spikeinterface.preprocessing import filter as filter_recording

    filtered = filter_recording(
        scale_to_uV(recording),
        margin_ms=SETTLING_MS,
        coeff=sections(preprocessing, recording.get_sampling_frequency()),
        filter_mode="sos",
        direction="forward",
        dtype="float32",
    )
    if preprocessing.reference == "median":
        return common_reference(filtered, reference="global", operator="median", dtype="float32")
    return filtered
