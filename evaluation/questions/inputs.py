"""What every question starts from: windows, captions, positions, a sentence model and the store."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.errors import UserError, listed
from contracts.manifest import Manifest, load_manifest
from contracts.population import Population, Selection
from daemon.service.settings import NarratorSettings
from encoder_training.data_set.prepared_facts import load_facts
from encoder_training.devices import resolve_device
from encoder_training.evaluation.masked_encoder import populations
from evaluation.caption_scores.inputs import (
    CaptionedWindows,
    captioned_windows,
    session_selections,
)
from evaluation.caption_scores.narrating import MEAN_PATCHES, TRUE_PATCHES, Narrated
from evaluation.narrations.sbert import SentenceEncoder, load_sentence_model
from evaluation.questions.chance import FEWEST_SHIFTS, Positions, minimal_lags
from evaluation.questions.live import LiveNarrations, load_live
from evaluation.questions.narration_store import STORE, NarrationStore, Source, name_of
from simulation.scenes.facts import Facts

if TYPE_CHECKING:
    from evaluation.questions.image_patches import ImagePatches

RETRIEVAL = "nearest caption"
"""The narrator that gives the caption of the nearest training frame, all units."""

FROM_DATA_SET = (TRUE_PATCHES, RETRIEVAL, MEAN_PATCHES)
"""What no daemon narrates."""

FEWEST_UNITS = 3
"""Of an area or cell type that is narrated."""


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The options of ``neurrate evaluate``, as `neurrate.evaluate_command` describes them."""

    bundle: Path
    dataset: Path
    out: Path
    windows: int
    model: str | None
    sentence_model: str | None
    facts: Path | None
    run: Path | None
    device: str
    workers: int | None
    seed: int
    command: str
    journal: Path | None = None
    ray: str | None = None
    images: Path | None = None

    @property
    def local_workers(self) -> int:
        """Processes or threads of this machine; with `ray`, `workers` are those of a cluster."""
        return min(self.workers or 1, len(os.sched_getaffinity(0)))

    @property
    def local_device(self) -> str:
        """Where this machine trains; with `ray`, `device` is that of the cluster's machines."""
        is_here = self.ray is None or resolve_device("auto") == "cuda"
        return self.device if is_here else "cpu"


