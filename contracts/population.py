"""The ordered unit table, and named selections of its units.

A `Population` is what an encoder expects and what a stream sends: units in a fixed order.
A `Selection` is what gets narrated: "all", an area, a cell type, one neuron, or a control.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from contracts.selection_text import label_of, named, read_expression, shown

MAX_UNITS = 100_000
"""Units in one population. Ten times the largest Neuropixels session known to us."""

ATTRIBUTES = {"": ("area", "cell_type", "probe"), "unit": ("unit_id",), "ids": ("unit_id",)}
"""By kind of expression, the attributes of `Unit` that are searched in turn; others: the kind."""

LABELS = ("unit_id", "probe", "area", "cell_type", "quality")
"""The attributes of `Unit` that are text, in its own order."""

SHUFFLE_SEED = 20260618
"""Seed of the ``shuffled`` control; any number will do, as long as it never changes."""

CONTROLS = ("shuffled", "silent")
"""Expressions of the controls: populations without information about the frame."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A sorted neuron.

    Attributes
    ----------
    unit_id : str
        The data set's own label, as text. Unique together with ``probe``.
    probe, area, cell_type, quality : str
        As in the recording; empty where unknown.
    channel : int or None
        Number of its peak channel on the probe.
    depth_um : float or None
        Depth as the recording states it: its zero may be the tip or the surface of the brain.
    x_um, y_um : float or None
        Position of its peak channel on the probe: across it, and along it.
    """

    unit_id: str
    probe: str = ""
    area: str = ""
    cell_type: str = ""
    quality: str = ""
    # None where unknown. A unit that is measured elsewhere is still the same unit.
    channel: int | None = field(default=None, compare=False)
    depth_um: float | None = field(default=None, compare=False)
    x_um: float | None = field(default=None, compare=False)
    y_um: float | None = field(default=None, compare=False)

    @property
    def labels(self) -> dict[str, str]:
        """What is text, by attribute; without the position."""
        return {name: getattr(self, name) for name in LABELS}

    @property
    def key(self) -> tuple[str, str]:
        """Identifies this unit within the session: (probe, unit_id)."""
        return (self.probe, self.unit_id)

    @property
    def label(self) -> str:
        """The same for people: ``probeA/950951``, or ``950951`` where the probe is unknown."""
        return f"{self.probe}/{self.unit_id}" if self.probe else self.unit_id


class Population:
    """Units in a fixed order; a unit's row is its ``unit_index``.

    Parameters
    ----------
    units : sequence of Unit
        From 1 to 100,000, each (probe, unit_id) once.

    Raises
    ------
    UserError
        If there are no units, too many, or one occurs twice.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self.units = tuple(units)
        if not 1 <= len(self.units) <= MAX_UNITS:
            raise UserError(f"a population needs 1 to {MAX_UNITS:,} units, got {len(self.units):,}")
        if len(self.index_of) != len(self.units):
            times = Counter(unit.key for unit in self.units)
            twice = [unit_id for (_, unit_id), n in times.items() if n > 1]
            raise UserError(
                f"each unit_id must be unique within its probe, got {listed(twice)} more than once"
            )

    def __len__(self) -> int:
        return len(self.units)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Population) and self.units == other.units

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"Population({len(self)} units, {self.fingerprint})"

    @cached_property
    def index_of(self) -> dict[tuple[str, str], int]:
        """Row of each unit, by (probe, unit_id)."""
        return {unit.key: row for row, unit in enumerate(self.units)}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name these units in this order."""
        keys = json.dumps([unit.key for unit in self.units], ensure_ascii=True)
        return hashlib.sha256(keys.encode()).hexdigest()[:16]

    @cached_property
    def areas(self) -> tuple[str, ...]:
        """The areas that occur, most units first."""
        return _by_count([unit.area for unit in self.units])

    @property
    def controls(self) -> tuple[str, ...]:
        """Those of `CONTROLS` that the units allow: one unit cannot be shuffled."""
        return CONTROLS if len(self) > 1 else ("silent",)

    def select(self, name: str, expression: str | None = None) -> Selection:
        """Name a set of units.

        Parameters
        ----------
        expression : str, optional
            ``all``, ``shuffled``, ``silent``, ``area:VISp``, ``cell_type:PV``, ``probe:probeA``,
            ``unit:950951``, ``ids:1,2,3`` or ``ids:1|2|3``, or a bare area, cell type or probe.
            Names can be quoted, and then joined with ``|``: ``area:"layer 2/3, deep"|"CA1"``.
            Defaults to `name`.

        Raises
        ------
        UserError
            If no unit matches, with what there is to choose from; if one of several names is
            unknown; if there are too few units to shuffle; if a closing quotation mark is missing.
        """
        expression = name if expression is None else expression
        everyone = np.ones(len(self), dtype=np.bool_)
        label = label_of(name, expression)
        if expression == "all":
            return Selection(name, "units", everyone, label)
        if expression == "shuffled":
            if len(self) < 2:
                raise UserError(f"shuffled needs two units or more, the population has {len(self)}")
            return Selection(name, "shuffled", everyone, label)
        if expression == "silent":
            return Selection(name, "silent", ~everyone, label)
        return Selection(name, "units", self._matching(expression), label)

    def _matching(self, expression: str) -> NDArray[np.bool_]:
        kind, names = read_expression(expression)
        wanted = set(names)
        for attribute in ATTRIBUTES.get(kind, (kind,)):
            values = [getattr(unit, attribute) for unit in self.units]
            if not wanted.isdisjoint(values):
                break
        else:
            raise UserError(
                f"no unit matches the population {expression!r}; there are "
                f"{len(self)} units, areas {listed(self._named('area')) or '(none)'}, "
                f"cell types {listed(self._named('cell_type')) or '(none)'}, "
                f"probes {listed(self._named('probe')) or '(none)'}. "
                "Use all, shuffled, silent, area:NAME, cell_type:NAME, probe:NAME, unit:ID or "
                "ids:ID,ID."
            )
        known = set(values)
        missing = [shown(name) for name in names if name not in known]
        if missing:
            noun = attribute.removesuffix("_id").replace("_", " ")
            n_known = len(self) if attribute == "unit_id" else len(known - {""})
            raise UserError(
                f"the population {expression!r} names {len(missing)} {noun}s that are not among "
                f"the {n_known} there are: {attribute} {listed(missing)}. Leave them out."
            )
        return np.array([value in wanted for value in values])

    def _named(self, attribute: str) -> list[str]:
        return [named(name) for name in _by_count([getattr(u, attribute) for u in self.units])]


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The units that one narration is made from.

    Attributes
    ----------
    kind : {"units", "shuffled", "silent"}
        The last two are controls: all units in a fixed wrong order, and no unit at all.
    mask : array, shape (n_units,), bool
        True for the selected units; the others are held at their mean rate.
    label : str
        The name for display; empty where it is `name`.
    """

    name: str
    kind: Literal["units", "shuffled", "silent"]
    mask: NDArray[np.bool_]
    label: str = ""

    @property
    def n_units(self) -> int:
        """Units that are selected."""
        return int(self.mask.sum())

    def order(self) -> NDArray[np.intp]:
        """Return the unit whose counts each row gets: the identity except for ``shuffled``.

        In ``shuffled`` no row keeps its own unit: in a random cycle of all units, each is put in
        the row of the one before it.
        """
        n_units = len(self.mask)
        if self.kind != "shuffled":
            return np.arange(n_units)
        return random_cycle(n_units, np.random.default_rng(SHUFFLE_SEED))


def random_cycle(n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return a random order of 0 to n - 1 in which none keeps its place, if n is 2 or more."""
    around = rng.permutation(n)
    order = np.empty(n, dtype=np.intp)
    order[around] = np.roll(around, -1)
    return order


def _by_count(labels: Sequence[str]) -> tuple[str, ...]:
    known = Counter(label for label in labels if label)
    return tuple(sorted(known, key=lambda label: (-known[label], label)))
