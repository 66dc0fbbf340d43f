"""What pages cost the daemon, how soon they show a sentence, and how smoothly an hour scrolls.

    python -m benchmarks.bench_dashboard --json benchmarks/runs/...
    python -m benchmarks.bench_dashboard --quick      (under a minute; for tests)

What bounds it
--------------
Pages listen to the dashboard's server, which is one subscriber of the daemon. However many there
are, the daemon sends once, so its latency may change only because they share its cores. A page
draws at the screen's next frame, 17 ms at 60 a second; without a graphics card Chromium draws on
the same cores.

"pages": the simulated animal is narrated in real time, source, daemon and server as processes of
their own; in turns nobody has the page open, and 50 programs read its events while one more asks
for them and never reads. Total latency of the narrations, as the daemon stamps it.

"one page": Chromium has the page open meanwhile: from the published stamp to the frame after the
one in which the sentence was drawn, on the wall clock of this machine.

"an hour": a server is sent an hour of columns and sentences as fast as it takes them; Chromium
shows it at ten minutes a screen. Time between frames while it lies still, and while it is scrolled
from end to end.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import zmq
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.record import Options, Result, read_options, report
from contracts.displays import Rates, pack_rates
from contracts.narration import Narration, latency_ms
from daemon.publisher import Publisher
from evaluation.demo_plan import DemoRequest, prepare
from evaluation.processes import Child
from evaluation.trial import START_S, Trial, running

N_PAGES = 50
N_TURNS = 3
TURN_S = 15.0
WARM_S = 3.0
N_UNITS = 500
POPULATIONS = ("all", "VISp", "LGd", "CA1", "PV", "SST", "VIP", "silent")
HOUR_S = 3600
STEP_S = 0.4
SCROLL_S = 10.0
MARGIN_S = 8.0
"""Of the session, for the start of processes and of the browser."""

PAGES, PAGE, HOUR = "pages", "one page", "an hour"

WATCH = """
() => {
  window.drawn = [];
  window.neurrate.store.addEventListener("narration", ({ detail }) => {
    if (!detail) return;
    requestAnimationFrame(() => requestAnimationFrame(() =>
      window.drawn.push([detail.id, performance.timeOrigin + performance.now()])));
  });
}
"""
"""The page draws in the first of these frames; when the second begins, it has been shown."""

FRAMES = """
async ([seconds, stepS]) => {
  const { view } = window.neurrate;
  const times = [];
  const stop = performance.now() + 1000 * seconds;
  while (performance.now() < stop) {
    times.push(await new Promise(requestAnimationFrame));
    if (stepS) view.pan(stepS);
  }
  return times;
}
"""


def main() -> int:
    """Measure and report."""
    options = read_options(__doc__)
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no Chromium: scripts/install-servers")
    turn_s = 4.0 if options.is_quick else TURN_S
    n_turns = 1 if options.is_quick else N_TURNS
    n_pages = 5 if options.is_quick else N_PAGES
    with tempfile.TemporaryDirectory(prefix="neurrate-bench-") as name, _browser(chromium) as open_:
        rows, figures = _live(Path(name), open_, turn_s, n_turns, n_pages)
        more_rows, more_figures = _hour(
            Path(name), open_, HOUR_S // (30 if options.is_quick else 1), options
        )
    parameters = {
        "pages": n_pages,
        "turns": n_turns,
        "turn_s": turn_s,
        "units_of_the_hour": N_UNITS,
    }
    result = Result(
        "dashboard", parameters, {"frame_ms": 1000 / 60}, rows + more_rows, figures + more_figures
    )
    return report(result, options)


def _live(
    folder: Path, open_: Any, turn_s: float, n_turns: int, n_pages: int
) -> tuple[list[MeasuredRow], list[Figure]]:
    """Narrate in real time, with and without pages."""
    seconds = MARGIN_S + 2 * n_turns * (turn_s + WARM_S) + turn_s
    plan = prepare(folder, DemoRequest(seconds=seconds))
    without: list[NDArray[np.float64]] = []
    with_pages: list[NDArray[np.float64]] = []
    memory_mb = []
    with running(plan, folder / "trial") as trial:
        arguments = ["dashboard", "--connect", trial.publish, "--port", "0"]
        with Child("dashboard", arguments, folder) as dashboard:
            address = dashboard.addresses(deadline_s=START_S)["page"]
            server = psutil.Process(dashboard.pid)
            for _ in range(n_turns):
                without.append(_latencies(trial, turn_s))
                with _pages(address, n_pages):
                    with_pages.append(_latencies(trial, turn_s))
                    memory_mb.append(server.memory_info().rss / 1e6)
            shown = _shown_ms(trial, open_(address), turn_s)
        trial.ask_to_stop()
        for _ in trial.received():
            pass
        trial.wait().check_spikes()
    rows = [
        row(PAGES, "nobody looks", _ns(np.concatenate(without))),
        row(PAGES, f"{n_pages} pages, one more stalled", _ns(np.concatenate(with_pages))),
        row(PAGE, "published to shown", _ns(shown)),
    ]
    pairs = list(zip(with_pages, without, strict=True))
    ratios = {
        f"latency p{q}, with pages / without": np.array(
            [np.percentile(one, q) / np.percentile(other, q) for one, other in pairs]
        )
        for q in (50, 95, 99)
    }
    figures = [figure(PAGES, name, values) for name, values in ratios.items()]
    figures.append(figure(PAGES, "memory of the server, MB", np.array(memory_mb)))
    figures.append(figure(PAGE, "p95 / 200 ms", np.array([np.percentile(shown, 95) / 200])))
    return rows, figures


def _latencies(trial: Trial, seconds: float) -> NDArray[np.float64]:
    """Return the total latencies of some seconds, after some that are left out, milliseconds."""
    narrations = _narrations(trial, WARM_S + seconds)
    begin_ns = narrations[0].stamps.published + round(WARM_S * 1e9)
    return np.array(
        [latency_ms(one.stamps)["total"] for one in narrations if one.stamps.published >= begin_ns]
    )


def _narrations(trial: Trial, seconds: float) -> list[Narration]:
    deadline = time.monotonic() + seconds
    found: list[Narration] = []
    for messages in trial.received():
        found += [one.value for one in messages if isinstance(one.value, Narration)]
        if time.monotonic() >= deadline:
            break
    if not found:
        sys.exit(f"no narration in {seconds:g} s")
    return found


def _shown_ms(trial: Trial, page: Any, seconds: float) -> NDArray[np.float64]:
    """Return how long after it was published each sentence was on the page, milliseconds."""
    page.wait_for_function("() => document.querySelector('#lead .sentence')")
    page.evaluate(WATCH)
    published = {one.id: one.stamps.published for one in _narrations(trial, seconds)}
    wall_less_host_ns = time.time_ns() - time.monotonic_ns()
    drawn = dict(page.evaluate("window.drawn"))
    page.close()
    both = [
        at_ms - (published[name] + wall_less_host_ns) / 1e6
        for name, at_ms in drawn.items()
        if name in published
    ]
    if not both:
        sys.exit("the page showed none of the narrations")
    return np.array(both)


def _hour(
    folder: Path, open_: Any, seconds: int, options: Options
) -> tuple[list[MeasuredRow], list[Figure]]:
    """Fill a server's history and scroll through it."""
    with zmq.Context() as context:
        publisher = Publisher(context, "tcp://127.0.0.1:*", queue_messages=100_000)
        arguments = ["dashboard", "--connect", publisher.address, "--port", "0"]
        with Child("history", arguments, folder) as dashboard:
            address = dashboard.addresses(deadline_s=START_S)["page"]
            time.sleep(1.0)  # for its subscriptions
            publisher.serve()
            _publish_hour(publisher, seconds, options.seed)
            page = open_(address)
            page.wait_for_function(f"() => window.neurrate.store.head > {seconds - 1}")
            page.click("[data-span='600']")
            page.keyboard.press("Home")
            still = _frame_ms(page, 2.0 if options.is_quick else SCROLL_S, 0.0)
            step_s = seconds / (60 * SCROLL_S)
            moving = _frame_ms(page, 2.0 if options.is_quick else SCROLL_S, step_s)
            memory_mb = psutil.Process(dashboard.pid).memory_info().rss / 1e6
            page.close()
        publisher.close()
    rows = [row(HOUR, "lies still", _ns(still)), row(HOUR, "scrolls", _ns(moving))]
    return rows, [
        figure(HOUR, "frames a second, scrolling", np.array([1000 / moving.mean()])),
        figure(
            HOUR, "time of a frame, scrolling / still", np.array([moving.mean() / still.mean()])
        ),
        figure(HOUR, "memory of the server, MB", np.array([memory_mb])),
    ]


