"""The order in which clips are shown, as a CSV file that a stimulus program reads."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from contracts.atomic_files import write_text
from contracts.errors import UserError, listed
from evaluation.clips.experiment import ClipPair, Experiment
from evaluation.questions.answer import csv_text

ORDER_STREAM = 21


@dataclass(frozen=True, slots=True)
class Presentation:
    """One showing of one clip; the fields are the columns of the file.

    Their names are names of Python too, as PsychoPy wants them.
    """

    presentation: int  # From 0
    clip: str  # The stimulus mark must have this name
    pair: str
    feature: str
    has_feature: int  # 1 or 0
    repeat: int
    file: str
    onset_s: float  # From the start of the schedule
    duration_s: float


def make_schedule(experiment: Experiment) -> tuple[Presentation, ...]:
    """Draw the order: every clip once in each repeat, grey before each and after the last.

    In a repeat the clips of all pairs are mixed. Of each feature, half of the pairs show the
    feature first, and in the next repeat the other half does, so that what changes slowly (the
    animal's state, the quality of the spikes) is no difference between with and without.
    """
    table, pairs = experiment.table, experiment.pairs
    rng = np.random.default_rng([table.seed, ORDER_STREAM])
    with_first = _balanced(pairs, rng)
    found: list[Presentation] = []
    for repeat in range(table.repeats):
        shown: set[int] = set()
        for row in rng.permutation(np.repeat(np.arange(len(pairs)), 2)).tolist():
            is_first = row not in shown
            shown.add(row)
            has_feature = is_first == (with_first[row] ^ bool(repeat % 2))
            pair = pairs[row]
            number = len(found)
            onset_s = table.gap_seconds + number * (table.clip_seconds + table.gap_seconds)
            found.append(
                Presentation(
                    number,
                    pair.clip(has_feature=has_feature),
                    pair.name,
                    pair.feature,
                    int(has_feature),
                    repeat,
                    pair.files[0 if has_feature else 1],
                    round(onset_s, 6),
                    table.clip_seconds,
                )
            )
    return tuple(found)


def write_schedule(path: Path, schedule: Sequence[Presentation]) -> None:
    """Write one row for each presentation."""
    write_text(path, csv_text([asdict(presentation) for presentation in schedule]))


def read_schedule(path: Path, experiment: Experiment) -> tuple[Presentation, ...]:
    """Read a schedule. Columns and rows may have been added; the clips must be the experiment's.

    Raises
    ------
    UserError
        If it cannot be read, is of another experiment, or has a number twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            schedule = tuple(_presentation(row, rows.line_num, path) for row in rows)
    except OSError as error:
        raise UserError(
            f"A schedule must be a CSV file that can be read, and {path} is not: "
            f"{(error.strerror or 'error').lower()}."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV: {error}.") from error
    times = Counter(one.presentation for one in schedule)
    twice = [number for number, n in times.items() if n > 1]
    if twice:
        raise UserError(
            f"{path} must give each row a number of its own in the column presentation, and has "
            f"these more than once: {listed(twice)}. Number the rows from 0."
        )
    ours = {
        (pair.clip(has_feature=has_feature), pair.name, pair.feature, int(has_feature))
        for pair in experiment.pairs
        for has_feature in (True, False)
    }
    foreign = [p.clip for p in schedule if (p.clip, p.pair, p.feature, p.has_feature) not in ours]
    if foreign or not schedule:
        raise UserError(
            f"{path} must be the schedule of {experiment.path}: of its {len(schedule)} rows, "
            f"{len(foreign)} show other clips ({listed(foreign) or 'none'}). Make it with "
            "'neurrate clips schedule'."
        )
    return schedule


def _balanced(pairs: Sequence[ClipPair], rng: np.random.Generator) -> list[bool]:
    """Say which pairs begin with the feature: half of those of each feature."""
    found = [False] * len(pairs)
    for feature in dict.fromkeys(pair.feature for pair in pairs):
        rows = [row for row, pair in enumerate(pairs) if pair.feature == feature]
        # of an odd number, the one that is left over by chance
        n_first = len(rows) // 2 + (len(rows) % 2) * int(rng.integers(2))
        for row in rng.permutation(rows)[:n_first].tolist():
            found[row] = True
    return found


def _presentation(row: dict[str, str], line: int, path: Path) -> Presentation:
    values: dict[str, object] = {}
    types = {"int": int, "float": float, "str": str}
    for field in fields(Presentation):
        try:
            values[field.name] = types[str(field.type)](row[field.name])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {line} must have a value for {field.name} "
                f"({field.type}), got {row.get(field.name)!r}. Make it with "
                "'neurrate clips schedule'."
            ) from error
    return Presentation(**values)  # type: ignore[arg-type] # each is of its field's type
