"""The score of a rule in every window, and what the rule would do at other thresholds.

A trigger's message holds the score of its own window alone. So windows are cut and encoded once
more, here, by the daemon's own rooms and one at a time as there; sentences are those that the
daemon published. The state machine of ``daemon/triggers/crossing.py`` then says when any threshold
fires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contracts.clock import HostClock, second_to_ns
from contracts.narration import Narration, Status
from contracts.trigger import TriggerKind
from contracts.words import words_in
from daemon.triggers.crossing import Crossing
from evaluation.plain_progress import Tenths
from evaluation.triggers.scoring import AnnotatedConcept, Counts, count

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.window import Window
    from daemon.service.settings import Settings
    from daemon.triggers.crossing import Level
    from daemon.triggers.probes import ConceptProbes
    from daemon.triggers.rule_file import RuleBook
    from daemon.triggers.rules import Rule
    from stream_sources.recordings.recording import RecordingSource

N_THRESHOLDS = 20
"""Of a sweep, evenly over the scores' range, and as many quantiles of the scores: most windows of a
rare concept score low, and what is of interest lies where the others are."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The score of one rule over time, in the order in which the daemon heard it.

    Attributes
    ----------
    seq : array, shape (n,), int64
        Numbers of the windows.
    stop_ns : array, shape (n,), int64, session nanoseconds
        When each ends.
    score : array, shape (n,), float64
    """

    seq: NDArray[np.int64]
    stop_ns: NDArray[np.int64]
    score: NDArray[np.float64]

    def fired(self, level: Level) -> NDArray[np.int64]:
        """Return the rows at which a rule of this level fires."""
        crossing = Crossing(level)
        rows = zip(self.score.tolist(), self.stop_ns.tolist(), strict=True)
        fires = [crossing.take(score, stop_ns) for score, stop_ns in rows]
        return np.flatnonzero(np.array(fires, dtype=np.bool_))


def probe_traces(
    source: RecordingSource,
    manifest: Manifest,
    book: RuleBook,
    probes: ConceptProbes | None,
    settings: Settings,
    *,
    n_windows: int | None = None,
) -> dict[str, Trace]:
    """Encode every window of a recording and ask the probes.

    Parameters
    ----------
    source : RecordingSource
        The part that the daemon was given, with the bundle's units in its order.
    manifest : Manifest
    book : RuleBook
    probes : ConceptProbes or None
    settings : Settings
        The daemon's own.
    n_windows : int, optional
        How many there will be, for the bar on a terminal, or a line each tenth.

    Returns
    -------
    traces : dict of str to Trace
        By the names of the rules on probes; empty where there is none.
    """
    from tqdm import tqdm

    from daemon.encoders.auto import load_encoder
    from daemon.service.wiring import selections
    from daemon.triggers.auto import population_probes

    rules = book.of_kind(TriggerKind.PROBE)
    watched = population_probes(book, probes, settings.populations)
    if watched is None:
        return {}
    names = tuple(watched.calibrations)
    chosen = [each for each in selections(settings, manifest) if each.name in names]
    encoder = load_encoder(
        manifest, chosen, threads=settings.encoder.threads, device=settings.encoder.device
    )
    seq, stop_ns = [], []
    found: dict[str, list[float]] = {rule.name: [] for rule in rules}
    windows = windows_of(source, manifest, settings)
    tenths = Tenths("triggers: windows scored once more", n_windows)
    for window in tqdm(windows, desc="triggers", unit=" windows", total=n_windows, disable=None):
        probability = watched.probabilities(encoder.encode([window]))
        seq.append(window.seq)
        stop_ns.append(window.stop_ns)
        tenths.reach(len(seq))
        for rule in rules:
            column = watched.concepts.index(rule.condition.what)
            found[rule.name].append(float(probability[rule.condition.population][column]))
    at, until = np.array(seq, dtype=np.int64), np.array(stop_ns, dtype=np.int64)
    return {name: Trace(at, until, np.array(score)) for name, score in found.items()}


def windows_of(source: RecordingSource, manifest: Manifest, settings: Settings) -> Iterator[Window]:
    """Cut the windows of a recording as the daemon does."""
    from daemon.service.wiring import make_ring, ring_capacity_bins, window_spec
    from daemon.window_cutter import WindowCutter

    spec = window_spec(settings, manifest)
    ring = make_ring(spec, len(manifest.population), ring_capacity_bins(settings, spec))
    ring.add_stream(source.stream)
    cutter = WindowCutter(spec, HostClock())
    for batch in source.batches():
        ring.add(batch)
        yield from cutter.ready(ring)
    ring.end_stream(source.stream)
    yield from cutter.ready(ring)


def narration_traces(book: RuleBook, narrations: Sequence[Narration]) -> dict[str, Trace]:
    """Say what each narration was worth to the rules that hear it.

    Parameters
    ----------
    book : RuleBook
    narrations : sequence of Narration
        All that was said; failed ones are passed over, as the daemon does.

    Returns
    -------
    traces : dict of str to Trace
        By the names of the rules on narrations.
    """
    heard = sorted(
        (each for each in narrations if each.said.status is not Status.FAILED),
        key=lambda each: each.stamps.published,
    )
    rules = book.of_kind(TriggerKind.WORD, TriggerKind.LIKENESS)
    likeness = _cosines(book, heard)
    found = {}
    for rule in rules:
        mine = [each for each in heard if each.population == rule.condition.population]
        found[rule.name] = Trace(
            np.array([each.window_seq for each in mine], dtype=np.int64),
            np.array([second_to_ns(each.window_stop_s) for each in mine], dtype=np.int64),
            np.array([_worth(rule, each.said.text, likeness) for each in mine], dtype=np.float64),
        )
    return found


def _worth(rule: Rule, text: str, cosines: Mapping[tuple[str, str], float]) -> float:
    if rule.condition.kind is TriggerKind.LIKENESS:
        return cosines[rule.condition.what, text]
    said, wanted = words_in(text), words_in(rule.condition.what)
    n = len(wanted)
    return float(any(said[at : at + n] == wanted for at in range(len(said) - n + 1)))


def _cosines(book: RuleBook, heard: Sequence[Narration]) -> dict[tuple[str, str], float]:
    """Return how near each text is to each sentence of the rules on likeness."""
    rules = book.of_kind(TriggerKind.LIKENESS)
    if not rules or not heard:
        return {}
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    from daemon.triggers.auto import model_folder

    populations = {rule.condition.population for rule in rules}
    texts = sorted({each.said.text for each in heard if each.population in populations})
    sentences = sorted({rule.condition.what for rule in rules})
    transformers_logging.disable_progress_bar()
    model = SentenceTransformer(model_folder(book.likeness_model), device="cpu")
    vectors: NDArray[np.float32] = model.encode(
        [*sentences, *texts], normalize_embeddings=True, show_progress_bar=False
    )
    table = vectors[: len(sentences)] @ vectors[len(sentences) :].T
    return {
        (sentence, text): float(table[row, column])
        for row, sentence in enumerate(sentences)
        for column, text in enumerate(texts)
    }


@dataclass(frozen=True, slots=True)
class Swept:
    """What a rule would have scored with another threshold, all else as it is."""

    threshold: float
    counts: Counts


def sweep(rule: Rule, trace: Trace, concept: AnnotatedConcept) -> tuple[Swept, ...]:
    """Try other thresholds; the release keeps its distance.

    Parameters
    ----------
    rule : Rule
    trace : Trace
    concept : AnnotatedConcept

    Returns
    -------
    swept : tuple of Swept
        In order of the threshold, the rule's own among them. Empty where a threshold has no
        meaning: a word is said or not.
    """
    finite = trace.score[np.isfinite(trace.score)]
    if rule.condition.kind is TriggerKind.WORD or not len(finite):
        return ()
    shares = np.linspace(0, 1, N_THRESHOLDS + 2)[1:-1]
    low, high = float(finite.min()), float(finite.max())
    tried = np.concatenate([low + (high - low) * shares, np.quantile(finite, shares)])
    own = rule.level.threshold
    thresholds = sorted({own, *np.round(tried, 3).tolist()})
    distance = rule.level.release - own
    found = []
    for threshold in thresholds:
        level = replace(rule.level, threshold=threshold, release=threshold + distance)
        rows = trace.fired(level)
        found.append(Swept(threshold, count(concept, trace.stop_ns[rows].tolist())))
    return tuple(found)


def best_of(swept: Sequence[Swept], own: float) -> Swept | None:
    """Return the threshold of the highest F1, of several the one nearest to the rule's own."""
    known = [each for each in swept if each.counts.n_events]
    return max(known, key=lambda each: (each.counts.f1, -abs(each.threshold - own)), default=None)
