"""Run an experiment on the simulated animal, or score one that was shown at a rig."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import UserError
from contracts.manifest import load_manifest
from contracts.temporary_folder import TemporaryFolder
from encoder_training.pictures import check_matplotlib
from evaluation.clips.answer import answer_clips
from evaluation.clips.experiment import Experiment, load_experiment
from evaluation.clips.kept import KeptNarrations, content_key
from evaluation.clips.narrations import ClipNarrations
from evaluation.clips.recorded import recorded_narrations
from evaluation.clips.schedule import Presentation, make_schedule, read_schedule, write_schedule
from evaluation.clips.simulated import expressions_of, narrate_session, record_clips
from evaluation.clips.true_patches import narrate_files
from evaluation.progress import report
from evaluation.questions.answer import Answer, write_answer
from evaluation.questions.narration_store import STORE
from evaluation.questions.page import PAGE, PageHead, write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEDULE = "schedule.csv"


def run_simulated(
    path: Path, out: Path, *, bundle: Path | None, model: str | None, command: str
) -> Answer:
    """Show the clips to the simulated animal, narrate its spikes, and test.

    Raises
    ------
    UserError
        If the experiment or the bundle cannot be used.
    """
    from evaluation.simulated_encoder import write_shipped_bundle

    check_matplotlib()
    experiment = load_experiment(path)
    schedule = make_schedule(experiment)
    with TemporaryFolder("neurrate-clips-") as folder:
        if bundle is None:
            manifest = write_shipped_bundle(folder / "bundle", command=command)
        else:
            manifest = load_manifest(bundle)
        language_model = model or manifest.model.language_model.model_id
        expressions = expressions_of(experiment, manifest)
        report("clips: simulating the animal that sees them")
        session = record_clips(folder / "clips.nwb", experiment, schedule, manifest)
        out.mkdir(parents=True, exist_ok=True)
        key = content_key(experiment, session.recording, manifest, language_model, expressions)
        narrations = narrate_session(
            session,
            manifest,
            language_model,
            expressions,
            folder / "trial",
            KeptNarrations(out / STORE, key),
        )
    origin = (
        f"Simulated animal, bundle {manifest.sha256[:12]}, language model "
        f"{Path(language_model).name}."
    )
    return _write(experiment, schedule, narrations, out, command=command, origin=origin)


def score_recorded(
    path: Path,
    schedule_path: Path,
    journal: Path,
    out: Path,
    *,
    start_s: float | None,
    frames: Path | None,
    bundle: Path | None,
    model: str | None,
    command: str,
) -> Answer:
    """Test what a daemon narrated while a schedule was shown.

    `frames` is a folder with the frames of the clips, which the language model of `bundle`
    narrates, or `model` in its place.

    Raises
    ------
    UserError
        If the schedule is not the experiment's, or was not shown in the journal, or one of
        `frames` and `bundle` is given alone.
    """
    check_matplotlib()
    if (frames is None) != (bundle is None):
        raise UserError("--frames needs --bundle, whose language model narrates them. Give both.")
    experiment = load_experiment(path)
    schedule = read_schedule(schedule_path, experiment)
    narrations = recorded_narrations(journal, schedule, start_s=start_s)
    if frames is not None and bundle is not None:
        manifest = load_manifest(bundle)
        language_model = model or manifest.model.language_model.model_id
        narrate_files(narrations, schedule, frames, manifest, language_model)
        narrations.notes.append(f"true patches narrated by {language_model}")
    lacking = [name for name in experiment.populations if name not in narrations.texts]
    if lacking:
        narrations.notes.append(f"not narrated, though asked for: {', '.join(lacking)}")
    origin = f"Recorded: {journal}."
    return _write(experiment, schedule, narrations, out, command=command, origin=origin)


def _write(
    experiment: Experiment,
    schedule: Sequence[Presentation],
    narrations: ClipNarrations,
    out: Path,
    *,
    command: str,
    origin: str,
) -> Answer:
    report("clips: scoring")
    answer = answer_clips(experiment, schedule, narrations)
    write_answer(answer, out)
    write_schedule(out / SCHEDULE, schedule)
    table = experiment.table
    notes = [
        f"experiment {table.name}: {len(experiment.pairs)} pairs of clips of "
        f"{table.clip_seconds:g} s, each shown {table.repeats} times, seed {table.seed}",
        "the pair is the unit: windows of a showing are averaged, then showings of a clip",
        *narrations.notes,
    ]
    write_page(out / PAGE, [answer], PageHead("Controlled clips", command, origin, notes))
    return replace(answer, findings=(*answer.findings, *narrations.notes))
