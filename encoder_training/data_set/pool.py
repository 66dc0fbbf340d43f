"""The steps of ``neurrate sessions pool``: data sets of several sessions become one.

The first data set gives the times; of the others every presentation of a frame is read where they
showed the same frame. ``docs/data-set.md`` has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from contracts.manifest import TrainingData
from contracts.population import Population, Unit
from encoder_training.data_set.pool_checks import check_alike, check_enough
from encoder_training.data_set.pool_counts import (
    PooledUnits,
    TimelineBins,
    invalid_intervals,
    write_pooled_counts,
)
from encoder_training.data_set.pool_join import Match, MatchKeys, Showings, joined_rows
from encoder_training.data_set.prepared import PreparedSet
from encoder_training.data_set.prepared_facts import (
    COUNTS,
    FRAMES,
    PATCHES,
    PRESENTATIONS,
    DatasetModel,
    Option,
    SessionModel,
    load_facts,
)
from encoder_training.data_set.prepared_files import (
    link_patches,
    load_prepared,
    read_shown_frames,
    write_prepared,
)

SEPARATOR = "/"
"""Between a session and a probe: no quotation marks are needed in ``probe:SESSION/probeA``."""

EXCHANGE_STREAM = 31
"""Random stream of a seed."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The options of ``neurrate sessions pool``."""

    datasets: tuple[Path, ...]  # The first gives the times
    out: Path
    exchange_repeats: bool = False
    seed: int = 0
    command: str = ""


@dataclass(frozen=True, eq=False)
class PoolInput:
    """One data set that is pooled."""

    folder: Path
    facts: DatasetModel
    prepared: PreparedSet
    showings: Showings

    @classmethod
    def load(cls, folder: Path) -> PoolInput:
        """Read a data set; counts and patches are mapped."""
        facts, prepared = load_facts(folder), load_prepared(folder, check_hashes=True)
        return cls(folder, facts, prepared, Showings(prepared.shown, *read_shown_frames(folder)))

    @property
    def session(self) -> str:
        """What people call the session."""
        return self.facts.session_id or self.facts.recording

    @property
    def sessions(self) -> list[SessionModel]:
        """The sessions in it: one, or those that were pooled."""
        facts = self.facts
        return facts.sessions or [
            SessionModel(
                session_id=self.session,
                recording=facts.recording,
                n_units=len(facts.population),
                data_sha256=facts.data_sha256,
            )
        ]


@dataclass(frozen=True, slots=True, eq=False)
class PooledSet:
    """The outcome of ``neurrate sessions pool``."""

    data_sha256: str
    data: PreparedSet
    notes: tuple[str, ...]


def pool_data_sets(options: PoolOptions) -> PooledSet:
    """Join data sets of the same frames into one folder.

    Raises
    ------
    UserError
        If they do not fit each other, or the folder is taken.
    """
    n_sets, least = len(options.datasets), 1 if options.exchange_repeats else 2
    if n_sets < least:
        raise UserError(
            "a pool needs two data sets or more, and given is "
            f"{listed(options.datasets) or 'none'}. Name more, or exchange the repeats of one with "
            "--exchange-repeats."
        )
    inputs = [PoolInput.load(folder) for folder in options.datasets]
    check_alike(inputs)
    _check_free(options.out, inputs[0].folder)
    joined = _Joined.of(inputs, options)
    options.out.mkdir(parents=True, exist_ok=True)
    write_pooled_counts(options.out / COUNTS, joined.bins, joined.units, joined.rows)
    link_patches(inputs[0].folder, options.out)
    return _write(inputs, joined, options)


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    """What of each session belongs to each bin of the first one's times."""

    bins: TimelineBins
    units: tuple[PooledUnits, ...]
    rows: tuple[list[NDArray[np.int64]], ...]  # Of each session and match, (n_bins,)
    prepared: PreparedSet  # The first, with the presentations and invalid intervals of all
    notes: tuple[str, ...]

    @classmethod
    def of(cls, inputs: Sequence[PoolInput], options: PoolOptions) -> _Joined:
        first = inputs[0]
        by_role = first.showings.is_held_out_by_repeat
        keys = [MatchKeys.of(each.showings, by_role=by_role) for each in inputs]
        timeline = (first.showings, keys[0])
        n_ranks = check_enough(inputs, keys)
        is_in = keys[0].rank < np.array([n_ranks[kind] for kind in keys[0].kind.tolist()])
        units = tuple(
            _units_of(each, timeline, key, n_ranks, options, at)
            for at, (each, key) in enumerate(zip(inputs, keys, strict=True))
        )
        shown = joined_rows(first.showings, [match for of in units for match in of.matches])
        bins = TimelineBins.of(shown, first.prepared.spans, first.prepared.window.rate)
        found = [[of.source(bins, match) for match in of.matches] for of in units]
        is_missing = ~is_in[bins.row]
        for _, of_match in (pair for of_session in found for pair in of_session):
            is_missing |= of_match < 0
        intervals = invalid_intervals(bins, is_missing)
        invalid_ns = np.concatenate([first.prepared.invalid_ns, intervals])
        notes = _fewer(inputs, keys, n_ranks)
        if not options.exchange_repeats:
            notes += _uneven(inputs, bins, found, shown.block)
        return cls(
            bins,
            units,
            tuple([rows for _, rows in of_session] for of_session in found),
            replace(first.prepared, shown=shown, invalid_ns=invalid_ns),
            notes,
        )


