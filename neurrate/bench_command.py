"""``neurrate bench``: how late the daemon is, and whether it stays so."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from contracts.errors import UserError
from neurrate.arguments import ConfigOption, JsonOption, SetOption
from neurrate.bench_material import FOLDER
from neurrate.tables import check_folder_writable, check_writable, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from neurrate.bench_latency import RateResult
    from neurrate.bench_material import Material
    from neurrate.bench_pace import Pace

RATES = "1,2,5,10,20,30,40,60,120,240"
"""Windows per second: from what anybody can read to more than a bin at 120 Hz gives."""

MAX_RATE = 10_000.0

FORMATS = (".png", ".svg", ".pdf")

VERSION = 1
"""Of the JSON. Raised when a key changes meaning or goes."""

UNFINISHED = 130
"""128 + SIGINT, as the other verbs that make something end with."""

RateSeconds = Annotated[float, Parameter(validator=validators.Number(gte=2, lte=3600))]


def latency(
    *,
    rates: str = RATES,
    seconds_per_rate: RateSeconds = 8.0,
    recording: str | None = None,
    bundle: Path | None = None,
    model: str | None = None,
    populations: str | None = None,
    backend: str | None = None,
    config: ConfigOption = None,
    set_: SetOption = (),
    folder: Path = FOLDER,
    picture: Path | None = None,
    json: JsonOption = None,
) -> int:
    """Measure how late narrations and triggers are, at fixed rates of windows.

    Source, daemon and narrator run as processes of their own. The source waits for nobody: what
    the daemon cannot take is lost and counted, and queueing is seen. Latencies are read from the
    stamps in the messages; every message must be the sum of its parts, or the command fails.
    Windows of the first second of each rate are left out of the latencies. About three minutes.

    Examples
    --------
        neurrate bench latency
        neurrate bench latency --picture latency.png --json latency.json
        neurrate bench latency --rates 5,10,20 --seconds-per-rate 30 --populations all
        neurrate bench latency --config rules.toml --set handover.policy=all
        neurrate bench latency --recording session.nwb --bundle bundle/ --backend retrieval

    Parameters
    ----------
    rates
        Windows per second, separated by commas. The stride makes them; beyond one window a bin,
        the speed of the replay.
    seconds_per_rate
        Seconds that are measured at each rate.
    recording
        NWB file or URL, or the folder of a sorting. The simulated animal's if omitted, which is
        made once.
    bundle
        Encoder; that of the simulated animal if omitted.
    model
        Folder or hub id of the language model; that of the bundle if omitted.
    populations
        What to narrate, separated by commas; eight of the simulated animal if omitted.
    backend
        Of the narrator (narrator.backend).
    config
        TOML file for the daemon: trigger rules, for example.
    set_
        A setting of the daemon, as key=value; may be given several times.
    folder
        Where what is made once is kept.
    picture
        Write the waterfall and the curves to this file; its ending says which format.
    json
        Write every number to this file, as JSON.
    """
    from daemon.signals import StopRequest, stop_on_signal
    from neurrate.bench_material import material
    from neurrate.bench_pace import WARM_S, pace

    check_writable(json)
    _check_picture(picture)
    check_folder_writable(folder)
    wanted = _rates(rates)
    longest_s = max((seconds_per_rate + WARM_S) * max(1.0, rate / 120) for rate in wanted)
    played = material(
        folder,
        recording=recording,
        bundle=bundle,
        model=model,
        populations=_names(populations),
        seconds=longest_s + 2,
    )
    settings = [*set_, *([] if backend is None else [f"narrator.backend={backend}"])]
    paces = [pace(rate, played.bins_per_s) for rate in wanted]
    stop = StopRequest()
    with stop_on_signal(stop, force=_give_up):
        results = _measure(
            played, paces, seconds_per_rate, settings, config, is_stopped=lambda: stop.is_made
        )
    if results:
        _tell(played, results, picture, json, is_whole=not stop.is_made)
    if stop.is_made:
        print("neurrate: stopped before the end.", file=sys.stderr)
        return UNFINISHED
    return 0


def _measure(
    played: Material,
    paces: Sequence[Pace],
    seconds: float,
    settings: Sequence[str],
    config: Path | None,
    *,
    is_stopped: Callable[[], bool],
) -> list[RateResult]:
    """Run one rate after the other; a rate that was stopped does not count."""
    from contracts.manifest import load_manifest
    from neurrate.bench_latency import summarise
    from neurrate.bench_pace import WARM_S, run_rate

    spec = load_manifest(played.bundle, check_hashes=False).window_spec
    results: list[RateResult] = []
    with TemporaryDirectory(prefix="neurrate-bench-") as folder:
        for number, rate in enumerate(paces):
            title = f"{rate.rate:g} windows/s ({number + 1} of {len(paces)})"
            with _bar(title, seconds + WARM_S) as on_second:
                run = run_rate(
                    played,
                    rate,
                    Path(folder) / str(number),
                    seconds=seconds,
                    settings=settings,
                    config=config,
                    is_stopped=is_stopped,
                    on_second=on_second,
                )
            if run is None:
                break
            of_run = replace(spec, stride_bins=rate.stride_bins)
            results.append(summarise(run, rate, spec=of_run, populations=played.populations))
    return results


def _tell(
    played: Material,
    results: Sequence[RateResult],
    picture: Path | None,
    path: Path | None,
    *,
    is_whole: bool,
) -> None:
    from neurrate.bench_knee import RULE, find_knee
    from neurrate.bench_report import circumstances, latency_rows, throughput_rows
    from neurrate.bench_waterfall import write_waterfall

    knee = find_knee([each.point for each in results])
    print_table("Latency, ms", latency_rows(results))
    print_table("Windows", throughput_rows(results))
    print(f"{knee.sentence()} The knee is {RULE}.")
    around = circumstances(played)
    rates = [each.to_json() for each in results]
    write_json(
        path,
        {
            "version": VERSION,
            "is_whole": is_whole,
            **around,
            "rates": rates,
            "knee": knee.to_json(),
        },
    )
    if picture is not None:
        n = len(played.populations)
        title = f"{n} population{'s' * (n > 1)}, {around['cpu']}, {around['n_cores']} cores"
        write_waterfall(picture, results, knee, title=title)


@contextmanager
def _bar(title: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Show how far a run is, on standard error, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(
        desc=title,
        total=round(seconds, 1),
        unit="s",
        disable=None,
        leave=False,
        bar_format="{desc}: {bar} {n:.0f} of {total:.0f} s",
    ) as bar:

        def on_second(second: float) -> None:
            bar.update(min(second, seconds) - bar.n)

        yield on_second


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


def _names(populations: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (populations or "").split(",") if name.strip())
    if populations is not None and not names:
        raise UserError("--populations must name at least one, such as all or VISp.")
    return names


def _check_picture(path: Path | None) -> None:
    """Refuse before the long work what would fail after it.

    Raises
    ------
    UserError
        If the name does not say which format.
    """
    from encoder_training.pictures import check_matplotlib

    check_writable(path)
    if path is None:
        return
    check_matplotlib()
    if path.suffix not in FORMATS:
        raise UserError(
            f"--picture {path} must end with one of {', '.join(FORMATS)}, which says the format."
        )


def _give_up() -> None:
    """Leave at once, but not without the children and the folder.

    Raises
    ------
    KeyboardInterrupt
        Always.
    """
    raise KeyboardInterrupt
