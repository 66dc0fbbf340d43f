"""``neurrate bench``: how late the daemon is, and whether it stays so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.errors import UserError
from neurrate.bench_options import VERSION, BenchOptions, bar, give_up, say_stopped
from neurrate.tables import print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from evaluation.latency.inputs import TrialInputs
    from evaluation.latency.rate import WindowRate
    from evaluation.latency.run import RateResult

RATES = "1,2,5,10,20,30,40,60,120,240"
"""Windows per second: from what anybody can read to more than a bin at 120 Hz gives."""

MAX_RATE = 10_000.0

BINS_PER_S = 120
"""Of the simulated animal's encoder: beyond it a rate takes a faster replay, and more data."""

DEFAULT = BenchOptions()

RateSeconds = Annotated[float, Parameter(validator=validators.Number(gte=2, lte=3600))]


def latency(
    *,
    rates: str = RATES,
    seconds_per_rate: RateSeconds = 8.0,
    bench: BenchOptions = DEFAULT,
) -> int:
    """Measure how late narrations and triggers are, at fixed rates of windows.

    Source, daemon and narrator run as processes of their own. The source waits for nobody: what
    the daemon cannot take is lost and counted, and queueing is seen. Latencies are read from the
    stamps in the messages; every message must be the sum of its parts, or the command fails.
    Windows of the first second of each rate are left out of the latencies. About three minutes.
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
    from daemon.service.signals import StopRequest, stop_on_signal
    from evaluation.latency.rate import WARM_S, pace

    bench.check()
    wanted = _rates(rates)
    longest_s = max((seconds_per_rate + WARM_S) * max(1.0, rate / BINS_PER_S) for rate in wanted)
    played = bench.material(seconds=longest_s + 2)
    paces = [pace(rate, played.bins_per_s) for rate in wanted]
    stop = StopRequest()
    with stop_on_signal(stop, force=give_up):
        results: list[RateResult] = []
        try:
            for result in _measure(played, paces, seconds_per_rate, bench, lambda: stop.is_made):
                results.append(result)  # noqa: PERF402 - what is there is told, whatever comes
        finally:
            if results:
                _tell(played, results, bench, is_whole=len(results) == len(paces))
    return say_stopped() if stop.is_made else 0


def _measure(
    played: TrialInputs,
    paces: Sequence[WindowRate],
    seconds: float,
    bench: BenchOptions,
    is_stopped: Callable[[], bool],
) -> Iterator[RateResult]:
    """Run one rate after the other; a rate that was stopped does not count."""
    from contracts.manifest import load_manifest
    from evaluation.latency.rate import WARM_S, run_rate
    from evaluation.latency.run import summarise

    spec = load_manifest(played.bundle, check_hashes=False).window_spec
    with TemporaryDirectory(prefix="neurrate-bench-") as folder:
        for number, rate in enumerate(paces):
            title = f"{rate.rate:g} windows/s ({number + 1} of {len(paces)})"
            with bar(title, seconds + WARM_S) as on_second:
                run = run_rate(
                    played,
                    rate,
                    Path(folder) / str(number),
                    seconds=seconds,
                    settings=bench.settings(played),
                    config=bench.config,
                    is_stopped=is_stopped,
                    on_second=on_second,
                )
            if run is None:
                return
            of_run = replace(spec, stride_bins=rate.stride_bins)
            yield summarise(run, rate, spec=of_run, populations=played.populations)


def _tell(
    played: TrialInputs,
    results: Sequence[RateResult],
    bench: BenchOptions,
    *,
    is_whole: bool,
) -> None:
    from evaluation.latency.knee import RULE, find_knee
    from evaluation.latency.report import circumstances, narration_rows, trigger_rows
    from evaluation.latency.waterfall import write_waterfall

    knee = find_knee([each.point for each in results])
    print_table("Narrations, ms from newest spike to published", narration_rows(results))
    for kind, rows in trigger_rows(results).items():
        print_table(f"Triggers by {kind}, ms likewise", rows)
    print(f"{knee.sentence()} The knee is {RULE}.")
    around = circumstances(played)
    rates = [each.to_json() for each in results]
    write_json(
        bench.json,
        {
            "version": VERSION,
            "is_whole": is_whole,
            **around,
            "rates": rates,
            "knee": knee.to_json(),
        },
    )
    if bench.picture is not None:
        n = len(played.populations)
        title = f"{n} population{'s' * (n > 1)}, {around['cpu']}, {around['n_cores']} cores"
        write_waterfall(bench.picture, results, knee, title=title)


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