def _publish_hour(publisher: Publisher, seconds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(round(seconds / STEP_S)):
        start_s = number * STEP_S
        column = Rates(
            seq=number,
            host_ns=time.monotonic_ns(),
            fingerprint="0123456789abcdef",
            start_s=start_s,
            stop_s=start_s + STEP_S,
            n_gap_bins=0,
            populations_hz=dict.fromkeys(POPULATIONS, 8.0),
            unit_step=1,
            unit_counts=rng.poisson(2.0, N_UNITS).tolist(),
        )
        publisher.publish(pack_rates(column))
        if number % 20 == 0:
            time.sleep(0.01)  # so that the server's queue does not overflow


def _frame_ms(page: Any, seconds: float, step_s: float) -> NDArray[np.float64]:
    times = page.evaluate(FRAMES, [seconds, step_s])
    return np.diff(np.asarray(times, dtype=np.float64))


@contextmanager
def _browser(path: str) -> Iterator[Any]:
    """Yield a function that opens an address in a page of desktop size."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def opened(address: str) -> Any:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(address)
            return page

        yield opened
        browser.close()


@contextmanager
def _pages(address: str, n: int) -> Iterator[None]:
    """Read the events of a page `n` times in another process, and once more without reading."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_read_pages, args=(address, n), daemon=True)
    process.start()
    yield
    process.terminate()
    process.join()


def _read_pages(address: str, n: int) -> None:
    asyncio.run(_read_all(address, n))


async def _read_all(address: str, n: int) -> None:
    parts = urlsplit(address)
    request = f"GET /events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

    async def read(*, reads: bool) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 16)
        writer.write(request)
        while reads and await reader.read(1 << 16):
            pass
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        for number in range(n + 1):
            group.create_task(read(reads=number > 0))


def _ns(ms: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.round(ms * 1e6).astype(np.int64)


if __name__ == "__main__":
    sys.exit(main())
