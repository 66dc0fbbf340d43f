"""Make a score: scenes, a recording of them, narrations, and then the report.

Nothing of the daemon is imported but its narrator for the frames: spikes go through a source and
a daemon that are processes of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.narration import Narration
from evaluation.progress import report
from evaluation.trial import QUEUE_MESSAGES, TrialPlan, TrialResult, run_trial

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from evaluation.narrations.pairs import NarratedPair
    from evaluation.narrations.report import Report, SameTokens
    from evaluation.narrations.sbert import SentenceEncoder
    from evaluation.narrations.scenes import ScoreWorld

SAME_SECONDS = 20.0  # Of the recording that is replayed again in other ways

WAYS = (("sequential", "1"), ("worker", "1"), ("worker", "max"))
"""Narrator modes and speeds that must give the tokens of the sequential mode at full speed."""


@dataclass(frozen=True, slots=True)
class _SceneNarrations:
    """Narrations of one set of scenes, by who narrated them, one for each scene."""

    plan: TrialPlan
    result: TrialResult
    texts: Mapping[str, Sequence[str]]


class ScoreSession:
    """Makes one score.

    `folder` is empty; recordings and logs go there. `seed` is of everything that is drawn.
    """

    def __init__(self, folder: Path, manifest: Manifest, model: str, *, seed: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._model = model
        self._seed = seed
        self._seconds: dict[str, float] = {}

    def run(
        self, *, n_scenes: int, n_pairs: int, encoder: SentenceEncoder | None, command: str
    ) -> Report:
        """Make scenes, narrate them in every way, score the narrations.

        `n_pairs` controlled clips are narrated for each feature. Without `encoder` there is no
        sentence similarity.
        """
        from evaluation.narrations.assemble import NarratedScenes, assemble
        from evaluation.narrations.narrators import populations_of, subsets_of

        population = self._manifest.population
        named, subsets = populations_of(population), subsets_of(population, seed=self._seed)
        with self._timed("making the scenes, and the spikes of who sees them"):
            scenes, clips, features = self._worlds(n_scenes, n_pairs)
        expressions = named | {k: v for named in subsets.values() for k, v in named.items()}
        narrated = self._narrate(scenes, expressions, "scenes")
        narrated_clips = self._narrate(clips, {"all": "all"}, "clips")
        same = self._same_tokens(narrated)
        scored = NarratedScenes(
            facts=scenes.facts,
            texts=narrated.texts,
            populations={name: population.select(name).n_units for name in named},
            subsets={number: tuple(names) for number, names in subsets.items()},
        )
        pairs = {
            "true_patches": _pairs(clips, features, narrated_clips.texts["true_patches"]),
            "spikes": _pairs(clips, features, narrated_clips.texts["all"]),
        }
        report("score: scoring")
        return assemble(
            scored,
            pairs,
            same,
            encoder=encoder,
            seed=self._seed,
            command=command,
            bundle=self._manifest.sha256,
            model=Path(self._model).name,
            seconds=self._seconds,
        )

    def _worlds(self, n_scenes: int, n_pairs: int) -> tuple[ScoreWorld, ScoreWorld, list[str]]:
        """Return the world of the scenes, that of the pairs, and the feature of each pair."""
        from evaluation.narrations.scenes import check_animal, make_world
        from simulation.cortex.drive import build_response_model
        from simulation.cortex.units import draw_units
        from simulation.scenes.movie import random_movie
        from simulation.scenes.pairs import FEATURES, controlled_pair
        from simulation.seeds import ANIMAL, scene_seed

        units = draw_units(ANIMAL)
        check_animal(self._manifest, units)
        response = build_response_model(units)
        features = [feature for feature in FEATURES for _ in range(n_pairs)]
        clips = [
            scene
            for number, feature in enumerate(features)
            for scene in controlled_pair(feature, scene_seed(self._seed, number))
        ]
        drawn = random_movie("unseen", seed=self._seed, n_scenes=n_scenes).scenes
        scenes, pairs = (
            make_world(
                self._folder / f"{name}.nwb",
                shown,
                units=units,
                response=response,
                session_seed=day,
            )
            for day, (name, shown) in enumerate((("scenes", drawn), ("clips", clips)), self._seed)
        )
        return scenes, pairs, features

    def _narrate(
        self, world: ScoreWorld, expressions: Mapping[str, str], name: str
    ) -> _SceneNarrations:
        """Narrate the frames of a world, then its spikes; every narration belongs to a scene."""
        from evaluation.narrations.narrators import narrate_frames
        from evaluation.narrations.windows import frames_of, scene_windows

        spec = world.window_spec(self._manifest.window_spec)
        windows = scene_windows(spec, world.start_ns, world.stop_ns).tolist()
        with self._timed(f"narrating the frames of the {name}"):
            shown = frames_of(world.frame_at, spec, windows)
            frames = narrate_frames(shown, self._manifest, self._model)
        plan = TrialPlan(
            recording=str(world.recording),
            bundle=self._manifest.folder,
            model=self._model,
            populations=expressions,
            stride_bins=spec.stride_bins,
            narrator_mode="sequential",
            speed="max",
            queue_messages=QUEUE_MESSAGES,
        )
        with self._timed(f"narrating the spikes of the {name}"):
            result = run_trial(plan, self._folder / name, title=f"score: {name}")
        spikes = {
            population: [result.narrations[seq, population].utterance.text for seq in windows]
            for population in expressions
        }
        return _SceneNarrations(plan, result, {"true_patches": frames, **spikes})

    def _same_tokens(self, scenes: _SceneNarrations) -> tuple[SameTokens, ...]:
        """Replay the beginning in other ways, and compare the narrations."""
        from evaluation.narrations.report import SameTokens

        compared = []
        for number, (mode, speed) in enumerate(WAYS):
            way = f"{mode}, --speed {speed}"
            plan = replace(scenes.plan, narrator_mode=mode, speed=speed, seconds=SAME_SECONDS)
            with self._timed(f"narrating again: {way}"):
                again = run_trial(plan, self._folder / f"again-{number}", title=f"score: {way}")
            before = scenes.result.narrations
            both = again.narrations.keys() & before.keys()
            n_equal = sum(_said(again.narrations[key]) == _said(before[key]) for key in both)
            compared.append(SameTokens(way, len(both), n_equal, again.n_dropped))
        return tuple(compared)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        report(f"score: {what}")
        start_s = time.monotonic()
        yield
        self._seconds[what] = round(time.monotonic() - start_s, 1)


def _pairs(world: ScoreWorld, features: Sequence[str], texts: Sequence[str]) -> list[NarratedPair]:
    """Put the two scenes of each pair together: they are shown one after the other."""
    from evaluation.narrations.pairs import NarratedPair

    facts = world.facts
    return [
        NarratedPair(feature, facts[at], facts[at + 1], texts[at], texts[at + 1])
        for at, feature in zip(range(0, len(facts), 2), features, strict=True)
    ]


def _said(narration: Narration) -> tuple[str, int, str]:
    return narration.utterance.text, narration.utterance.n_tokens, narration.utterance.status.value
