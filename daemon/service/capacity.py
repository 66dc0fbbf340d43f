"""Whether the encoder can keep up with the populations that were asked for: measured at start-up.

The fast loop encodes between two batches of spikes. If encoding takes longer than the time between
two windows, windows are left out, or under the policy ``all`` spikes wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.encoders.protocol import Encoder

FIRST_BUDGET_S, OTHERS_BUDGET_S = 0.3, 0.6
"""For measuring: start-up takes so much longer at most."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the encoder is asked for, at real time.

    Attributes
    ----------
    n_populations, n_at_once : int
        All of them, and those that are narrated of one window.
    n_first : int
        Populations that rules on probes need, which are encoded first, and of every window.
    stride_s : float
        Seconds between two windows.
    every : int
        Each window whose number it divides is narrated (``handover.every``).
    keeps_all : bool
        Whether every window is encoded, however late.
    """

    n_populations: int
    n_at_once: int
    n_first: int
    stride_s: float
    every: int
    keeps_all: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """How long a window takes through the populations that rules need, and through the others."""

    load: Load
    first_s: float
    others_s: float

    @property
    def loop_share(self) -> float:
        """The part of the fast loop's time that encoding may take; above 1 it does not fit."""
        return (self.first_s + self.others_s / self.load.every) / self.load.stride_s

    @property
    def summary(self) -> str:
        """The measurement, for the log."""
        load = self.load
        first = (
            f", {_ms(self.first_s)} of it through the {_populations(load.n_first)} that rules on "
            "probes need, which come first"
            if load.n_first
            else ""
        )
        every = f" and one in {load.every:,} is narrated" if load.every > 1 else ""
        return (
            f"{self._window}{first}; one comes every {_ms(load.stride_s)}{every}: up to "
            f"{_percent(self.loop_share)} of the fast loop's time"
        )

    @property
    def problem(self) -> str:
        """What does not fit, what happens then, and what to do; empty if all fits."""
        load, share = self.load, self.loop_share
        if share <= 1:
            return ""
        what, late = self._window, ""
        remedies = ["a larger window.stride_bins"]
        if load.n_populations > 1:
            remedies.insert(0, "fewer populations")
        if self.first_s > load.stride_s:
            takes = f"take{'s' * (load.n_first == 1)} {_ms(self.first_s)} a window"
            what = f"the {_populations(load.n_first)} that rules on probes need {takes}"
            late = "triggers come late, and "
        else:
            remedies.append("a larger handover.every")
            if not load.keeps_all:
                remedies.append("a smaller handover.populations")
        per_s = 1 / load.stride_s / (1 if load.n_first else load.every)
        then = (
            "spikes wait: a live source loses batches, and a replay is slowed down"
            if load.keeps_all
            else f"at best {_rate(per_s / share)} of {_rate(per_s)} windows a second are encoded"
        )
        return (
            f"{what}, and one comes every {_ms(load.stride_s)}: {late}{then}. Use "
            f"{' or '.join(filter(None, (', '.join(remedies[:-1]), remedies[-1])))}"
        )

    @property
    def _window(self) -> str:
        load = self.load
        all_of_them = _populations(load.n_populations)
        return f"a window takes {_ms(self.first_s + self.others_s)} through " + (
            all_of_them
            if load.n_at_once >= load.n_populations
            else f"{load.n_at_once:,} of {all_of_them}, which take turns"
        )


def measure_capacity(first: Encoder | None, others: Encoder | None, load: Load) -> Capacity:
    """Measure the encoder, in less than a second unless one population takes that long.

    `first` encodes what rules on probes need, and `others` the rest of what is narrated of a
    window; None if there is nothing.
    """
    return Capacity(
        load,
        first.time_window(FIRST_BUDGET_S) if first else 0.0,
        others.time_window(OTHERS_BUDGET_S) if others else 0.0,
    )


def _ms(duration_s: float) -> str:
    duration_ms = 1e3 * duration_s
    return f"{duration_ms:.3g} ms" if duration_ms < 999.5 else f"{duration_ms:,.0f} ms"


def _populations(number: int) -> str:
    return f"{number:,} population{'s' * (number != 1)}"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 9.95 else f"{per_s:.2g}"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:,.0f} %"
