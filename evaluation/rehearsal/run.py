"""Make a rehearsal: a world, three kinds of spikes, an encoder for each, and their scores.

The online part is what a user of a rig would do: record some minutes, calibrate on them, train,
and go on recording with the online sorter and the daemon. Perfect spikes and the offline sorting
of the whole recording are narrated from files, on the same scenes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evaluation.caption_scores.narrating import TRUE_PATCHES
from evaluation.progress import report
from evaluation.rehearsal.encoders import make_encoder
from evaluation.rehearsal.live import LiveResult, play_live
from evaluation.rehearsal.report import Rehearsal, StepScores, assemble_rehearsal
from evaluation.rehearsal.sorting_quality import SortingQuality, sorting_quality
from evaluation.rehearsal.world import (
    TRAIN_MOVIE,
    RehearsalSizes,
    RehearsalWorld,
    make_rehearsal_world,
)
from evaluation.simulated_encoder import SHIPPED_MODEL
from evaluation.trial import QUEUE_MESSAGES, TrialPlan, run_trial
from stream_sources.recordings.sorting import ns_to_samples

if TYPE_CHECKING:
    from contracts.manifest import Manifest
    from contracts.narration import Narration
    from encoder_training.calibration.options import CalibrationOptions

POPULATIONS = ("all", "shuffled", "silent")
"""Everything, and the two controls."""

PERFECT, OFFLINE, ONLINE = "perfect spikes", "offline sorting", "online sorting"
WHOLE, LIVE = "the whole session", "the live minutes"
"""What spikes were compared on. The online sorter's are those that it sent live: on the minutes of
its templates it would look better than it is."""


@dataclass(frozen=True, slots=True, eq=False)
class _Sorted:
    """One kind of spikes, ready to be narrated: the encoder, and how good the spikes are."""

    manifest: Manifest
    recording: Path  # NWB file
    quality: SortingQuality | None = None


class RehearsalSession:
    """Makes one rehearsal. `folder` is empty; everything that is made goes there."""

    def __init__(self, folder: Path, sizes: RehearsalSizes, *, seed: int, command: str) -> None:
        self._folder = folder
        self._sizes = sizes
        self._seed = seed
        self._command = command
        self._seconds: dict[str, float] = {}

    def run(self) -> Rehearsal:
        """Do everything, one after the other, and score it."""
        with self._timed("simulating the animal and its voltages"):
            world = make_rehearsal_world(self._folder, self._sizes, seed=self._seed)
        spikes = {PERFECT: self._perfect(world)}
        if self._sizes.sorter is not None:
            spikes[OFFLINE] = self._offline(world)
        online, calibration = self._online(world)
        steps: dict[str, dict[str, Sequence[str]]] = {}
        steps[TRUE_PATCHES] = {"all": self._frames(world, spikes[PERFECT].manifest)}
        for name, one in spikes.items():
            steps[name] = self._narrate(world, one, name)
        with self._timed("live: sorting online, and narrating"):
            live = self._live(world, online, calibration)
        steps[ONLINE], n_missing = self._texts_live(world, online, live)
        qualities = {name: one.quality for name, one in spikes.items()}
        qualities[ONLINE] = self._live_quality(world, online.manifest, live)
        return assemble_rehearsal(
            world.facts,
            {name: StepScores(texts, qualities.get(name)) for name, texts in steps.items()},
            seed=self._seed,
            command=self._command,
            facts=self._facts(world, n_missing),
            latency=live.to_json(),
            seconds=self._seconds,
        )

    def _perfect(self, world: RehearsalWorld) -> _Sorted:
        manifest = self._encoder(world, world.session, "perfect")
        return _Sorted(manifest, world.session, self._quality(world, world.trains))

    def _offline(self, world: RehearsalWorld) -> _Sorted:
        """Sort the whole recording as a laboratory does afterwards."""
        from evaluation.rehearsal.offline_session import sort_session

        with self._timed("sorting the whole recording offline"):
            recording, trains = sort_session(world, self._folder, self._options(world))
        manifest = self._encoder(world, recording, "offline")
        return _Sorted(manifest, recording, self._quality(world, trains))

    def _quality(self, world: RehearsalWorld, found: Sequence[NDArray[np.int64]]) -> SortingQuality:
        return sorting_quality(world.trains, found, rate_hz=self._rate(world), measured_on=WHOLE)

    def _live_quality(
        self, world: RehearsalWorld, manifest: Manifest, live: LiveResult
    ) -> SortingQuality:
        """Compare what was sent with what was planted after the cut, where live time begins."""
        cut, rate_hz = world.calibration.get_num_samples(), self._rate(world)
        trains_ns = live.trains_ns(len(manifest.population))
        return sorting_quality(
            [train[train >= cut] - cut for train in world.trains],
            [ns_to_samples(train, rate_hz) for train in trains_ns],
            rate_hz=rate_hz,
            measured_on=LIVE,
        )

    def _online(self, world: RehearsalWorld) -> tuple[_Sorted, Path]:
        """Calibrate on the first minutes, and train on what the online sorter finds in them."""
        from encoder_training.calibration.calibrate import NWB, calibrate

        out = self._folder / "calibration"
        with self._timed("calibrating on the first minutes"):
            options = replace(
                self._options(world),
                recording=str(self._record_first(world)),
                out=out,
                sorting=self._planted(world) if self._sizes.sorter is None else None,
            )
            calibrate(options, command=self._command, notify=lambda line: report(f"  {line}"))
        manifest = self._encoder(world, out / NWB, "online")
        return _Sorted(manifest, out / NWB), out

    def _planted(self, world: RehearsalWorld) -> Path:
        from encoder_training.calibration.offline import OFFLINE, save_offline
        from evaluation.rehearsal.offline_session import planted_spikes

        folder = self._folder / "planted"
        folder.mkdir()
        spikes = planted_spikes(world, world.calibration.get_num_samples())
        save_offline(spikes, self._rate(world), folder)
        return folder / OFFLINE

    def _record_first(self, world: RehearsalWorld) -> Path:
        """Record the first minutes on the emulated rig, as fast as the disk takes them."""
        from contracts.clock import HostClock
        from stream_sources.rigs.spikeglx.emulator import SpikeGlxWriter, WriterOptions

        options = WriterOptions(speed=None, block_ms=500.0)
        writer = SpikeGlxWriter(world.calibration, self._folder / "first", options, HostClock())
        writer.play()
        return writer.path

    def _options(self, world: RehearsalWorld) -> CalibrationOptions:
        from encoder_training.calibration.options import CalibrationOptions

        return CalibrationOptions(
            recording="",
            out=self._folder,
            minutes=world.calibration.get_num_samples() / self._rate(world) / 60,
            sorter=self._sizes.sorter or "",
            areas=world.areas,
            presentations=world.presentations,
            probe="probeC",
            seed=self._seed,
        )

    def _encoder(self, world: RehearsalWorld, recording: Path, name: str) -> Manifest:
        with self._timed(f"training an encoder: {name}"):
            return make_encoder(
                recording,
                world.movies,
                self._folder / f"encoder-{name}",
                movie=TRAIN_MOVIE,
                size=self._sizes.encoder_size,
                epochs=self._sizes.training_epochs,
                seed=self._seed,
                command=self._command,
                patches_from=self._folder / "encoder-perfect",
            )

    def _frames(self, world: RehearsalWorld, manifest: Manifest) -> list[str]:
        from evaluation.narrations.narrators import narrate_frames
        from evaluation.narrations.windows import frames_of, scene_windows

        spec = world.shown.window_spec(manifest.window_spec)
        windows = scene_windows(spec, world.shown.start_ns, world.shown.stop_ns).tolist()
        with self._timed("narrating the frames themselves"):
            frames = frames_of(world.shown.frame_at, spec, windows)
            return narrate_frames(frames, manifest, str(SHIPPED_MODEL))

    def _narrate(
        self, world: RehearsalWorld, spikes: _Sorted, name: str
    ) -> dict[str, Sequence[str]]:
        """Narrate the scenes after the cut from a file."""
        from evaluation.narrations.windows import scene_windows

        plan = replace(
            self._plan(world, spikes),
            narrator_mode="sequential",
            speed="max",
            start=world.cut_s,
            seconds=world.rest_s,
        )
        with self._timed(f"narrating: {name}"):
            result = run_trial(plan, self._folder / name.split()[0], title=f"rehearse: {name}")
        spec = world.shown.window_spec(spikes.manifest.window_spec)
        windows = scene_windows(spec, world.shown.start_ns, world.shown.stop_ns).tolist()
        return _texts(result.narrations, windows)

    def _live(self, world: RehearsalWorld, online: _Sorted, calibration: Path) -> LiveResult:
        plan = self._plan(world, online)
        return play_live(world, calibration, online.manifest, plan, self._folder / "online")

    def _texts_live(
        self, world: RehearsalWorld, online: _Sorted, live: LiveResult
    ) -> tuple[dict[str, Sequence[str]], int]:
        """Return the sentences, and how many scenes have none: dropped, or late."""
        from evaluation.narrations.windows import scene_windows

        spec = world.shown.window_spec(online.manifest.window_spec)
        windows = scene_windows(spec, *world.scene_ns_after_cut).tolist()
        texts = _texts(live.narrations, windows)
        return texts, sum((seq, "all") not in live.narrations for seq in windows)

    def _plan(self, world: RehearsalWorld, spikes: _Sorted) -> TrialPlan:
        return TrialPlan(
            recording=str(spikes.recording),
            bundle=spikes.manifest.folder,
            model=str(SHIPPED_MODEL),
            populations={name: name for name in POPULATIONS},
            stride_bins=world.shown.window_spec(spikes.manifest.window_spec).stride_bins,
            queue_messages=QUEUE_MESSAGES,
        )

    def _facts(self, world: RehearsalWorld, n_missing: int) -> dict[str, Any]:
        return {
            "is_simulated": True,
            "sorter": self._sizes.sorter or "none: the planted spikes",
            "n_planted_units": len(world.trains),
            "n_channels": self._sizes.n_channels,
            "n_train_scenes": self._sizes.train_scenes,
            "n_test_scenes": len(world.facts),
            "n_scenes_without_live_narration": n_missing,
            "calibration_minutes": world.cut_s / 60,
            "live_minutes": world.rest_s / 60,
            "training_epochs": self._sizes.training_epochs,
            "seed": self._seed,
        }

    def _rate(self, world: RehearsalWorld) -> float:
        return float(world.calibration.get_sampling_frequency())

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        report(f"rehearse: {what}")
        start_s = time.monotonic()
        yield
        self._seconds[what] = round(time.monotonic() - start_s, 1)


def _texts(
    narrations: Mapping[tuple[int, str], Narration], windows: Sequence[int]
) -> dict[str, Sequence[str]]:
    """Return a sentence for each scene by population; empty where there is none."""
    return {
        name: [
            narrations[seq, name].utterance.text if (seq, name) in narrations else ""
            for seq in windows
        ]
        for name in POPULATIONS
    }