@dataclass(eq=False)
class VectorCache:
    """A sentence model that reads every sentence once, whichever question asks."""

    encoder: SentenceEncoder
    known: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def encode(self, sentences: list[str]) -> NDArray[np.float32]:
        """Return one vector a sentence, shape (n, dim), float32, of length 1."""
        new = sorted(set(sentences) - self.known.keys())
        if new:
            self.known.update(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.known[sentence] for sentence in sentences])

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the same, with zeros for a text without words, float64."""
        has_words = np.array([bool(text.strip()) for text in texts])
        vectors: NDArray[np.float64] = self.encode(list(texts)).astype(np.float64)
        return np.where(has_words[:, np.newaxis], vectors, 0.0)

    def of(self, narrated: Mapping[str, Sequence[Narrated]]) -> dict[str, NDArray[np.float64]]:
        """Return the same of narrations, by the name of what narrated."""
        return {name: self.vectors([one.text for one in of]) for name, of in narrated.items()}


@dataclass(eq=False)
class EvaluationInputs:
    """What the questions share."""

    request: EvaluateRequest
    manifest: Manifest
    windows: CaptionedWindows
    sentences: VectorCache
    split: str  # Kind of what was held out, as in ``neurrate prepare --split``
    live: LiveNarrations | None = None

    @cached_property
    def positions(self) -> Positions:
        """The frames of the windows."""
        return self.positions_of(np.arange(len(self.windows.rows)))

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The caption of each position."""
        of_window = self.windows.captions
        return tuple(of_window[window] for window in self.positions.first_window.tolist())

    @cached_property
    def caption_vectors(self) -> NDArray[np.float64]:
        """Vectors of the captions of positions, shape (n_positions, dim)."""
        return self.sentences.vectors(self.captions)

    @cached_property
    def minimal_lags(self) -> tuple[int, ...]:
        """From which distance on captions are unrelated, in positions, for each movie."""
        return minimal_lags(self.caption_vectors @ self.caption_vectors.T, self.positions)

    @property
    def positions_of_group(self) -> float:
        """How many positions one group of the windows has: a run of a second, or a caption."""
        return len(self.positions) / len(np.unique(self.windows.group))

    @cached_property
    def selections(self) -> dict[str, Selection]:
        """All units, each area and cell type of `FEWEST_UNITS`, and the controls, by expression.

        Of a pooled data set each session too, as ``session:ID``. Of a daemon those that it
        narrated, all units and the controls.
        """
        population = self.manifest.population
        controls = {name: population.select(name) for name in population.controls}
        usual = {**populations(population, fewest=FEWEST_UNITS), **self.sessions, **controls}
        if self.live is None:
            return usual
        ours = {name: one for name, one in usual.items() if self.live.has(one)}
        return {"all": usual["all"], **ours, **self.live.selections, **controls}

    @cached_property
    def images(self) -> ImagePatches | None:
        """What ``--images`` names, for sparse features; None without it.

        Raises
        ------
        UserError
            As `evaluation.questions.image_patches.image_patches`.
        """
        from evaluation.questions.feature_activations import n_features
        from evaluation.questions.image_patches import image_patches

        if self.request.images is None:
            return None
        return image_patches(
            self, self.request.images, n_features=n_features(self.manifest.patch_grid.dim)
        )

    @cached_property
    def sessions(self) -> dict[str, Selection]:
        """All units of each session of a pooled data set, by name; of another data set none."""
        return session_selections(self.request.dataset)

    @property
    def movie_of_window(self) -> list[str]:
        """The name of each window's movie."""
        frames = self.windows.frames
        return [frames.movies[m] for m in frames.movie[self.windows.data.frame[self.windows.rows]]]

    def narrate(
        self,
        sources: Sequence[Source],
        *,
        backend: str = "llava",
        windows: NDArray[np.int64] | None = None,
        bundle: Path | None = None,
        dataset: Path | None = None,
    ) -> dict[str, list[Narrated]]:
        """Return one narration of each window, or of some, by the name of each source.

        Those of a daemon are taken as they are; what it did not narrate is made by its narrator.
        `bundle` and `dataset` are others than those of the request: of some of its units.

        Raises
        ------
        UserError
            If a daemon was asked for, and these are units that it did not narrate.
        """
        request, live = self.request, self.live
        which = np.arange(len(self.windows.rows)) if windows is None else windows
        taken = {}
        self.check_narrated(sources)
        if live is not None and backend == "llava":
            taken = live.of(sources, self.windows.first_bin[which])
        settings = NarratorSettings.model_validate(
            {"backend": backend, "model": request.model, "device": request.device, "threads": 1}
            | ({} if live is None else asdict(live.words))
        )
        store = NarrationStore(
            request.out / STORE,
            bundle or request.bundle,
            dataset or request.dataset,
            settings,
            request.workers,
            request.ray,
        )
        others = [source for source in sources if name_of(source) not in taken]
        made = store.narrate(self.windows.data, self.windows.rows[which], others)
        return {name: {**made, **taken}[name] for name in map(name_of, sources)}

    def _notes_of_live(self) -> list[str]:
        if self.live is None:
            return []
        here = [name for name, one in self.selections.items() if not self.live.has(one)]
        return [
            *self.live.notes(load_facts(self.request.dataset).recording),
            f"{self.windows.n_not_narrated:,} more held-out windows with captions were not "
            "narrated through all of these",
            f"made here by the same model, from the data set: {', '.join([*here, *FROM_DATA_SET])}",
        ]

    def check_narrated(self, sources: Sequence[Source]) -> None:
        """Refuse units that a daemon did not narrate, if its narrations are asked for.

        Raises
        ------
        UserError
            If there are some.
        """
        if self.live is None:
            return
        units = [source for source in sources if isinstance(source, Selection)]
        others = [one for one in units if one is not self.selections.get(one.name)]
        if others:
            raise UserError(
                f"a journal has only the populations that its daemon narrated, and this question "
                f"asks for {len(others):,} other sets of units. Answer it without --journal."
            )

    def positions_of(self, windows: NDArray[np.int64]) -> Positions:
        """Return the frames of some of the windows."""
        frame = self.windows.data.frame[self.windows.rows[windows]]
        return Positions.of(self.windows.frames.movie[frame], self.windows.frames.number[frame])

    def likeness(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosine of each window's sentence with each position's caption."""
        cosines: NDArray[np.float64] = self.sentences.vectors(texts) @ self.caption_vectors.T
        return cosines

    def facts(self, frame: NDArray[np.int64] | None = None) -> tuple[Facts, ...] | None:
        """Return what is true of each window's frame, or of rows of frames; None without facts.

        Raises
        ------
        UserError
            If the folder lacks a movie or a frame.
        """
        if self.request.facts is None:
            return None
        if frame is None:
            frame = self.windows.data.frame[self.windows.rows]
        frames = self.windows.frames
        numbers = frames.number[frame].tolist()
        names = [frames.movies[movie] for movie in frames.movie[frame].tolist()]
        of_movie = {name: _read_facts(self.request.facts, name) for name in sorted(set(names))}
        missing = [
            f"{name} {number}"
            for name, number in zip(names, numbers, strict=True)
            if number not in of_movie[name]
        ]
        if missing:
            raise UserError(
                f"--facts must have every frame that is scored, and {self.request.facts} lacks "
                f"{len(missing)}: {listed(missing)}. Name the folder of this recording's movies."
            )
        return tuple(of_movie[name][number] for name, number in zip(names, numbers, strict=True))

    def notes(self) -> list[str]:
        """Return what a reader of every number must know."""
        manifest, positions = self.manifest, self.positions
        held_out = {
            "repeats": "held-out repeats of frames that training saw, so that the nearest caption "
            "can be the very one: more than a floor, and more than any language model says",
            "middle": "the held-out middle of each movie",
            "front": "the held-out beginning of each movie",
            "movies": "movies that were held out whole",
        }.get(self.split, self.split)
        if not manifest.model.training_data.sha256:
            held_out = (
                "another recording of the same units, as the bundle names no data set: that the "
                "encoder saw none of it cannot be checked here"
            )
        lags = " and ".join(map(str, self.minimal_lags))
        first = [positions.first_window[rows[0]] for rows in positions.movies]
        names = " and ".join(self.movie_of_window[window] for window in first)
        return [
            *self._notes_of_live(),
            f"{len(self.windows.rows)} of {self.windows.n_test:,} windows, of {len(positions)} "
            f"frames in {len(positions.movies)} movies, with {len(set(self.captions))} different "
            f"captions: {held_out}",
            f"captions are unrelated from {lags} scored frames on in {names}",
            *([least] if (least := _least_p(positions)) else []),
            *label_notes(manifest.population, self.selections.keys()),
        ]


def label_notes(population: Population, narrated: Collection[str]) -> list[str]:
    """Say which areas and cell types are not among those narrated, and which labels are missing."""
    small = [
        f"{name} ({one.n_units})"
        for name, one in populations(population, fewest=1).items()
        if name not in narrated
    ]
    labels = {
        "an area": {unit.area for unit in population.units},
        "a cell type": {unit.cell_type for unit in population.units},
    }
    return [
        *([f"left out, with fewer than {FEWEST_UNITS} units: {', '.join(small)}"] if small else []),
        *(
            f"no unit has {label}, so that nothing is said of any: it is a column of the "
            "recording's unit table"
            for label, names in labels.items()
            if names <= {""}
        ),
    ]


def _least_p(positions: Positions) -> str:
    """Return how small p can be, in words; nothing where that is below 0.001."""
    n = math.prod(len(rows) for rows in positions.movies)
    if n >= 1000 or n < FEWEST_SHIFTS:
        return ""
    return (
        f"p over circular shifts can be no smaller than {1 / n:.2g}, as there are {n} alignments "
        "of narrations and frames: beside several narrators such a p is weak evidence, and effects "
        "are told apart by their intervals"
    )


def load_inputs(request: EvaluateRequest) -> EvaluationInputs:
    """Load everything that may be refused, before the long work.

    Raises
    ------
    UserError
        If the data set is not the bundle's, has too few captions, or the sentence model cannot be
        loaded.
    """
    manifest = load_manifest(request.bundle)
    live = None if request.journal is None else load_live(request.journal, manifest, request.model)
    windows = captioned_windows(
        manifest,
        request.dataset,
        at_most=request.windows,
        may_be_unnamed=True,
        narrated=None if live is None else live.first_bins,
    )
    sentences = VectorCache(load_sentence_model(request.sentence_model))
    split = str(load_facts(request.dataset).options.get("--split") or "not stated")
    request.out.mkdir(parents=True, exist_ok=True)
    return EvaluationInputs(request, manifest, windows, sentences, split, live)


def _read_facts(folder: Path, movie: str) -> dict[int, Facts]:
    path = folder / f"{movie}_facts.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {int(line["frame"]): Facts.from_json(line["facts"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--facts must be a folder with MOVIE_facts.jsonl of each movie, as 'neurrate simulate "
            f"session' writes them beside a session; {path} cannot be read: {error!r}."
        ) from error
