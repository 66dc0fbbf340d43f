"""``neurrate clips``: pairs of clips that differ in one feature, shown and tested."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.atomic_files import check_folder_writable, check_writable
from neurrate.arguments import command_text

if TYPE_CHECKING:
    from evaluation.questions.answer import Answer


def run(
    experiment: Path, *, out: Path, bundle: Path | None = None, model: str | None = None
) -> None:
    """Show an experiment's clips to the simulated animal, and test what is narrated.

    Draws pairs of scenes that differ in one feature, streams the spikes of the animal that sees
    them through the daemon, and writes tables, figures and one page, report.html.
    The same command after a stop goes on where it was. docs/controlled-clips.md has the
    experiment's file and how to read the figures.

    Examples
    --------
        neurrate clips run configs/clips/simulated.toml --out results/

    Parameters
    ----------
    experiment
        TOML file with features.
    out
        Folder of results.
    bundle
        An encoder of the simulated animal; the shipped one if omitted.
    model
        Folder of the language model; that of the bundle if omitted.
    """
    from evaluation.clips.run import run_simulated

    check_folder_writable(out)
    command = command_text("clips", "run", experiment, out=out, bundle=bundle, model=model)
    _show(run_simulated(experiment, out, bundle=bundle, model=model, command=command), out)


def schedule(experiment: Path, *, out: Path) -> None:
    """Draw the order in which clips are shown, as a CSV file for a stimulus program.

    Examples
    --------
        neurrate clips schedule configs/clips/rig.toml --out schedule.csv

    Parameters
    ----------
    experiment
        TOML file.
    out
        File to write. One row a presentation: clip, file, onset_s, duration_s.
    """
    from evaluation.clips.experiment import load_experiment
    from evaluation.clips.schedule import make_schedule, write_schedule

    check_writable(out)
    found = make_schedule(load_experiment(experiment))
    write_schedule(out.resolve(), found)
    end_s = found[-1].onset_s + found[-1].duration_s
    print(f"wrote {out}: {len(found)} presentations in {end_s / 60:.1f} minutes")


def score(
    experiment: Path,
    schedule: Path,
    journal: Path,
    *,
    out: Path,
    start: float | None = None,
    frames: Path | None = None,
    bundle: Path | None = None,
    model: str | None = None,
) -> None:
    """Test what a daemon narrated while a schedule was shown.

    Clips are found by stimulus marks that have the names of the schedule's column clip.

    Examples
    --------
        neurrate clips score mine.toml schedule.csv journal/ --out results/ --start 63.2
        neurrate clips score mine.toml s.csv journal/ --out results/ --frames clips/ --bundle b/

    Parameters
    ----------
    experiment
        TOML file.
    schedule
        File of 'neurrate clips schedule'.
    journal
        Folder of 'neurrate record', with narrations and marks.
    out
        Folder of results.
    start
        Session second at which the schedule began, where there are no marks.
    frames
        Folder with the frames of each clip, as for 'neurrate prepare': they are narrated too.
    bundle
        For --frames: the bundle of the daemon, whose language model narrates them.
    model
        Folder or hub id of the language model; that of the bundle if omitted.
    """
    from evaluation.clips.run import score_recorded

    check_folder_writable(out)
    options: Any = {"out": out, "start": start, "frames": frames, "bundle": bundle, "model": model}
    answer = score_recorded(
        experiment, schedule, journal, out, start_s=start, model=model,
        frames=frames, bundle=bundle,
        command=command_text("clips", "score", experiment, schedule, journal, **options),
    )  # fmt: skip
    _show(answer, out)


def _show(answer: Answer, out: Path) -> None:
    from evaluation.questions.page import PAGE

    print(answer.title, *answer.findings, sep="\n  ")
    print(f"wrote {out / PAGE}")
