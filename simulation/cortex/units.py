"""The simulated animal: its units, their receptive fields, and what a sorter would say of them.

Everything here follows from one seed and from nothing that is shown, so that two sessions of one
seed are two days of one animal.

References
----------
.. [1] Siegle et al. 2021, Nature 592:86: latency and receptive field size grow along the
   hierarchy LGd, VISp, VISl, VISrl, VISal, VISpm, VISam; rates in each.
.. [2] Hubel & Wiesel 1962; Adelson & Bergen 1985: simple cells, energy and motion energy.
.. [3] Kara, Reinagel & Reid 2000, Neuron 27:635: spikes come more evenly than a Poisson process,
   in the thalamus more so than in cortex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError
from simulation.nwb_file import FIRST_UNIT_ID
from simulation.scenes.scene import HEIGHT, WIDTH

DEFAULT_UNITS = 600
"""Of which 25 are in no area of `AREAS`: noise of the sorter, and units outside the brain."""

MIN_UNITS = 60
"""Below this some area or cell type would be left without a unit."""

LGD, CA1 = "LGd", "CA1"
CORTEX = ("VISp", "VISl", "VISrl", "VISal", "VISpm", "VISam")
VISUAL = (LGD, *CORTEX)
CELL_TYPES = ("PV", "SST", "VIP")

LUMINANCE, CENTRE, SIMPLE, ENERGY, MOTION, BLIND = range(6)
"""Kinds of receptive field: what drives the unit."""

KIND_NAMES = ("luminance", "centre_surround", "simple", "energy", "motion", "blind")


@dataclass(frozen=True, slots=True)
class Area:
    """What is typical of an area."""

    name: str
    probe: str
    n_units: int  # of `DEFAULT_UNITS`
    latency_s: float  # from the screen to the spikes; about the medians of [1]_
    rate_hz: float  # median during movies; about those of [1]_, 3 to 10 Hz
    sigma_px: tuple[float, float]  # smallest and largest field: standard deviation on the screen
    kinds: dict[int, float]  # share of each kind of receptive field


AREAS = (
    Area(LGD, "probeC", 75, 0.040, 10.0, (7.0, 13.0), {CENTRE: 1.0}),
    Area("VISp", "probeC", 130, 0.052, 8.0, (8.0, 20.0), {SIMPLE: 0.2, ENERGY: 0.65, MOTION: 0.15}),
    Area("VISl", "probeD", 75, 0.056, 8.0, (9.0, 24.0), {SIMPLE: 0.1, ENERGY: 0.7, MOTION: 0.2}),
    Area("VISrl", "probeF", 60, 0.058, 8.0, (10.0, 25.0), {SIMPLE: 0.1, ENERGY: 0.7, MOTION: 0.2}),
    Area("VISal", "probeE", 65, 0.060, 8.0, (10.0, 27.0), {SIMPLE: 0.1, ENERGY: 0.6, MOTION: 0.3}),
    Area("VISpm", "probeB", 55, 0.066, 8.0, (11.0, 28.0), {SIMPLE: 0.1, ENERGY: 0.7, MOTION: 0.2}),
    Area("VISam", "probeA", 55, 0.068, 8.0, (11.0, 30.0), {SIMPLE: 0.1, ENERGY: 0.6, MOTION: 0.3}),
    Area(CA1, "probeC", 60, 0.0, 3.0, (0.0, 0.0), {BLIND: 1.0}),
)  # fmt: skip
TYPE_SHARES = {"PV": 40 / 440, "SST": 35 / 440, "VIP": 35 / 440}
"""Of the cortical units. A real session tags one line; see the decision record."""

RATE_SIGMA = 0.45
"""Spread of the log-normal rates; narrower than the 0.8 or so of a real session, whose quietest
units say nothing within a window."""

RATE_RANGE_HZ = (2.0, 28.0)
TYPE_RATE = {"PV": 1.8, "SST": 1.2, "VIP": 1.1}
"""Factor on the rate: fast-spiking units fire about twice as much as the others [1]_."""

REGULARITY = {LGD: 4.0, CA1: 1.0}
CORTEX_REGULARITY = 3.0
"""Shape of the gamma process: the variance of counts at a steady rate is about its inverse, in
means. About what [3]_ reports for the thalamus; for cortex it is on the reliable side."""

LATENCY_SIGMA_S = 0.005
FAILING_SHARE = 0.08
LAYERS = (("2/3", 0.3), ("4", 0.2), ("5", 0.3), ("6", 0.2))
"""Of the cortical units; VIP cells are mostly in layer 2/3."""

MARGIN_PX = 12.0
"""No receptive field is centred closer to the edge of the screen."""

PLASTIC = 1.324717957244746
"""Real root of x^3 = x + 1: the additive sequence of its powers fills the plane evenly
(Roberts 2018, "The unreasonable effectiveness of quasirandom sequences")."""


@dataclass(frozen=True, slots=True, eq=False)
class CortexUnits:
    """The units of one animal, in the order of its recordings. Each array has one row for each."""

    seed: int
    unit_id: NDArray[np.int64]
    area: NDArray[np.str_]  # empty where there is none, as are layer and cell_type
    layer: NDArray[np.str_]
    cell_type: NDArray[np.str_]
    probe: NDArray[np.str_]
    quality: NDArray[np.str_]
    kind: NDArray[np.int64]  # index into `KIND_NAMES`
    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    sigma_px: NDArray[np.float64]  # of the envelope
    orientation: NDArray[np.float64]  # radians, as is phase
    phase: NDArray[np.float64]
    wavelength_px: NDArray[np.float64]  # of the carrier
    aspect: NDArray[np.float64]  # length of the envelope along the stripes, in widths
    sign: NDArray[np.float64]  # 1 or -1: on or off, and the preferred direction of motion units
    base_share: NDArray[np.float64]  # share of the mean rate that does not depend on the stimulus
    exponent: NDArray[np.float64]  # of the drive, in the non-linearity
    latency_s: NDArray[np.float64]
    rate_hz: NDArray[np.float64]  # mean over the reference movie
    peak_hz: NDArray[np.float64]  # never exceeded but for gain noise
    regularity: NDArray[np.float64]  # shape of the gamma process; 1 is Poisson
    amplitude_cutoff: NDArray[np.float64]
    presence_ratio: NDArray[np.float64]
    isi_violations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.unit_id)

    @property
    def is_visual(self) -> NDArray[np.bool_]:
        """Which units the movie drives."""
        driven: NDArray[np.bool_] = self.kind != BLIND
        return driven


def draw_units(seed: int, n_units: int = DEFAULT_UNITS) -> CortexUnits:
    """Draw an animal: `MIN_UNITS` units or more, shared out over the areas as in `AREAS`.

    Raises
    ------
    UserError
        If there are too few units for every area.
    """
    if n_units < MIN_UNITS:
        raise UserError(f"a simulated animal needs {MIN_UNITS} units or more, got {n_units}")
    rng = np.random.default_rng([seed, 11])
    rows = _share_out(n_units)
    columns = [_draw_area(area, n, rng) for area, n in rows]
    columns.append(_draw_rest(n_units - sum(n for _, n in rows), rng))
    joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    joined |= _draw_metrics(joined, rng)
    return CortexUnits(seed=seed, unit_id=FIRST_UNIT_ID + np.arange(n_units), **joined)


def _share_out(n_units: int) -> list[tuple[Area, int]]:
    return [(area, area.n_units * n_units // DEFAULT_UNITS) for area in AREAS]


def _draw_area(area: Area, n: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Draw the units of one area, all columns but the sorter's metrics."""
    types = _draw_types(n, rng) if area.name in CORTEX else np.full(n, "", dtype="U3")
    kind = _draw_kinds(area, n, rng)
    kind[types == "VIP"] = LUMINANCE  # light and shadow are what the paper reports for them
    x_px, y_px = _tile(n, rng)
    low, high = area.sigma_px
    wide = np.select([types == "PV", types == "SST", types == "VIP"], [1.2, 1.4, 2.0], 1.0)
    sigma_px = (low + (high - low) * rng.random(n) ** 1.5) * wide
    scale = rng.choice([2.0, 2.8, 4.0], n)  # one to two stripes under the envelope
    factor = np.select([types == name for name in CELL_TYPES], list(TYPE_RATE.values()), 1.0)
    rate_hz = np.clip(area.rate_hz * rng.lognormal(0, RATE_SIGMA, n) * factor, *RATE_RANGE_HZ)
    return {
        "area": np.full(n, area.name, dtype="U8"),
        "layer": _draw_layers(types, rng) if area.name in CORTEX else np.full(n, "", dtype="U3"),
        "cell_type": types,
        "probe": np.full(n, area.probe, dtype="U6"),
        "quality": np.full(n, "good", dtype="U5"),
        "kind": kind,
        "x_px": x_px,
        "y_px": y_px,
        "sigma_px": sigma_px,
        "orientation": np.pi * ((rng.permutation(n) + rng.random(n)) / max(n, 1)),
        "phase": rng.uniform(0, 2 * np.pi, n),
        "wavelength_px": np.maximum(sigma_px * scale, 17.0),
        "aspect": rng.uniform(1.0, 1.8, n),
        "sign": rng.choice([-1.0, 1.0], n),
        "base_share": np.where(kind == BLIND, 1.0, rng.uniform(0.05, 0.15, n)),
        "exponent": rng.uniform(1.6, 2.2, n),
        "latency_s": np.maximum(area.latency_s + rng.normal(0, LATENCY_SIGMA_S, n), 0.0),
        "rate_hz": rate_hz,
        "peak_hz": np.minimum(90.0, rate_hz * rng.uniform(6.0, 9.0, n)),
        "regularity": np.full(n, REGULARITY.get(area.name, CORTEX_REGULARITY)),
    }


