"""``neurrate triggers``: rules tried on a recording before they act on an experiment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from contracts.temporary_folder import TemporaryFolder
from neurrate.arguments import ConfigOption, JsonOption, Seconds, Seed, SetOption
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from evaluation.triggers.plan import DryRunRequest
    from evaluation.triggers.report import DryRun

AtLeastZero = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1e6))]


def score(
    recording: str,
    *,
    bundle: Path,
    rules: Path,
    truth: Path | None = None,
    model: str | None = None,
    populations: str | None = None,
    speed: str = "max",
    start: AtLeastZero | None = None,
    seconds: Seconds | None = None,
    seed: Seed = 0,
    json: JsonOption = None,
    picture: Path | None = None,
    config: ConfigOption = None,
    set_: SetOption = (),
) -> None:
    """Try rules on a recording: their hits, misses and false alarms.

    Replays the recording through a source and a daemon in processes of their own. Every rule is a
    dry one: triggers are published and reach no sink. They are compared with what was on the
    screen: with the captions of the recording's presentations, or with a file of your own.

    Examples
    --------
        neurrate triggers score session.nwb --bundle bundle/ --rules rules.toml
        neurrate triggers score session.nwb --bundle bundle/ --rules rules.toml --speed 1
        neurrate triggers score session.nwb --bundle bundle/ --rules rules.toml --truth cars.csv
        neurrate triggers score session.nwb --bundle bundle/ --rules rules.toml --picture rules.png

    Parameters
    ----------
    recording
        NWB file or URL, or the folder of a sorting.
    bundle
        The encoder of its units, with concept probes if rules ask for some.
    rules
        TOML file of rules; docs/triggers.md describes it.
    truth
        CSV with start_s, stop_s and concept, in seconds of session time: when a concept was shown.
        A concept is a rule's concept, words, sentence or name. At other times it was not shown.
    model
        Folder or hub id of the language model, for rules on narrations; that of the bundle if
        omitted.
    populations
        Populations, separated by commas; those of --config, or those
        that the rules name, if omitted.
    speed
        Session seconds per second, or max, which drops no window. At 1 the host's latencies are
        those of a rig.
    start
        First session second to replay; that of the first spike if omitted.
    seconds
        Session seconds to replay; all if omitted.
    seed
        Of the bootstrap and of the random shifts.
    json
        Write every number to this file, as JSON.
    picture
        Draw each rule into this PNG or SVG.
    config
        TOML file of the daemon's other settings; docs/settings.md has every key.
    set_
        One setting of the daemon, as key=value; may be given several times.
    """
    from evaluation.triggers.picture import check_picture, write_picture
    from evaluation.triggers.plan import DryRunRequest, prepare
    from evaluation.triggers.run import dry_run

    check_writable(json)
    check_picture(picture)
    request = DryRunRequest(
        recording=recording,
        bundle=bundle,
        rules=rules,
        truth=truth,
        model=model,
        populations=populations,
        speed=speed,
        start=start,
        seconds=seconds,
        config=config,
        settings=set_,
    )
    prepared = prepare(request)
    try:
        with TemporaryFolder("neurrate-triggers-") as folder:
            report = dry_run(prepared, folder, command=_command(request, seed), seed=seed)
    finally:
        prepared.source.close()
    _print(report)
    write_json(json, report.to_json())
    if picture is not None:
        write_picture(picture, report)


def _command(request: DryRunRequest, seed: int) -> str:
    """Return the command without what changes no number."""
    words = ["neurrate", "triggers", "score", request.recording]
    words += ["--bundle", str(request.bundle), "--rules", str(request.rules)]
    options = {
        "--truth": request.truth,
        "--model": request.model,
        "--populations": request.populations,
        "--speed": request.speed,
        "--start": request.start,
        "--seconds": request.seconds,
        "--config": request.config,
        "--seed": seed or None,
    }
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return shlex.join(words + [word for text in request.settings for word in ("--set", text)])


def _print(report: DryRun) -> None:
    from evaluation.triggers.report import count_rows, latency_rows, notes, score_rows

    print_table("Triggers against what was shown", count_rows(report.rules))
    print_table("Scores, with 95 % intervals over events", score_rows(report.rules))
    print_table(f"Latency, at --speed {report.speed}", latency_rows(report.rules))
    for line in notes(report):
        print(line)