def _units_of(
    one: PoolInput,
    timeline: tuple[Showings, MatchKeys],
    keys: MatchKeys,
    n_ranks: dict[int, int],
    options: PoolOptions,
    at: int,
) -> PooledUnits:
    """Match one session with the timeline, for each repeat that its units may take."""
    showings, wanted = timeline
    n_units = len(one.prepared.population)
    if not options.exchange_repeats:
        row = keys.find(wanted.frame, wanted.rank)
        nothing = np.zeros(len(row), np.int64)
        match = Match.of(showings, one.showings, row)
        return PooledUnits(one.prepared, (match,), nothing, np.zeros((n_units, 1), np.int64))
    # Of a kind that another session lacks there is nothing, and its bins are invalid
    n_each = {kind: max(1, n) for kind, n in n_ranks.items()}
    n_of = np.array([n_each[kind] for kind in wanted.kind.tolist()])
    matches = tuple(
        Match.of(showings, one.showings, keys.find(wanted.frame, at_rank % n_of))
        for at_rank in range(max(n_each.values()))
    )
    kinds = sorted(n_each)
    first_case = dict(zip(kinds, np.cumsum([0, *(n_each[kind] for kind in kinds)]), strict=False))
    case = np.array([first_case[kind] for kind in wanted.kind.tolist()])
    case = case + np.minimum(wanted.rank, n_of - 1)
    rng = np.random.default_rng([options.seed, EXCHANGE_STREAM, at])
    # All orders alike, the own one among them: were each unit's own repeat left out, two units
    # would more often be left together, with two repeats all of them.
    order = np.concatenate(
        [np.argsort(rng.random((n_units, n_each[kind])), axis=1, kind="stable") for kind in kinds],
        axis=1,
    )
    return PooledUnits(one.prepared, matches, case, order)


