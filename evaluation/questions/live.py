"""What a daemon narrated, from a journal, in place of narrations that are made here.

Nothing else of an evaluation changes, so that the scores of a recording and those of its replay are
computed by the same code. A window is the same if it begins at the same bin of the absolute grid;
what the narrator is given is decided by the bundle, whose sha256 is in every narration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.clock import second_to_ns
from contracts.daemon_json import DaemonIdentity
from contracts.errors import UserError, WireError, listed, shown
from contracts.journal import Origin
from contracts.journal_reader import JournalReader
from contracts.manifest import Manifest
from contracts.narration import Narration, Status
from contracts.population import Selection
from contracts.spikes import Hello
from encoder_training.evaluation.masked_encoder import populations
from encoder_training.frames.hub import short_name
from evaluation.caption_scores.narrating import Narrated
from evaluation.questions.narration_store import Source
from subscribers.listener import parse

ROUNDING_NS = 1_000
"""Seconds in a message are float64: exact to a nanosecond for 48 days, to this for 200 years."""

WANTED = frozenset({"daemon", "narration", "units"})


@dataclass(frozen=True, slots=True)
class NarratorWords:
    """What of a daemon's narrator holds for the ceiling and the floors that are narrated here."""

    prompt: str
    max_new_tokens: int
    dtype: str


@dataclass(frozen=True, slots=True)
class LiveNarrations:
    """The narrations of one bundle by one narrator."""

    selections: Mapping[str, Selection]  # By expression
    narrated: Mapping[str, Mapping[int, Narrated]]  # By expression and first bin
    words: NarratorWords
    n_left_out: Mapping[str, int]  # By reason
    sources: tuple[str, ...]  # Of the spikes, as they call themselves

    @property
    def first_bins(self) -> NDArray[np.int64]:
        """Where the windows begin that were narrated through every population, sorted, (n,)."""
        each = [set(of) for of in self.narrated.values()]
        return np.array(sorted(set.intersection(*each)), np.int64)

    def has(self, source: Selection) -> bool:
        """Whether these are the units of one of its populations, under its name."""
        known = self.selections.get(source.name)
        return known is not None and _is_same(known, source)

    def of(
        self, sources: Sequence[Source], first_bins: NDArray[np.int64]
    ) -> dict[str, list[Narrated]]:
        """Return the narrations of windows, by the name of each source that was narrated."""
        return {
            source.name: [self.narrated[source.name][first] for first in first_bins.tolist()]
            for source in sources
            if isinstance(source, Selection) and self.has(source)
        }

    def notes(self, recording: str) -> list[str]:
        """Return what a reader of the scores must know; `recording` is the data set's."""
        numbers = ", ".join(f"{len(of):,} of {name}" for name, of in self.narrated.items())
        notes = [f"narrated by a daemon, and read from a journal: {numbers}"]
        notes += [f"{n:,} narrations {reason}" for reason, n in self.n_left_out.items()]
        if set(self.sources) - {recording}:
            notes.append(
                f"the spikes were of {listed(list(map(shown, self.sources)))} and the data set is "
                f"of {recording}: that they are one recording is taken from the times of windows"
            )
        return notes


def load_live(path: Path, manifest: Manifest, model: str | None) -> LiveNarrations:
    """Read the narrations of a bundle from a journal.

    `model` is the language model of what is narrated here; None for the bundle's.

    Raises
    ------
    UserError
        If there are none, if they are of another bundle, of several narrators, or of another
        language model than what they are compared with.
    """
    reading = _Reading(manifest)
    for message in JournalReader(path).messages(_is_wanted):
        try:
            value = parse(message.parts, host_ns=message.host_ns).value
        except WireError:
            reading.n_left_out["could not be read"] += 1
            continue
        reading.take(value, message.address)
    if not reading.narrated:
        raise UserError(_nothing(reading, path))
    return LiveNarrations(
        {one.name: one for one in reading.by_expression.values()},
        reading.narrated,
        _words(sorted(reading.narrators), path, model or manifest.model.language_model.model_id),
        dict(reading.n_left_out),
        tuple(sorted(reading.sources)),
    )


