"""The score of a rule in every window, and what the rule would do at other thresholds.

A trigger's message has the score of its own window alone. So windows are cut and encoded once
more, here, by the daemon's own components and one at a time as there; sentences are those that the
daemon published. The state machine of ``daemon/triggers/crossing.py`` then gives the triggers of
any threshold.
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
from contracts.words import has_phrase, words_in
from daemon.triggers.crossing import Crossing
from evaluation.progress import progress
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
rare concept score low, and the thresholds of interest lie among the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The score of one rule over time, in the order in which the daemon took it."""

    seq: NDArray[np.int64]  # (n,): numbers of the windows
    stop_ns: NDArray[np.int64]  # (n,): when each ends, session nanoseconds
    score: NDArray[np.float64]  # (n,)
    is_sure: NDArray[np.bool_]  # (n,): whether the decoding was sure enough for the rule

    def fired(self, level: Level) -> NDArray[np.int64]:
        """Return the rows at which a rule of this level fires."""
        crossing = Crossing(level)
        columns = (self.score, self.stop_ns, self.is_sure)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        fires = [crossing.take(score, stop_ns, is_sure=sure) for score, stop_ns, sure in rows]
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
    """Encode every window of a recording and evaluate the probes.

    `source` is the part that the daemon was given, with the bundle's units in its order, and
    `settings` are the daemon's own. `n_windows` is for the progress. Returns a trace for each rule
    on a probe.
    """
    from daemon.confidence import load_confidence_of
    from daemon.encoders.auto import load_encoder
    from daemon.service.wiring import resolve
    from daemon.triggers.auto import population_probes
    from daemon.triggers.rules import asking_for_confidence

    rules = book.of_kind(TriggerKind.PROBE)
    watched = population_probes(book, probes, settings.populations)
    if watched is None:
        return {}
    names = tuple(watched.calibrations)
    selections, _ = resolve(settings, manifest)
    chosen = [selection for selection in selections if selection.name in names]
    encoder = load_encoder(
        manifest, chosen, threads=settings.encoder.threads, device=settings.encoder.device
    )
    confidence_of, asked = load_confidence_of(manifest, chosen), asking_for_confidence(rules)
    seq, stop_ns = [], []
    is_sure: dict[str, list[bool]] = {rule.name: [] for rule in rules}
    scores: dict[str, list[float]] = {rule.name: [] for rule in rules}
    label = "triggers: windows scored once more"
    with progress("triggers", n_windows, unit="windows", label=label) as advance_to:
        for window in windows_of(source, manifest, settings):
            embeddings = encoder.encode([window])
            probability = watched.probabilities(embeddings)
            confidence = {
                one.population: confidence_of(one) for one in embeddings if one.population in asked
            }
            seq.append(window.seq)
            stop_ns.append(window.stop_ns)
            advance_to(len(seq))
            for rule in rules:
                column = watched.concepts.index(rule.condition.what)
                population = rule.condition.population
                scores[rule.name].append(float(probability[population][column]))
                is_sure[rule.name].append(rule.condition.is_sure(confidence.get(population)))
    at, until = np.array(seq, dtype=np.int64), np.array(stop_ns, dtype=np.int64)
    return {
        name: Trace(at, until, np.array(score), np.array(is_sure[name], dtype=np.bool_))
        for name, score in scores.items()
    }


def windows_of(source: RecordingSource, manifest: Manifest, settings: Settings) -> Iterator[Window]:
    """Cut the windows of a recording as the daemon does."""
    from daemon.service.memory import make_ring
    from daemon.service.wiring import resolve, window_spec
    from daemon.window_cutter import WindowCutter

    spec = window_spec(settings, manifest)
    _, capacity_bins = resolve(settings, manifest)
    ring = make_ring(spec, len(manifest.population), capacity_bins)
    ring.add_stream(source.stream)
    cutter = WindowCutter(spec, HostClock())
    for batch in source.batches():
        ring.add(batch)
        yield from cutter.ready(ring)
    ring.end_stream(source.stream)
    yield from cutter.ready(ring)


def narration_traces(book: RuleBook, narrations: Sequence[Narration]) -> dict[str, Trace]:
    """Score every narration by the rules on narrations.

    Failed narrations are skipped, as the daemon does.
    """
    narrated = sorted(
        (narration for narration in narrations if narration.utterance.status is not Status.FAILED),
        key=lambda narration: narration.stamps.published,
    )
    rules = book.of_kind(TriggerKind.WORD, TriggerKind.LIKENESS)
    likeness = _cosines(book, narrated)
    traces = {}
    for rule in rules:
        of_rule = [n for n in narrated if n.population == rule.condition.population]
        traces[rule.name] = Trace(
            np.array([n.window_seq for n in of_rule], dtype=np.int64),
            np.array([second_to_ns(n.window_stop_s) for n in of_rule], dtype=np.int64),
            np.array([_score(rule, n.utterance.text, likeness) for n in of_rule], dtype=np.float64),
            np.array([rule.condition.is_sure(n.confidence) for n in of_rule], dtype=np.bool_),
        )
    return traces


def _score(rule: Rule, text: str, cosines: Mapping[tuple[str, str], float]) -> float:
    if rule.condition.kind is TriggerKind.LIKENESS:
        return cosines[rule.condition.what, text]
    return float(has_phrase(words_in(text), words_in(rule.condition.what)))


def _cosines(book: RuleBook, narrated: Sequence[Narration]) -> dict[tuple[str, str], float]:
    """Return the cosine of every text with every sentence of the rules on likeness."""
    rules = book.of_kind(TriggerKind.LIKENESS)
    if not rules or not narrated:
        return {}
    from daemon.triggers.sentence_model import SentenceModel, model_folder

    populations = {rule.condition.population for rule in rules}
    texts = sorted({n.utterance.text for n in narrated if n.population in populations})
    sentences = sorted({rule.condition.what for rule in rules})
    vectors = SentenceModel(model_folder(book.likeness_model)).encode([*sentences, *texts])
    table = vectors[: len(sentences)] @ vectors[len(sentences) :].T
    return {
        (sentence, text): float(table[row, column])
        for row, sentence in enumerate(sentences)
        for column, text in enumerate(texts)
    }


@dataclass(frozen=True, slots=True)
class Swept:
    """Counts of a rule with another threshold and all else unchanged."""

    threshold: float
    counts: Counts


def sweep(rule: Rule, trace: Trace, concept: AnnotatedConcept) -> tuple[Swept, ...]:
    """Try other thresholds; the release keeps its distance from the threshold.

    In order of the threshold, the rule's own among them. Empty for a rule on words, which has no
    threshold.
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
    swept = []
    for threshold in thresholds:
        level = replace(rule.level, threshold=threshold, release=threshold + distance)
        rows = trace.fired(level)
        swept.append(Swept(threshold, count(concept, trace.stop_ns[rows].tolist())))
    return tuple(swept)


def best_of(swept: Sequence[Swept], own: float) -> Swept | None:
    """Return the threshold of the highest F1, of several the one nearest to the rule's own."""
    scored = [s for s in swept if s.counts.n_events]
    return max(scored, key=lambda s: (s.counts.f1, -abs(s.threshold - own)), default=None)
