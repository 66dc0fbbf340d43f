"""The live part: a rig that records, the online sorter, the daemon, and what they publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.clock import second_to_ns
from contracts.narration import Narration
from contracts.spikes import SpikeBatch
from contracts.statistics import Statistics
from contracts.trigger import Trigger
from evaluation.latency.messages import percentiles
from evaluation.progress import progress
from evaluation.rehearsal.rig import EmulatedRig, emulated_rig
from evaluation.trial import TrialPlan, TrialSummary, running

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from evaluation.rehearsal.world import RehearsalWorld

END_SILENCE_S = 2.0
SPIKES_REASONS = ("streams",)
"""Conditions of a daemon that are met once spikes come."""

RULE_NAME = "rehearsed"
WORD_RULE_NAME = "said"


@dataclass(slots=True)
class LiveResult:
    """What was published, and how late each was: since the last sample of its window, ms."""

    narrations: dict[tuple[int, str], Narration] = field(default_factory=dict)
    n_triggers: dict[str, int] = field(default_factory=dict)
    sentence_ms: list[float] = field(default_factory=list)
    spikes_ms: list[float] = field(default_factory=list)  # until the daemon had its spikes
    trigger_ms: list[float] = field(default_factory=list)  # of the probe's rule
    batches: list[SpikeBatch] = field(default_factory=list)
    summary: TrialSummary | None = None

    def trains_ns(self, n_units: int) -> list[NDArray[np.int64]]:
        """Return the spikes of each unit as the sorter sent them, session nanoseconds, in order."""
        times = np.concatenate([np.empty(0, np.int64), *(b.spike_time_ns for b in self.batches)])
        units = np.concatenate([np.empty(0, np.uint32), *(b.unit_index for b in self.batches)])
        return [np.sort(times[units == row]) for row in range(n_units)]

    def to_json(self) -> dict[str, Any]:
        """Return the latencies and the counts."""
        source: Mapping[str, Any] = {} if self.summary is None else self.summary.source
        return {
            "n_narrations": len(self.narrations),
            "n_triggers": self.n_triggers,
            "sample_to_spikes_ms": percentiles(self.spikes_ms),
            "sample_to_sentence_ms": percentiles(self.sentence_ms),
            "sample_to_trigger_ms": percentiles(self.trigger_ms),
            "sorter": {name: value for name, value in source.items() if name != "units"},
        }


def play_live(
    world: RehearsalWorld,
    calibration: Path,
    manifest: Manifest,
    plan: TrialPlan,
    folder: Path,
) -> LiveResult:
    """Record the rest of the session on an emulated rig, sort, narrate and collect.

    `plan` has the bundle, the populations and the stride; its recording is not looked at.
    """
    folder.mkdir()
    result = LiveResult()
    with emulated_rig(world.rest, folder / "rig") as rig:
        live = live_plan(plan, rig.path, calibration, write_rules(folder / "rules.toml", manifest))
        with (
            running(live, folder / "live") as trial,
            progress("rehearse: live", world.rest_s, unit="s") as advance_to,
        ):
            for messages in trial.received():
                rig.check()
                for message in messages:
                    value = message.value
                    _take(result, value, rig, is_repeat=message.is_repeat)
                    if isinstance(value, Statistics) and is_listening(value):
                        rig.begin()
                    if isinstance(value, Narration):
                        advance_to(value.window_stop_s)
            result.summary = trial.wait()
    return result


def is_listening(statistics: Statistics) -> bool:
    """Whether the daemon hears the source, and lacks nothing but spikes.

    Before that a rig's samples would be those of a daemon that joins late.
    """
    lacks = [reason for reason in statistics.reasons if not reason.startswith(SPIKES_REASONS)]
    return bool(statistics.streams) and not lacks


def live_plan(plan: TrialPlan, path: Path, calibration: Path, rules: Path) -> TrialPlan:
    """Return the plan of a trial whose source sorts the file of a rig."""
    from dataclasses import replace

    source = (
        "stream", "sorter", f"spikeglx:{path}", "--templates", str(calibration),
        "--end-silence", f"{END_SILENCE_S:g}",
    )  # fmt: skip
    return replace(
        plan,
        source=source,
        narrator_mode="worker",
        listens_to_spikes=True,
        settings=(*plan.settings, f"triggers.rules={rules}"),
    )


def write_rules(path: Path, manifest: Manifest) -> Path:
    """Write two rules that fire often: on a concept probe if there is one, and on a word."""
    from daemon.triggers.probes import load_probes

    probes = load_probes(manifest)
    lines = [f"[triggers.{WORD_RULE_NAME}]\nwhen = 'narration of all says \"a\"'\n"]
    if probes is not None and probes.concepts:
        concept = "dark" if "dark" in probes.concepts else probes.concepts[0]
        lines.append(f"[triggers.{RULE_NAME}]\nwhen = 'probe \"{concept}\" of all > 0.5'\n")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _take(result: LiveResult, value: object, rig: EmulatedRig, *, is_repeat: bool) -> None:
    if isinstance(value, SpikeBatch):
        result.batches.append(value)
    if is_repeat:
        return
    if isinstance(value, Narration):
        taken_ns = rig.started_host_ns + second_to_ns(value.window_stop_s)
        result.narrations[value.window_seq, value.population] = value
        result.spikes_ms.append((value.stamps.newest_spike_received - taken_ns) / 1e6)
        result.sentence_ms.append((value.stamps.published - taken_ns) / 1e6)
    elif isinstance(value, Trigger):
        result.n_triggers[value.name] = result.n_triggers.get(value.name, 0) + 1
        if value.name == RULE_NAME:
            taken_ns = rig.started_host_ns + second_to_ns(value.window.stop_s)
            result.trigger_ms.append((value.stamps.published - taken_ns) / 1e6)