@dataclass(slots=True)
class _Reading:
    manifest: Manifest
    daemons: dict[str, DaemonIdentity] = field(default_factory=dict)  # By address
    by_expression: dict[str, Selection] = field(default_factory=dict)
    narrated: dict[str, dict[int, Narrated]] = field(default_factory=dict)  # By name of selection
    # Back-end, model and words
    narrators: set[tuple[str, str, str, int, str]] = field(default_factory=set)
    bundles: Counter[str] = field(default_factory=Counter)
    n_left_out: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)

    def take(self, value: object, address: str) -> None:
        if isinstance(value, DaemonIdentity):
            self.daemons[address] = value
        elif isinstance(value, Hello):
            self.sources.add(value.source)
        elif isinstance(value, Narration):
            reason = self._take_narration(value, self.daemons.get(address))
            if reason:
                self.n_left_out[reason] += 1

    def _take_narration(self, narration: Narration, daemon: DaemonIdentity | None) -> str:
        """Keep a narration; return what is to be counted, or nothing."""
        made, utterance = narration.provenance, narration.utterance
        self.bundles[made.bundle] += 1
        if made.bundle != self.manifest.sha256:
            return "are of another bundle, and left out"
        if daemon is None or daemon.bundle != made.bundle:
            return "are of a daemon whose settings are not in the journal, and left out"
        first_bin = _first_bin(narration, self.manifest)
        if first_bin is None:
            return "are of windows that are not on the grid of the bundle, and left out"
        name = self._selection(daemon.settings["populations"][narration.population]).name
        settings = daemon.settings["narrator"]
        words = (settings["prompt"], settings["max_new_tokens"], settings["dtype"])
        self.narrators.add((made.backend, short_name(made.model), *words))
        one = Narrated(utterance.text, utterance.status is Status.TRUNCATED, narration.confidence)
        of_population = self.narrated.setdefault(name, {})
        before = of_population.get(first_bin, one)
        of_population[first_bin] = one
        if before.text != one.text:
            return "replace an earlier one of the same window, with another text"
        if utterance.status is Status.FAILED:
            return "failed, and have no text"
        is_whole = not (narration.n_gap_bins or narration.blind_streams)
        if is_whole and not narration.n_missing_units:
            return ""
        return "are of windows in which spikes or units were missing"

    def _selection(self, expression: str) -> Selection:
        """Return a population, under the name that questions have for its units."""
        if expression not in self.by_expression:
            population = self.manifest.population
            wanted = population.select(expression)
            usual = [*populations(population, fewest=1).values()]
            usual += [population.select(name) for name in population.controls]
            same = [one for one in usual if _is_same(one, wanted)]
            self.by_expression[expression] = same[0] if same else wanted
        return self.by_expression[expression]


def _is_wanted(origin: Origin, topic: str) -> bool:
    return origin is Origin.DAEMON and topic.partition(".")[0] in WANTED


def _is_same(one: Selection, other: Selection) -> bool:
    return one.kind == other.kind and np.array_equal(one.mask, other.mask)


def _first_bin(narration: Narration, manifest: Manifest) -> int | None:
    """Return where a window begins on the absolute grid; None if it is no window of the bundle."""
    spec = manifest.window_spec
    published_ns = [second_to_ns(s) for s in (narration.window_start_s, narration.window_stop_s)]
    first_bin = spec.rate.bin_of(published_ns[0] + ROUNDING_NS)
    edges_ns = [spec.rate.start_ns(edge) for edge in (first_bin, first_bin + spec.n_bins)]
    is_on_grid = np.allclose(published_ns, edges_ns, rtol=0, atol=ROUNDING_NS)
    return first_bin if is_on_grid else None


def _nothing(reading: _Reading, path: Path) -> str:
    others = [sha256[:12] for sha256 in reading.bundles if sha256 != reading.manifest.sha256]
    if others:
        return (
            f"narrations must be of the bundle that is evaluated, {reading.manifest.sha256[:12]}, "
            f"and those in {path} are of {listed(others)}. Name the daemon's bundle."
        )
    if reading.bundles:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in reading.n_left_out.items())
        return f"no narration in {path} can be evaluated: {reasons}. Record from the beginning."
    return (
        f"{path} holds no narration. Name the journal of a 'neurrate record' that was connected to "
        "the daemon (--connect)."
    )


def _words(
    narrators: Sequence[tuple[str, str, str, int, str]], path: Path, model: str
) -> NarratorWords:
    backend, name, prompt, max_new_tokens, dtype = narrators[0]
    if len(narrators) > 1:
        raise UserError(
            f"all narrations must be by one narrator, and {path} holds those of {len(narrators)}, "
            f"which differ in back-end, model, prompt, max_new_tokens or dtype: "
            f"{listed(narrators)}. Name a part of the journal, or record each to a folder of its "
            "own."
        )
    if backend == "retrieval" or name != short_name(model):
        raise UserError(
            f"narrations are compared with those of the true patches by the same language model, "
            f"{short_name(model)}; {path} holds those of "
            f"{'the retrieval back-end' if backend == 'retrieval' else name}. Name the daemon's "
            "model with --model, or narrate with it."
        )
    return NarratorWords(prompt, max_new_tokens, dtype)
