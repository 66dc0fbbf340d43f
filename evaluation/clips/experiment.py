"""An experiment with controlled clips: a TOML file, and the pairs of clips that it describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from contracts.clock import NS_PER_S
from contracts.errors import UserError, listed
from contracts.selection_text import label_of, topic_names
from contracts.toml import read_toml
from contracts.words import has_phrase, words_in
from evaluation.narrations.pairs import mentions
from evaluation.narrations.windows import MAX_LATENCY_NS
from simulation.scenes.pairs import FEATURES, controlled_pair
from simulation.scenes.scene import Scene
from simulation.seeds import SEEN, UNSEEN_SCORE, scene_seed

SHORTEST_S = 2 * MAX_LATENCY_NS / NS_PER_S
"""A clip must be longer: spikes answer the screen half of this late, and a window must be left."""

FEWEST_PAIRS = 5
"""Of a feature: with four, no order of signs has p <= 0.05."""

Seconds = Annotated[float, Field(gt=0, le=60)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=500)]


class ExperimentPart(BaseModel):
    """A table of the file, which has no other keys than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class FeatureTable(ExperimentPart):
    """Pairs that the simulated world draws."""

    name: str
    pairs: Annotated[int, Field(ge=FEWEST_PAIRS, le=500)] = 20


class PairTable(ExperimentPart):
    """Two clips of one's own."""

    feature: Name
    with_: Annotated[Text, Field(alias="with")]  # File, as the stimulus machine finds it
    without: Text
    words: Annotated[list[Text], Field(min_length=1)]  # Any of them is a mention
    # What each clip shows, to have the pair checked
    with_shows: list[Text] = Field(default_factory=list)
    without_shows: list[Text] = Field(default_factory=list)