def _fewer(
    inputs: Sequence[PoolInput], keys: Sequence[MatchKeys], n_ranks: dict[int, int]
) -> tuple[str, ...]:
    """Say whose repeats are left out because another session has fewer."""
    by_movie: dict[str, set[str]] = {}
    names = inputs[0].prepared.frames.movies
    for one, key in zip(inputs, keys, strict=True):
        for kind, n in key.n_ranks.items():
            if kind >= 3 and n > n_ranks.get(kind, n):
                text = f"{n_ranks[kind]} of the {n} of {one.session}"
                by_movie.setdefault(names[kind // 3 - 1], set()).add(text)
    return tuple(
        f"{movie}: only as many repeats are taken as the session with the fewest has: "
        f"{', '.join(sorted(texts))}"
        for movie, texts in by_movie.items()
    )


def _uneven(
    inputs: Sequence[PoolInput],
    bins: TimelineBins,
    found: Sequence[Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]],
    block: NDArray[np.int64],
) -> tuple[str, ...]:
    """Count the bins of each other session that were taken twice, or not at all."""
    is_shuffled = inputs[0].showings.is_shuffled[bins.row[1:]]
    is_next = (np.diff(bins.bins) == 1) & (block[bins.row[1:]] == block[bins.row[:-1]])
    is_next &= ~is_shuffled | (np.diff(bins.row) == 0)
    notes = []
    for one, ((own, rows),) in zip(inputs[1:], found[1:], strict=True):
        is_read = (rows >= 0) & (bins.row >= 0)
        steps = np.diff(own)[is_next & is_read[1:] & is_read[:-1]]
        twice, skipped = np.maximum(1 - steps, 0).sum(), np.maximum(steps - 1, 0).sum()
        notes.append(
            f"{one.session}: of {int(is_read.sum()):,} bins {int(twice):,} were taken twice and "
            f"{int(skipped):,} skipped, where its frames lasted shorter or longer than those of "
            f"{inputs[0].session}; {int((~is_read & (bins.row >= 0)).sum()):,} bins are invalid, "
            "as it lacks their frame or did not count them"
        )
    return tuple(notes)


def _check_free(out: Path, first: Path) -> None:
    """Refuse a folder that holds anything else than a pool that was cut short.

    Patches that are not those of `first` may be of a 'neurrate prepare' that was cut short, and the
    work of hours.

    Raises
    ------
    UserError
        If it does.
    """
    entries = sorted(path.name for path in out.iterdir()) if out.exists() else []
    others = set(entries) - {COUNTS, PATCHES, PRESENTATIONS, FRAMES}
    patches = out / PATCHES
    if others or (patches.exists() and not patches.samefile(first / PATCHES)):
        raise UserError(
            f"a pooled data set needs a folder of its own, and {out} holds {listed(entries)}. "
            "Choose another --out."
        )


def _population(inputs: Sequence[PoolInput]) -> Population:
    """Return all units; of several sessions the probe begins with the session."""
    if len(inputs) == 1:
        return inputs[0].prepared.population
    return Population(
        [
            unit if one.facts.sessions else _with_session(unit, one.session)
            for one in inputs
            for unit in one.prepared.population.units
        ]
    )


def _with_session(unit: Unit, session: str) -> Unit:
    return replace(unit, probe=f"{session}{SEPARATOR}{unit.probe}" if unit.probe else session)


def _write(inputs: Sequence[PoolInput], joined: _Joined, options: PoolOptions) -> PooledSet:
    first, facts = inputs[0], inputs[0].facts
    is_pool = len(inputs) > 1 or bool(facts.sessions)
    names = [one.session for one in inputs]
    own = [f"{one.session}: {note}" for one in inputs for note in one.facts.notes]
    asked: dict[str, Option] = {}
    if options.exchange_repeats:
        asked = {"--exchange-repeats": True, "--exchange-seed": options.seed}
        own.append(
            "every unit takes the repeats of each movie in an order of its own: no two units are "
            "of one moment, but for those whose orders agree by chance"
        )
    pooled = replace(
        joined.prepared,
        population=_population(inputs),
        counts=np.load(options.out / COUNTS, mmap_mode="r"),
        training_data=TrainingData(
            recording=" + ".join(one.facts.recording for one in inputs),
            session_id=" + ".join(names) if len(inputs) > 1 else facts.session_id,
        ),
    )
    data, _ = pooled.windows(first.prepared.window.lag_ns)
    n_before = first.prepared.windows(first.prepared.window.lag_ns)[0].n_windows
    notes = (
        *([f"pooled by frame, at the times of {names[0]}"] if len(inputs) > 1 else []),
        f"{data.n_windows:,} of the {n_before:,} windows of {names[0]} are left with the lag of "
        f"{first.prepared.window.lag_ns / 1e6:g} ms",
        *joined.notes,
        *own,
    )
    data_sha256 = write_prepared(
        options.out,
        pooled,
        movies={movie.name: movie.n_frames for movie in facts.movies},
        number=first.showings.number,
        movie=first.showings.movie,
        options={**facts.options, **asked},
        notes=notes,
        model_folder=facts.model_folder,
        command=options.command,
        sessions=[session for one in inputs for session in one.sessions] if is_pool else (),
    )
    return PooledSet(data_sha256, load_prepared(options.out), notes)
