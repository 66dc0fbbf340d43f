"""Which units of a recording are sent: ``--units`` and ``--units-from``. No file here."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RecordingError, UserError, listed
from contracts.population import Unit
from contracts.selection_text import named, read_name, shown, split_ids, split_names

ALLEN_MAX_AMPLITUDE_CUTOFF = 0.1
ALLEN_MIN_PRESENCE_RATIO = 0.95
ALLEN_MAX_ISI_VIOLATIONS = 0.5
"""The defaults of AllenSDK, inclusive as its code has them (UNIT_FILTER_DEFAULTS)."""

ALLEN_COLUMNS = (
    "quality", "area", "amplitude_cutoff", "presence_ratio", "isi_violations", "valid_data",
)  # fmt: skip
"""What the ``allen`` condition needs to know of each unit."""

WORDS = ("all", "good", "allen")
LISTS = {"area": "area", "probe": "probe", "cell_type": "cell_type", "ids": "unit_id"}
"""Conditions that name values, and the attribute of `Unit` that must be one of them."""


@dataclass(frozen=True, slots=True, eq=False)
class UnitTable:
    """The units of a recording and what is known of them.

    Attributes
    ----------
    metrics : mapping of str to array, shape (n_units,), float64
        ``amplitude_cutoff``, ``presence_ratio``, ``isi_violations`` and ``valid_data`` (1 where
        the peak channel is), as far as the file has them.
    """

    units: tuple[Unit, ...]
    metrics: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class UnitCondition:
    """One part of a filter.

    Attributes
    ----------
    kind : str
        ``all``, ``good``, ``allen``, ``area``, ``probe``, ``cell_type`` or ``ids``.
    values : tuple of str
        Of which one must hold.
    """

    text: str
    kind: str
    values: tuple[str, ...] = ()

    def missing(self, table: UnitTable) -> list[str]:
        """Return the columns that it needs and the recording lacks."""
        if self.kind == "good":
            needed: Sequence[str] = ("quality",)
        elif self.kind == "allen":
            needed = ALLEN_COLUMNS
        else:
            needed = ()
        return [column for column in needed if not _has(table, column)]

    def holds(self, table: UnitTable) -> NDArray[np.bool_]:
        """Return which units fulfil it."""
        if self.kind == "all":
            return np.ones(len(table.units), dtype=np.bool_)
        if self.kind == "good":
            return _is_good(table)
        if self.kind == "allen":
            return _passes_allen(table)
        attribute = LISTS[self.kind]
        return np.array([getattr(unit, attribute) in self.values for unit in table.units])


def parse_units(text: str) -> tuple[UnitCondition, ...]:
    """Read a filter: conditions joined by commas, all of which must hold.

    Parameters
    ----------
    text : str
        ``all``, ``good``, ``allen``, ``area:VISp|VISl``, ``probe:probeA``, ``cell_type:PV``,
        ``ids:1|2|3`` or ``ids:1,2,3``, or several: ``good,area:VISp``. After ``ids:`` a part
        that is no condition is one more id. Names can be quoted:
        ``area:"layer 2/3, deep"``.

    Raises
    ------
    UserError
        If a condition is none of these, or a closing quotation mark is missing.

    Examples
    --------
    >>> [condition.kind for condition in parse_units("good,area:VISp|VISl")]
    ['good', 'area']
    """
    parts: list[str] = []
    for part in split_names(text, ","):
        if parts and parts[-1].startswith("ids:") and _is_id(part):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return tuple(_parse_condition(part) for part in parts)


def choose_units(
    table: UnitTable,
    units: str,
    only: Sequence[tuple[str, str]] | None,
    *,
    path: str,
) -> NDArray[np.int64]:
    """Choose the units to send.

    `only` names exactly the units to send, in this order; each must pass the filter too. Returns
    rows of the table.

    Raises
    ------
    RecordingError
        If no unit is left, a column is missing, or a unit of `only` is.
    """
    passing = _filtered(table, units, path)
    if only is None:
        return np.flatnonzero(passing)
    row_of = {unit.key: row for row, unit in enumerate(table.units) if passing[row]}
    missing = [
        Unit(unit_id, probe).label for probe, unit_id in only if (probe, unit_id) not in row_of
    ]
    if missing or not only:
        raise RecordingError(
            path,
            f"{len(missing)} of the {len(only)} units asked for are not among the "
            f"{len(row_of)} units of this recording that pass --units {units!r}: "
            f"unit_id {listed(missing) or '(none asked for)'}. Use the bundle made for this "
            "recording.",
        )
    return np.array([row_of[probe, unit_id] for probe, unit_id in only], dtype=np.int64)


def _filtered(table: UnitTable, units: str, path: str) -> NDArray[np.bool_]:
    conditions = parse_units(units)
    missing = sorted({column for c in conditions for column in c.missing(table)})
    if missing:
        raise RecordingError(
            path,
            f"--units {units!r} needs columns that the recording lacks: {', '.join(missing)}. "
            "Use --units all, or a filter that does without them.",
        )
    unknown = _unknown_ids(table, conditions)
    if unknown:
        raise RecordingError(
            path,
            f"--units {units!r} names units that are not in the recording: "
            f"unit_id {listed([shown(name) for name in unknown])}; it has {len(table.units)} units",
        )
    masks = [condition.holds(table) for condition in conditions]
    together: NDArray[np.bool_] = np.logical_and.reduce(masks)
    if not together.any():
        raise RecordingError(path, _nothing_left(table, units, conditions, masks))
    return together


def _unknown_ids(table: UnitTable, conditions: Sequence[UnitCondition]) -> list[str]:
    known = {unit.unit_id for unit in table.units}
    wanted = [value for c in conditions if c.kind == "ids" for value in c.values]
    return [value for value in wanted if value not in known]


def _parse_condition(text: str) -> UnitCondition:
    kind, colon, value = text.partition(":")
    if not colon and kind in WORDS:
        return UnitCondition(text, kind)
    values = tuple(split_ids(value) if kind == "ids" else map(read_name, split_names(value, "|")))
    if colon and kind in LISTS and values and all(values):
        return UnitCondition(text, kind, values)
    close = difflib.get_close_matches(kind, [*WORDS, *LISTS], n=1)
    hint = f" Did you mean {close[0]}?" if close and close[0] != kind else ""
    raise UserError(
        f"--units takes all, good, allen, area:NAME, probe:NAME, cell_type:NAME or ids:ID, with "
        f"'|' between alternatives and ',' between conditions; got {text!r}.{hint} Quote a "
        'name that contains one of these: area:"layer 2/3, deep".'
    )


def _is_id(part: str) -> bool:
    """Whether a part between commas, after ``ids:``, goes on with the list."""
    return bool(part) and part not in WORDS and part.partition(":")[0] not in LISTS


def _has(table: UnitTable, column: str) -> bool:
    if column in {"quality", "area"}:
        return any(getattr(unit, column) for unit in table.units)
    return column in table.metrics


def _is_good(table: UnitTable) -> NDArray[np.bool_]:
    return np.array([unit.quality == "good" for unit in table.units])


def _passes_allen(table: UnitTable) -> NDArray[np.bool_]:
    metrics = table.metrics
    in_brain = np.array([unit.area != "" for unit in table.units])
    passes: NDArray[np.bool_] = (
        _is_good(table)
        & in_brain
        & (metrics["amplitude_cutoff"] <= ALLEN_MAX_AMPLITUDE_CUTOFF)
        & (metrics["presence_ratio"] >= ALLEN_MIN_PRESENCE_RATIO)
        & (metrics["isi_violations"] <= ALLEN_MAX_ISI_VIOLATIONS)
        & (metrics["valid_data"] == 1)
    )
    return passes


def _nothing_left(
    table: UnitTable,
    units: str,
    conditions: Sequence[UnitCondition],
    masks: Sequence[NDArray[np.bool_]],
) -> str:
    counts = "; ".join(
        f"{shown(condition.text)} holds for {int(mask.sum())}{_choices(table, condition, mask)}"
        for condition, mask in zip(conditions, masks, strict=True)
    )
    return f"no unit of {len(table.units)} passes --units {units!r}: {counts}"


def _choices(table: UnitTable, condition: UnitCondition, mask: NDArray[np.bool_]) -> str:
    """Return what there is to choose from; nothing if the condition holds for some unit."""
    attribute = {**LISTS, "good": "quality"}.get(condition.kind)
    if mask.any() or attribute is None:
        return ""
    counted = Counter(getattr(unit, attribute) for unit in table.units)
    names = [named(name) for name, _ in counted.most_common() if name]
    return f" (there are {listed(names) or 'none'})"
