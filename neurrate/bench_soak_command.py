"""``neurrate bench soak``: whether the daemon stays as it is, for as long as asked."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from neurrate.bench_options import VERSION, BenchOptions, bar, give_up, say_stopped

if TYPE_CHECKING:
    from evaluation.latency.inputs import TrialInputs
    from evaluation.latency.rig import RigPlan
    from evaluation.latency.sample import Log
    from evaluation.latency.soak import SoakResult

DEFAULT = BenchOptions()

RATE = 5.0

Minutes = Annotated[float, Parameter(validator=validators.Number(gte=0.1, lte=10_080))]
Rate = Annotated[float, Parameter(validator=validators.Number(gte=0.1, lte=1000))]


def soak(
    *,
    minutes: Minutes = 10.0,
    rate: Rate = RATE,
    disturb: bool = False,
    bench: BenchOptions = DEFAULT,
) -> int:
    """Run the whole chain for a long time and look at it once a second.

    Memory, descriptors and threads of source, daemon and narrator, windows that wait, narrations,
    drops, latencies, and how far data time drifts from wall time. At the end a line for each rule,
    and exit code 1 if one is broken. Ctrl-C ends it early; what was seen is kept.

    Examples
    --------
        neurrate bench soak --minutes 10
        neurrate bench soak --minutes 10 --disturb --picture soak.png --json soak.jsonl
        neurrate bench soak --minutes 600 --rate 2 --json night.jsonl
        neurrate bench soak --minutes 10 --set triggers.rules=rules.toml --disturb

    Parameters
    ----------
    minutes
        Minutes of spikes to send, at real time.
    rate
        Windows per second.
    disturb
        Stop the narrator for 30 s, or for a fifth of a soak shorter than 150 s, and let it go on;
        kill it, later; let a subscriber join that never reads.
    """
    from daemon.service.signals import StopRequest, stop_on_signal
    from evaluation.latency.disturbances import DisturbanceSchedule
    from evaluation.latency.process_usage import check_soak_libraries
    from evaluation.latency.report import circumstances
    from evaluation.latency.sample import Log
    from evaluation.latency.soak import soak as run

    bench.check()
    check_soak_libraries()
    seconds = 60 * minutes
    played = bench.material(seconds=seconds + 2)
    stop = StopRequest()
    with ExitStack() as stack:
        file = None
        if bench.json is not None:
            file = stack.enter_context(bench.json.open("w", encoding="utf-8"))
        log = Log(file)
        log.write("soak", {"version": VERSION, "rate": rate, **circumstances(played)})
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="neurrate-soak-")))
        stack.enter_context(stop_on_signal(stop, force=give_up))
        ended = run(
            _plan(played, bench, rate, seconds),
            folder,
            log,
            programme=DisturbanceSchedule.of(seconds) if disturb else None,
            is_stopped=lambda: stop.is_made,
            on_second=stack.enter_context(bar(f"soak at {rate:g} windows/s", seconds)),
        )
        is_ok = _tell(log, ended, played, bench, rate)
    if stop.is_made:
        return say_stopped()
    return 0 if is_ok else 1


def _plan(played: TrialInputs, bench: BenchOptions, rate: float, seconds: float) -> RigPlan:
    from evaluation.latency.rate import pace
    from evaluation.latency.rig import RigPlan

    at = pace(rate, played.bins_per_s)
    return RigPlan(
        played.recording,
        played.bundle,
        played.model,
        played.populations,
        stride_bins=at.stride_bins,
        speed=at.speed,
        batch_ms=at.batch_ms,
        seconds=seconds * at.speed,
        start=played.start,
        settings=bench.settings(played),
        config=bench.config,
    )


def _tell(
    log: Log, ended: SoakResult, played: TrialInputs, bench: BenchOptions, rate: float
) -> bool:
    """Print the verdicts, draw the picture; return whether no rule is broken."""
    from evaluation.latency.report import cpu_model
    from evaluation.latency.soak_checks import verdicts
    from evaluation.latency.soak_picture import write_soak_picture
    from neurrate.summary import print_summary

    print_summary(ended.daemon, spikes_sent=ended.source["n_spikes"])
    if not log.samples:
        print("It ended before the first second was over: there is nothing to judge.")
        return True
    found = verdicts(log, ended.source, ended.daemon, rate=rate)
    for each in found:
        print(each.line())
    log.write("end", {"verdicts": [asdict(each) for each in found], **asdict(ended)})
    if bench.picture is not None:
        n = len(played.populations)
        minutes = log.samples[-1].t_s / 60
        title = f"{minutes:.1f} minutes at {rate:g} windows/s, {n} populations, {cpu_model()}"
        write_soak_picture(bench.picture, log, title=title)
    return all(each.is_ok is not False for each in found)