class ExperimentTable(ExperimentPart):
    """The whole file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = UNSEEN_SCORE
    clip_seconds: Annotated[Seconds, Field(gt=SHORTEST_S)] = 1.0
    gap_seconds: Annotated[Seconds, Field(ge=0.25)] = 0.5
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    populations: list[Text] = Field(default_factory=list)  # Empty: all that are narrated
    features: list[FeatureTable] = Field(default_factory=list)
    pairs: list[PairTable] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ClipPair:
    """Two clips that differ in one feature; ``with`` is the one that has it."""

    name: str
    feature: str
    mentions: Callable[[str], bool]  # Whether a sentence mentions the feature
    files: tuple[str, str] = ("", "")  # With, without; empty for scenes
    scenes: tuple[Scene, Scene] | None = None

    def clip(self, *, has_feature: bool) -> str:
        """Return the name of a clip, which its stimulus mark has too."""
        return f"{self.name}-{'with' if has_feature else 'without'}"


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is shown, to whom, and how often."""

    path: Path
    table: ExperimentTable
    pairs: tuple[ClipPair, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Each feature once, in order of the file."""
        return tuple(dict.fromkeys(pair.feature for pair in self.pairs))

    @property
    def populations(self) -> tuple[str, ...]:
        """The wanted populations, as their narrations name them."""
        named = topic_names(self.table.populations)
        return tuple(label_of(name, expression) for name, expression in named.items())

    @property
    def is_simulated(self) -> bool:
        """Whether the clips are drawn scenes and no files."""
        return bool(self.table.features)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment.

    Raises
    ------
    UserError
        With everything that is wrong in the file.
    """
    try:
        tree = read_toml(path)
    except OSError as error:
        raise UserError(
            f"An experiment must be a TOML file that can be read, and {path} is not: "
            f"{(error.strerror or 'error').lower()}."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
    try:
        table = ExperimentTable.model_validate(tree)
    except ValidationError as error:
        problems = [_sentence(detail) for detail in error.errors()]
        raise UserError(f"{path}: {'; '.join(problems)}.") from error
    problems = [*_experiment_problems(table), *_pair_problems(table.pairs)]
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    return Experiment(path, table, (*_drawn(table), *_own(table.pairs)))


def _experiment_problems(table: ExperimentTable) -> Iterator[str]:
    if bool(table.features) == bool(table.pairs):
        found = "both" if table.features else "neither"
        yield (
            "an experiment has either features, which the simulated world draws, or [[pairs]] of "
            f"clips of your own; this has {found}"
        )
    if table.features and table.seed in SEEN:
        yield (
            f"seed must give scenes that no training has used, got {table.seed}; the trainings use "
            f"{listed(sorted(SEEN))}"
        )
    names = [feature.name for feature in table.features]
    for at, name in enumerate(names):
        if name not in FEATURES:
            yield (
                f"features[{at}].name must be one of {', '.join(FEATURES)}, got {name!r}"
                f"{_nearest(name, FEATURES)}; clips of your own are [[pairs]]"
            )
        elif name in names[:at]:
            yield f"features[{at}].name is {name!r} again; give its pairs once"
    for feature, n in _counts([pair.feature for pair in table.pairs]).items():
        if n < FEWEST_PAIRS:
            yield (
                f"feature {feature!r} has {n} pairs, and with fewer than {FEWEST_PAIRS} no result "
                "can have p <= 0.05; add pairs"
            )


def _pair_problems(pairs: Sequence[PairTable]) -> Iterator[str]:
    used: dict[str, str] = {}
    for at, pair in enumerate(pairs):
        where = f"pairs[{at}]"
        for key, clip in (("with", pair.with_), ("without", pair.without)):
            if clip in used:
                yield (
                    f"{where}.{key} is the clip {clip!r}, which {used[clip]} is too; a clip "
                    "belongs to one pair, else the pairs depend on each other"
                )
            used.setdefault(clip, f"{where}.{key}")
        empty = [word for word in pair.words if not words_in(word)]
        if empty:
            yield f"{where}.words must be words of letters, got {listed(empty)}"
        yield from (f"{where}{problem}" for problem in _difference_problems(pair))


def _difference_problems(pair: PairTable) -> Iterator[str]:
    """Check what the clips of a pair show, where that is stated."""
    shown, hidden = set(pair.with_shows), set(pair.without_shows)
    if not shown and not hidden:
        return
    more, other = sorted(shown - hidden), sorted(hidden - shown)
    if len(more) != 1 or len(other) > 1:
        yield (
            " must differ in one feature: with_shows has "
            f"{listed(more) or 'nothing'} more and without_shows {listed(other) or 'nothing'}"
        )
        return
    if not is_mentioned(pair.words, more[0]):
        yield f".words must mention {more[0]!r}, in which the clips differ"
    mistaken = [text for text in pair.without_shows if is_mentioned(pair.words, text)]
    if mistaken:
        yield f".words must not mention what both clips show, and do: {listed(mistaken)}"


def is_mentioned(words: Sequence[str], text: str) -> bool:
    """Return whether a sentence has one of several words or phrases, as `contracts.words` reads it.

    >>> is_mentioned(["car", "red bus"], "Two red buses pass."), is_mentioned(["car"], "No cars.")
    (True, False)
    """
    sentence = words_in(text)
    return any(has_phrase(sentence, words_in(word)) for word in words)


def _drawn(table: ExperimentTable) -> Iterator[ClipPair]:
    for feature in table.features:
        for number in range(feature.pairs):
            scenes = controlled_pair(feature.name, scene_seed(table.seed, number))
            detector = partial(mentions, feature.name, scenes[0].facts, scenes[1].facts)
            name = f"{feature.name}-{number:03d}"
            yield ClipPair(name, feature.name, detector, scenes=scenes)


def _own(pairs: Sequence[PairTable]) -> Iterator[ClipPair]:
    numbers: dict[str, int] = {}
    for pair in pairs:
        number = numbers[pair.feature] = numbers.get(pair.feature, -1) + 1
        yield ClipPair(
            f"{pair.feature}-{number:03d}",
            pair.feature,
            partial(is_mentioned, pair.words),
            files=(pair.with_, pair.without),
        )


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _nearest(name: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""


def _keys(loc: Sequence[Any]) -> list[str]:
    models: dict[str, type[BaseModel]] = {"features": FeatureTable, "pairs": PairTable}
    model = models.get(str(loc[0]), ExperimentTable) if len(loc) > 1 else ExperimentTable
    fields = model.model_fields
    return [field.alias or name for name, field in fields.items()]


def _sentence(detail: ErrorDetails) -> str:
    loc = detail["loc"]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)[1:]
    if detail["type"] == "extra_forbidden":
        return f"unknown key {where}{_nearest(str(loc[-1]), _keys(loc))}"
    if detail["type"] == "missing":
        return f"{where} must be given"
    rule = detail["msg"].replace("Input should", "must", 1).replace("List should", "must", 1)
    return f"{where} {rule[0].lower()}{rule[1:]}, got {detail['input']!r:.64}"
