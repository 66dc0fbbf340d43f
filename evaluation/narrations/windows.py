"""Which window describes a scene: the one nearest to its middle without spikes of another scene.

A spike responds to a frame that was shown up to one response latency earlier. So the window of a
scene starts at least that latency after the scene's first frame, and ends before the scene does;
windows that overlap a cut are not scored. Times are integers; bins lie on the grid that training
and serving share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from contracts.clock import NS_PER_S
from contracts.errors import MisuseError
from contracts.window import WindowSpec

MAX_LATENCY_NS = 150_000_000
"""After this, no spike responds to an earlier frame: the longest latencies from retina to cortex
are about 100 ms (Siegle et al., Nature 592, 2021), and responses outlast a frame by tens of ms."""


def with_stride(spec: WindowSpec, scene_ns: int) -> WindowSpec:
    """Return the same window with the longest stride that misses no scene.

    `scene_ns` is the duration of the shortest scene.

    Raises
    ------
    MisuseError
        If a scene is too short to hold a window.
    """
    rate = spec.rate
    window_ns = rate.start_ns(spec.n_bins)
    bin_ns = rate.start_ns(1)
    # One bin less: with a stride of n bins the first start may come almost n bins late.
    stride_bins = (scene_ns - MAX_LATENCY_NS - window_ns) // bin_ns - 1
    if stride_bins < 1:
        raise MisuseError(
            f"a scene of {scene_ns / NS_PER_S:.3f} s is too short for a window of "
            f"{spec.duration_s:.3f} s that begins {MAX_LATENCY_NS / NS_PER_S} s after a cut"
        )
    return replace(spec, stride_bins=int(stride_bins))


def scene_windows(
    spec: WindowSpec, start_ns: NDArray[np.int64], stop_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Choose one window for each scene.

    `spec` has the stride of the replay; `start_ns` and `stop_ns`, int64 of shape (n_scenes,), say
    when each scene was on the screen. Returns int64 of that shape: the number of the window on the
    grid of `spec` that describes the frame nearest to the middle of the scene.

    Raises
    ------
    MisuseError
        If a scene holds no window.
    """
    chosen = np.empty(len(start_ns), np.int64)
    for scene, (start, stop) in enumerate(zip(start_ns.tolist(), stop_ns.tolist(), strict=True)):
        candidates = _clean_windows(spec, start, stop)
        if not candidates:
            raise MisuseError(
                f"scene {scene} from {start} to {stop} ns holds no window of stride "
                f"{spec.stride_bins} bins; choose the stride with with_stride"
            )
        middle = (start + stop) // 2
        chosen[scene] = min(candidates, key=lambda seq: abs(frame_ns(spec, seq) - middle))
    return chosen


def frame_ns(spec: WindowSpec, window_seq: int) -> int:
    """Return when the frame that a window describes was shown, session clock, nanoseconds."""
    last_bin = window_seq * spec.stride_bins + spec.n_bins
    return spec.rate.start_ns(last_bin) - spec.lag_ns


def frames_of(
    frame_at: Callable[[int], NDArray[np.uint8]], spec: WindowSpec, windows: Sequence[int]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frame that each window describes; `frame_at` takes session nanoseconds."""
    return (frame_at(frame_ns(spec, seq)) for seq in windows)


def _clean_windows(spec: WindowSpec, start: int, stop: int) -> list[int]:
    """Return the windows with spikes of one scene alone that describe a frame of it."""
    first_bin = spec.rate.first_bin_at_or_after(start + MAX_LATENCY_NS)
    seq = spec.first_start_at_or_after(first_bin) // spec.stride_bins
    found = []
    while frame_ns(spec, seq) + spec.lag_ns <= stop:
        if start <= frame_ns(spec, seq) < stop:
            found.append(seq)
        seq += 1
    return found
