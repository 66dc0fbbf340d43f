"""``neurrate bench``: how late the daemon is, and whether it stays so."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.errors import UserError
from contracts.temporary_folder import TemporaryFolder
from neurrate.bench_options import BenchOptions
from neurrate.summary import print_summary
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from evaluation.latency.inputs import TrialInputs
    from evaluation.latency.run import RateResult
    from evaluation.latency.sample import Log
    from evaluation.latency.soak import SoakResult

VERSION = 1
"""Of the JSON. Raised when a key changes meaning or goes."""

UNFINISHED = 130
"""128 + SIGINT, as the other verbs that make something end with."""

RATES = "1,2,5,10,20,30,40,60,120,240"
"""Windows per second: from a readable pace to more than one in each bin of 120 Hz."""

MAX_RATE = 10_000.0

BINS_PER_S = 120
"""Of the simulated animal's encoder: a higher rate takes a faster replay, and more data."""

SOAK_RATE = 5.0

DEFAULT = BenchOptions()

RateSeconds = Annotated[float, Parameter(validator=validators.Number(gte=2, lte=3600))]
Minutes = Annotated[float, Parameter(validator=validators.Number(gte=0.1, lte=10_080))]
Rate = Annotated[float, Parameter(validator=validators.Number(gte=0.1, lte=1000))]


def latency(
    *,
    rates: str = RATES,
    seconds_per_rate: RateSeconds = 8.0,
    bench: BenchOptions = DEFAULT,
) -> int:
    """Measure how late narrations and triggers are, at fixed rates of windows.

    Source, daemon and narrator run as processes of their own. The source never waits: what the
    daemon cannot take is lost and counted, so the figures include queueing. Latencies are read
    from the stamps in the messages; the parts of every message must sum to its total, or the
    command fails. Windows of the first second of each rate are left out of the latencies. About
    three minutes.
    The tables have whole latencies, a row for each rate; --json has every stage.

    Examples
    --------
        neurrate bench latency
        neurrate bench latency --picture latency.png --json latency.json
        neurrate bench latency --rates 5,10,20 --seconds-per-rate 30 --populations all
        neurrate bench latency --set triggers.rules=rules.toml --set handover.policy=all
        neurrate bench latency --recording session.nwb --bundle bundle/ --backend retrieval

    Parameters
    ----------
    rates
        Windows per second, separated by commas. The stride makes them; beyond one window a bin,
        the speed of the replay.
    seconds_per_rate
        Seconds that are measured at each rate.
    """
    from evaluation.latency.rate import WARM_S, pace
    from evaluation.latency.run import measure_rates
    from evaluation.trial import stop_on_interrupt

    bench.check()
    wanted = _rates(rates)
    longest_s = max((seconds_per_rate + WARM_S) * max(1.0, rate / BINS_PER_S) for rate in wanted)
    inputs = bench.inputs(seconds=longest_s + 2)
    paces = [pace(rate, inputs.bins_per_s) for rate in wanted]
    results: list[RateResult] = []
    with stop_on_interrupt() as stop:
        measured = measure_rates(
            inputs, paces, seconds=seconds_per_rate, is_stopped=lambda: stop.is_made
        )
        try:
            for result in measured:
                results.append(result)  # noqa: PERF402 - kept if a later rate fails
        finally:
            if results:
                _print_latency(inputs, results, bench, is_whole=len(results) == len(paces))
    return _end_unfinished() if stop.is_made else 0


