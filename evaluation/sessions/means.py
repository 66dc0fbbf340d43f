"""The mean over sessions, with an interval over sessions and not over frames.

A session counts once, however many windows it has: what is asked is what another animal would
give, and frames of one animal say nothing about that. There is no p: all sessions see the same
frames, so that even a narrator that knows nothing is the same small distance from 0 in each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from encoder_training.evaluation.bootstrap import INTERVAL, Interval
from evaluation.questions.answer import Row, with_interval
from evaluation.sessions.results import GROWTH, POOLING, SIMILARITY, Measure, SessionValue

IN_TABLES_ALONE = (GROWTH, SIMILARITY, POOLING)
"""Too many for sentences; growth has a figure."""

WIDTH_IN_SD = 2 * 1.96
"""Of a 95 % interval of a normal distribution."""


@dataclass(frozen=True, slots=True)
class SessionMean:
    """One measure of one population over the sessions that have it."""

    measure: Measure
    of: tuple[str, ...]
    values: tuple[SessionValue, ...]
    mean: Interval  # Student's t over sessions
    sd: float  # Between sessions
    sd_of_frames: float  # That their own intervals stand for: of a session's value, over frames

    @property
    def name(self) -> str:
        """The population or narrator; an encoder that was trained for it is named."""
        return " ".join([self.of[0], *(["trained"] if "trained" in self.of else [])])

    @property
    def null(self) -> tuple[float, float] | None:
        """The mean of the sessions' bands of chance, if they have one."""
        bands = [one.null for one in self.values if one.null is not None]
        low, high = np.mean(bands, axis=0).tolist() if bands else (math.nan, math.nan)
        return (low, high) if bands else None


def session_means(values: Sequence[SessionValue]) -> list[SessionMean]:
    """Return the mean of everything that two sessions or more have, in the order of the tables."""
    groups: dict[tuple[Measure, tuple[str, ...]], list[SessionValue]] = defaultdict(list)
    for value in values:
        groups[value.measure, value.of].append(value)
    return [_mean(*key, of) for key, of in groups.items() if len(of) > 1]


def _mean(measure: Measure, of: tuple[str, ...], values: Sequence[SessionValue]) -> SessionMean:
    each = np.array([one.value.value for one in values])
    widths = np.array([one.value.high - one.value.low for one in values])
    n, mean, sd = len(each), float(each.mean()), float(each.std(ddof=1))
    error = sd / math.sqrt(n)
    reach = float(student.ppf(INTERVAL[1], n - 1)) * error
    sd_of_frames = float(np.sqrt(np.mean((widths / WIDTH_IN_SD) ** 2)))
    found = Interval(mean, mean - reach, mean + reach)
    return SessionMean(measure, of, tuple(values), found, sd, sd_of_frames)


def mean_rows(means: Sequence[SessionMean]) -> list[Row]:
    """Return a row for each mean."""
    return [
        {
            "measure": one.measure.name,
            "of": " ".join(one.of),
            "sessions": len(one.values),
            **with_interval("mean", one.mean),
            "above_0": sum(value.value.value > 0 for value in one.values),
            "sd_between_sessions": one.sd,
            "sd_of_frames": one.sd_of_frames,
        }
        for one in means
    ]


def value_rows(values: Sequence[SessionValue]) -> list[Row]:
    """Return a row for each value of each session."""
    return [
        {
            "measure": one.measure.name,
            "of": " ".join(one.of),
            "session": one.session,
            **with_interval("value", one.value),
        }
        for one in values
    ]


def findings(means: Sequence[SessionMean]) -> list[str]:
    """Return a sentence for each mean that is not only in the table."""
    told = [one for one in means if one.measure not in IN_TABLES_ALONE]
    n_more = len(means) - len(told)
    more = f"{n_more} more means, of {', '.join(m.name for m in IN_TABLES_ALONE)}, are in the table"
    return [
        *(
            f"{one.measure.name}, {one.name}: {one.mean} over {len(one.values)} sessions"
            f"; sd over sessions {one.sd:.3f}, of one over its frames {one.sd_of_frames:.3f}"
            for one in told
        ),
        *([more] if n_more else []),
    ]
