"""Triggers, rules and probes for tests, by hand and by Hypothesis."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from contracts.clock import NS_PER_S
from contracts.embedding import PatchEmbedding
from contracts.trigger import NarratorStamps, Trigger, TriggerKind, TriggerStamps, WindowFacts
from contracts.window import Window
from daemon.triggers.crossing import Level
from daemon.triggers.probes import ConceptProbes
from daemon.triggers.rules import Rule, read_condition
from tests.support.tiny_bundle import TINY_GRID, TINY_SPEC

CONCEPTS = ("car", "dark", "dog")

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_FLOAT = st.floats(-1e9, 1e9)
_COUNT = st.integers(0, 2**40)
_NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@st.composite
def triggers(draw: st.DrawFn) -> Trigger:
    """Draw a legal trigger."""
    kind = draw(st.sampled_from(list(TriggerKind)))
    times = sorted(draw(st.lists(st.integers(0, 2**62), min_size=9, max_size=9)))
    is_probe = kind is TriggerKind.PROBE
    concepts = draw(st.dictionaries(_TEXT, st.floats(0, 1), max_size=5))
    return Trigger(
        id=draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)),
        seq=draw(_COUNT),
        name=draw(_NAME),
        kind=kind,
        rule=draw(_TEXT),
        population=draw(_NAME),
        dry_run=draw(st.booleans()),
        score=draw(_FLOAT),
        threshold=draw(_FLOAT),
        window=WindowFacts(
            seq=draw(st.integers(-(2**40), 2**40)),
            start_s=draw(_FLOAT),
            stop_s=draw(_FLOAT),
            frame_s=draw(_FLOAT),
            n_gap_bins=draw(_COUNT),
            blind_streams=tuple(draw(st.lists(_TEXT, max_size=3))),
        ),
        stamps=TriggerStamps(
            newest_spike_received=times[0],
            window_complete=times[1],
            encoded=times[2],
            decided=times[7],
            published=times[8],
            narrator=None if is_probe else NarratorStamps(*times[3:7]),
        ),
        bundle=draw(_TEXT),
        calibration=draw(_TEXT) if is_probe else None,
        scores=concepts if is_probe else {},
        narration_id=None if is_probe else draw(_TEXT),
        text=None if is_probe else draw(_TEXT),
        confidence=draw(st.none() | st.integers(0, 1000).map(lambda n: n / 1000)),
    )


def trigger(
    name: str = "car_seen", *, seq: int = 0, published_ns: int = 10**9, dry_run: bool = False
) -> Trigger:
    """Return a probe's trigger."""
    return Trigger(
        id=f"run-{name}-{seq}",
        seq=seq,
        name=name,
        kind=TriggerKind.PROBE,
        rule='probe "car" of all > 0.5',
        population="all",
        dry_run=dry_run,
        score=0.75,
        threshold=0.5,
        window=WindowFacts(7, 1.0, 1.25, 1.2),
        stamps=TriggerStamps(
            newest_spike_received=published_ns - 6_000_000,
            window_complete=published_ns - 5_000_000,
            encoded=published_ns - 2_000_000,
            decided=published_ns - 1_000_000,
            published=published_ns,
        ),
        bundle="b" * 64,
        calibration="all",
        scores={"car": 0.75},
    )


def rule(
    text: str,
    name: str = "seen",
    *,
    release: float | None = None,
    refractory_s: float = 0.0,
    is_dry: bool = False,
    sinks: tuple[str, ...] = (),
    straggler_s: float = 0.0,
) -> Rule:
    """Return a rule without a file."""
    condition = read_condition(text)
    level = Level(
        condition.is_above,
        condition.threshold,
        condition.threshold if release is None else release,
        condition.dwell,
        round(refractory_s * NS_PER_S),
        round(straggler_s * NS_PER_S),
    )
    return Rule(name, text, condition, level, is_dry, sinks)


def concept_probes(
    populations: Sequence[str] = ("all", "area:VISp"), *, dim: int = TINY_GRID.dim
) -> ConceptProbes:
    """Return probes of which concept k reads number k of the mean patch, as log odds."""
    n = len(CONCEPTS)
    return ConceptProbes(
        CONCEPTS,
        tuple(populations),
        np.eye(n, dim, dtype=np.float32),
        np.zeros(n, np.float32),
        np.ones((len(populations), n), np.float32),
        np.zeros((len(populations), n), np.float32),
    )


def probes_that_cancel() -> ConceptProbes:
    """Return probes of which "dog" is infinity minus infinity where a patch is huge."""
    probes = concept_probes()
    probes.weight[CONCEPTS.index("dog"), :2] = (1000, -1000)
    return probes


def huge(seq: int = 0, populations: Sequence[str] = ("all",)) -> list[PatchEmbedding]:
    """Return a window whose patches are finite, and too large to be multiplied."""
    embeddings = seen(seq, 0.9, populations)
    embeddings[0].patches[:, :2] = 1e36
    return embeddings


def make_checkout(folder: Path) -> None:
    """Give a folder what the documented commands need: the repository's configs, and a Python."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (folder / "configs").symlink_to(Path(__file__).parents[2] / "configs")


def write_probes(folder: Path, probes: ConceptProbes) -> None:
    """Write ``probes.safetensors`` as training does."""
    names = {"concepts": probes.concepts, "populations": probes.populations}
    save_file(
        {name: getattr(probes, name) for name in ("weight", "bias", "scale", "offset")},
        folder / "probes.safetensors",
        metadata={"probes": json.dumps({"version": 1, **names})},
    )


def log_odds(probability: float) -> float:
    """Return what a probe of `concept_probes` must read to give a probability."""
    return float(np.log(probability / (1 - probability)))


def seen(
    seq: int,
    probability: float,
    populations: Sequence[str] = ("all",),
    *,
    concept: str = "car",
    host_ns: int = 0,
) -> list[PatchEmbedding]:
    """Return one window in which a concept of `concept_probes` is so probable."""
    patches: NDArray[np.float32] = np.zeros((TINY_GRID.n_patches, TINY_GRID.dim), np.float32)
    patches[:, CONCEPTS.index(concept)] = log_odds(probability)
    window = Window(
        spec=TINY_SPEC,
        first_bin=seq * TINY_SPEC.stride_bins,
        counts=np.zeros((TINY_SPEC.n_bins, 12), np.uint16),
        newest_received_host_ns=host_ns,
        complete_host_ns=host_ns,
    )
    return [
        PatchEmbedding(window, name, 12, TINY_GRID, patches, encoded_host_ns=host_ns)
        for name in populations
    ]