def _draw_rest(n: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Draw what a sorter finds beside neurons: two thirds noise, the rest outside the brain."""
    n_noise = (2 * n + 1) // 3
    rest = _draw_area(AREAS[-1], n, rng)
    places = [AREAS[index % len(AREAS)] for index in range(n)]
    rest["area"] = np.array([area.name for area in places[:n_noise]] + [""] * (n - n_noise), "U8")
    rest["probe"] = np.array([area.probe for area in places], dtype="U6")
    rest["quality"][:n_noise] = "noise"
    return rest


def _draw_kinds(area: Area, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Share the kinds out as exactly as whole units allow, in random order."""
    edges = np.cumsum(list(area.kinds.values()))
    place = (np.arange(n) + 0.5) / max(n, 1)
    which = np.minimum(np.searchsorted(edges, place), len(edges) - 1)
    return rng.permutation(np.array(list(area.kinds), dtype=np.int64)[which])


def _draw_types(n: int, rng: np.random.Generator) -> NDArray[np.str_]:
    types = np.full(n, "", dtype="U3")
    order = rng.permutation(n)
    at = 0
    for name, share in TYPE_SHARES.items():
        stop = at + max(1, round(n * share))
        types[order[at:stop]] = name
        at = stop
    return types


def _draw_layers(types: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    names = np.array([name for name, _ in LAYERS], dtype="U3")
    layers = rng.choice(names, len(types), p=[share for _, share in LAYERS])
    upper = (types == "VIP") & (rng.random(len(types)) < 0.7)
    return np.where(upper, "2/3", layers)


def _tile(n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spread receptive fields evenly over the screen, with a little jitter."""
    steps = np.arange(n)[:, None] * np.array([1 / PLASTIC, 1 / PLASTIC**2])
    places = (rng.random(2) + steps + rng.normal(0, 0.01, (n, 2))) % 1.0
    places = rng.permutation(places)
    return (
        MARGIN_PX + places[:, 0] * (WIDTH - 2 * MARGIN_PX),
        MARGIN_PX + places[:, 1] * (HEIGHT - 2 * MARGIN_PX),
    )


def _draw_metrics(
    columns: dict[str, NDArray[Any]], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Draw the sorter's metrics; one in twelve good units fails one of them."""
    n = len(columns["quality"])
    cutoff = rng.uniform(0.0, 0.1, n)
    presence = rng.uniform(0.95, 1.0, n)
    violations = rng.uniform(0.0, 0.5, n)
    is_good = (columns["quality"] == "good") & (columns["area"] != "")
    fails = is_good & (rng.random(n) < FAILING_SHARE)
    which = rng.integers(0, 3, n)
    cutoff[fails & (which == 0)] += 0.15
    presence[fails & (which == 1)] -= 0.3
    violations[fails & (which == 2)] += 0.8
    return {
        "amplitude_cutoff": cutoff,
        "presence_ratio": presence,
        "isi_violations": violations,
    }