def soak(
    *,
    minutes: Minutes = 10.0,
    rate: Rate = SOAK_RATE,
    disturb: bool = False,
    journal: Path | None = None,
    bench: BenchOptions = DEFAULT,
) -> int:
    """Run two sources, the daemon and a recorder for a long time; sample them once a second.

    Each source has the units of half of the recording's probes. Memory, descriptors and threads,
    windows that wait, narrations, drops, latencies, and how far data time drifts from wall time.
    At the end a line for each rule, and exit code 1 if one is broken: every spike that was sent
    has its bin, and is in the journal. Ctrl-C ends it early; what was measured is kept.

    Examples
    --------
        neurrate bench soak --minutes 10
        neurrate bench soak --minutes 10 --disturb --picture soak.png --json soak.jsonl
        neurrate bench soak --minutes 600 --rate 2 --json night.jsonl
        neurrate bench soak --minutes 10 --set triggers.rules=rules.toml --disturb

    Parameters
    ----------
    minutes
        Minutes of spikes to send, at real time. A recording that is shorter begins again.
    rate
        Windows per second.
    disturb
        Stop the narrator for 30 s (a fifth of a soak shorter than 150 s), and kill it later; kill
        the recorder for 10 s; stop a source for 1 s; let a subscriber join that never reads.
    journal
        Record to this new folder and keep it; else to a temporary one.
    """
    from evaluation.latency.disturbances import DisturbanceSchedule
    from evaluation.latency.rate import pace
    from evaluation.latency.report import circumstances
    from evaluation.latency.sample import Log
    from evaluation.latency.soak import check_soak, soak_at
    from evaluation.progress import progress
    from evaluation.trial import stop_on_interrupt

    bench.check()
    check_soak(journal)
    seconds = 60 * minutes
    inputs = bench.inputs(seconds=seconds + 2)
    title = f"soak at {rate:g} windows/s"
    with ExitStack() as stack:
        file = None
        if bench.json is not None:
            file = stack.enter_context(bench.json.open("w", encoding="utf-8"))
        log = Log(file)
        log.write("soak", {"version": VERSION, "rate": rate, **circumstances(inputs)})
        folder = stack.enter_context(TemporaryFolder("neurrate-soak-"))
        stop = stack.enter_context(stop_on_interrupt())
        result = soak_at(
            pace(rate, inputs.bins_per_s),
            inputs,
            folder,
            journal or folder / "journal",
            log,
            seconds=seconds,
            schedule=DisturbanceSchedule.of(seconds) if disturb else None,
            is_stopped=lambda: stop.is_made,
            on_second=stack.enter_context(
                progress(title, seconds, unit="s", label=f"bench: {title}", is_timed=True)
            ),
        )
        is_ok = _print_soak(log, result, inputs, bench, rate)
    return _end_unfinished() if stop.is_made else int(not is_ok)


def _print_latency(
    inputs: TrialInputs,
    results: list[RateResult],
    bench: BenchOptions,
    *,
    is_whole: bool,
) -> None:
    from evaluation.latency.knee import RULE, find_knee
    from evaluation.latency.report import circumstances, narration_rows, trigger_rows
    from evaluation.latency.waterfall import write_waterfall

    knee = find_knee([result.point for result in results])
    print_table("Narrations, ms from newest spike to published", narration_rows(results))
    for kind, rows in trigger_rows(results).items():
        print_table(f"Triggers by {kind}, ms likewise", rows)
    print(f"{knee.sentence()} The knee is {RULE}.")
    around = {"version": VERSION, "is_whole": is_whole, **circumstances(inputs)}
    rates = [result.to_json() for result in results]
    write_json(bench.json, {**around, "rates": rates, "knee": knee.to_json()})
    if bench.picture is not None:
        n = len(inputs.populations)
        title = f"{n} population{'s' * (n > 1)}, {around['cpu']}, {around['n_cores']} cores"
        write_waterfall(bench.picture, results, knee, title=title)


def _print_soak(
    log: Log, result: SoakResult, inputs: TrialInputs, bench: BenchOptions, rate: float
) -> bool:
    """Print the verdicts, draw the picture; return whether no rule is broken."""
    from evaluation.latency.report import cpu_model
    from evaluation.latency.soak_checks import verdicts
    from evaluation.latency.soak_picture import write_soak_picture

    source, daemon = dict(result.summary.source), dict(result.summary.daemon)
    print_summary(daemon, spikes_sent=source["n_spikes"])
    if (n_rounds := source.get("n_rounds", 1)) > 1:
        print(f"The recording is shorter than the soak: it was played {n_rounds:.1f} times.")
    if not log.samples:
        print("It ended before the first second was over: there is nothing to evaluate.")
        return True
    results = verdicts(log, source, daemon, result.recorded, rate=rate)
    for verdict in results:
        print(verdict.line())
    ended = {**asdict(result.summary), "journal": asdict(result.recorded)}
    log.write("end", {"verdicts": [asdict(verdict) for verdict in results], **ended})
    if bench.picture is not None:
        n = len(inputs.populations)
        minutes = log.samples[-1].t_s / 60
        title = f"{minutes:.1f} minutes at {rate:g} windows/s, {n} populations, {cpu_model()}"
        write_soak_picture(bench.picture, log, title=title)
    return all(verdict.is_ok is not False for verdict in results)


def _end_unfinished() -> int:
    print("neurrate: stopped before the end.", file=sys.stderr)
    return UNFINISHED


def _rates(text: str) -> list[float]:
    """Read ``--rates``.

    Raises
    ------
    UserError
        With what is no rate.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        rates = sorted({float(word) for word in words})
    except ValueError:
        rates = []
    if not rates or not all(0.1 <= rate <= MAX_RATE for rate in rates):
        raise UserError(
            f"--rates must be numbers from 0.1 to {MAX_RATE:g}, separated by commas, got {text!r}. "
            "For example: 1,5,20."
        )
    return rates
