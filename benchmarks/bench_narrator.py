"""How fast windows are narrated, against the plain way and against the limits of the machine.

    python -m benchmarks.bench_narrator
    python -m benchmarks.bench_narrator --threads 2
    python -m benchmarks.bench_narrator --gpu        (on a machine with an NVIDIA GPU)
    python -m benchmarks.bench_narrator --quick      (seconds; for tests)

What bounds it
--------------
A sentence is a prompt that is read once, hundreds of image tokens whose matrix products take the
time, and then some twenty tokens generated one after the other. Each of those reads every weight
once, however many rows are generated together, so memory is the bound: "bound" is the operations
of the prompts over the machine's best product of float32 matrices, plus the bytes of the weights,
for each token after the first, over the machine's best reading speed, both measured in turn with
the decoder. Each row also reads its own keys and values; "bound, cache too" adds those bytes.
Prompts are read as many at once as the narrator reads. All of these are processor time.

"plain" is what the public code does: one frame at a time through processor, vision tower and
``generate``. "generate, batched" hands the same patches for all populations at once to
``generate``. "ours" is the daemon's narrator. Their texts must agree or the benchmark stops.
Latency is that of each narration from the start of its window.

"joins" against "one by one": windows of two populations come faster than they are narrated; the
newest is taken while others are being generated, or only when the narrator is idle.

With ``--gpu``: `LlavaForConditionalGeneration` of the exact size of llava-1.5-7b, random weights in
bfloat16 made on the device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
import torch  # noqa: TID253 - a contender
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.narrator_baseline import CpuContenders
from benchmarks.narrator_models import (
    SEVEN,
    SHIPPED,
    SHIPPED_GRID,
    SIZES,
    TOY,
    Size,
    cache_bytes,
    decoder_of,
    n_weights,
    prompt_operations,
)
from benchmarks.record import Options, Result, read_options, report
from daemon.narrators.llava.engine import Decoder, Engine, max_prefill
from daemon.narrators.llava.onnx_decoder import OnnxDecoder
from daemon.narrators.llava.tokens import GreedyChoice

N_ROWS = (1, 2, 4, 8, 16)
SIDE = 1_024
READ_BYTES = 1 << 28
"""Far beyond any cache."""

N_TURNS = {"tiny": 60, "65M": 5, "135M": 3, "toy": 3}
CPU_TURNS = {1: 16, 2: 10, 4: 8, 8: 6, 16: 4}
JOIN_SECONDS = {"tiny": 3.0, "65M": 10.0, "toy": 0.2}
JOIN_POPULATIONS = 2
JOIN_ROWS = 16


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__, _add_options)
    torch.set_num_threads(options.more["threads"])
    run = _on_gpu if options.more["gpu"] else _on_cpu
    with torch.inference_mode():
        result = run(options)
    return report(result, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--gpu", action="store_true", help="measure an NVIDIA GPU instead")


def _on_cpu(options: Options) -> Result:
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    limits: dict[str, float] = {}
    n_rows = N_ROWS[:2] if options.is_quick else N_ROWS
    baseline = CpuContenders(options.more["threads"])
    for n in n_rows:
        _time_contenders(baseline, n, 2 if options.is_quick else CPU_TURNS[n], rows, figures)
    for size in (TOY,) if options.is_quick else SIZES:
        _compare_with_bound(size, n_rows, options, rows, figures, limits)
    for size in (TOY,) if options.is_quick else SIZES[:2]:
        _join(size, options, rows, figures)
    return Result(
        benchmark="narrator",
        parameters={
            "threads": options.more["threads"],
            "sizes": {size.name: size.config for size in SIZES},
            "prompt_length": {size.name: size.prompt_length for size in SIZES},
            "n_tokens": {size.name: size.n_tokens for size in SIZES},
            "patches": [SHIPPED_GRID.rows, SHIPPED_GRID.cols, SHIPPED_GRID.dim],
            "model": f"simulation/weights/{SHIPPED.name}",
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        limits=limits,
        rows=rows,
        figures=figures,
    )


def _on_gpu(options: Options) -> Result:
    from benchmarks.narrator_gpu import VISION, VISION_TOY, GpuContenders, measure

    is_toy = options.is_quick
    if not is_toy and not torch.cuda.is_available():
        sys.exit("--gpu needs an NVIDIA GPU, and torch sees none")
    size = TOY if is_toy else SEVEN
    model = GpuContenders(
        size,
        device="cpu" if is_toy else "cuda",
        seed=options.seed,
        max_rows=2 if is_toy else max(N_ROWS),
        vision=VISION_TOY if is_toy else VISION,
    )
    rows, figures, limits = measure(model, N_ROWS[:2] if is_toy else N_ROWS, 2 if is_toy else 10)
    return Result(
        benchmark="narrator_gpu",
        parameters={
            "gpu": "none, for a test" if is_toy else torch.cuda.get_device_name(),
            "size": size.config,
            "prompt_length": size.prompt_length,
            "n_tokens": size.n_tokens,
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        limits=limits,
        rows=rows,
        figures=figures,
    )


def _time_contenders(
    baseline: CpuContenders, n: int, n_turns: int, rows: list[MeasuredRow], figures: list[Figure]
) -> None:
    """Give the same frames to each contender in turn; who goes first rotates."""
    case = f"{n} populations" if n > 1 else "1 population"
    order = list(baseline.contenders)
    latencies: dict[str, list[list[int]]] = {name: [] for name in order}
    for turn in range(n_turns + 1):  # the first warms up
        texts_by = {}
        for name in order:
            texts, took = baseline.contenders[name](turn, n)
            texts_by[name] = texts
            if turn:
                latencies[name].append(took)
        baseline.agree(texts_by)
        order = [*order[1:], order[0]]
    per_s = {name: np.array([n / took[-1] * 1e9 for took in each])
             for name, each in latencies.items()}  # fmt: skip
    median = {name: np.array([np.median(took) for took in each])
              for name, each in latencies.items()}  # fmt: skip
    for name, each in latencies.items():
        rows.append(row(case, name, np.array(each).ravel()))
        figures.append(figure(case, f"{name}, narrations/s", per_s[name]))
    for name in latencies:
        if name != "ours":
            figures += [
                figure(case, f"ours / {name}, narrations/s", per_s["ours"] / per_s[name]),
                figure(case, f"ours / {name}, latency", median["ours"] / median[name]),
            ]


def _compare_with_bound(
    size: Size,
    n_rows: Sequence[int],
    options: Options,
    rows: list[MeasuredRow],
    figures: list[Figure],
    limits: dict[str, float],
) -> None:
    """Time prompts and steps in turn with the memory and the product of matrices."""
    decoder = decoder_of(size, seed=options.seed, max_rows=max(n_rows))
    took = _take_turns(_timed(decoder, size, n_rows), N_TURNS[size.name])
    bandwidth = READ_BYTES / took.pop("read") * 1e9
    flop_per_s = 2 * SIDE**3 / took.pop("product") * 1e9
    inner, length = size.config["intermediate_size"], size.prompt_length
    weights = n_weights(decoder.shape, inner) * decoder.cache.element_size()
    cache = cache_bytes(decoder.shape, length, decoder.cache.element_size())
    least_prompt = prompt_operations(decoder.shape, inner, length) / flop_per_s * 1e9
    case = f"{size.name} float32"
    rows.append(row(case, "prompt", took["prompts, 1"]))
    figures.append(figure(case, "bound / prompt", least_prompt / took["prompts, 1"]))
    n_after = size.n_tokens - 1
    for n in n_rows:
        step = took[f"step, {n}"].astype(np.float64)
        rows.append(row(case, f"step, {n} rows", step.astype(np.int64)))
        least_step = weights / bandwidth * 1e9
        with_cache = (weights + n * cache) / bandwidth * 1e9
        n_at_once = min(n, max_prefill("cpu", length))
        whole = n / n_at_once * took[f"prompts, {n_at_once}"] + n_after * step
        figures += [
            figure(case, f"bound / step, {n} rows", least_step / step),
            figure(
                case, f"bound / ours, {n} rows", (n * least_prompt + n_after * least_step) / whole
            ),
            figure(
                case,
                f"bound, cache too / ours, {n} rows",
                (n * least_prompt + n_after * with_cache) / whole,
            ),
            figure(case, f"narrations/s, {n} rows", n / whole * 1e9),
        ]
    limits |= {
        f"{case}: read_bytes_per_s": float(np.median(bandwidth)),
        f"{case}: product_flop_per_s": float(np.median(flop_per_s)),
        f"{case}: weights_bytes": float(weights),
        f"{case}: prompt_gflop": prompt_operations(decoder.shape, inner, length) / 1e9,
        f"{case}: cache_bytes_a_row": float(cache),
    }


def _timed(
    decoder: OnnxDecoder, size: Size, n_rows: Sequence[int]
) -> dict[str, Callable[[], object]]:
    read = torch.ones(READ_BYTES // 4)
    matrix = torch.randn(SIDE, SIDE)
    position = size.prompt_length + size.n_tokens // 2

    def prompts(n: int) -> Callable[[], object]:
        embedded = torch.randn(n, size.prompt_length, size.config["hidden_size"])
        return lambda: decoder.prefill(embedded, 0)

    def step(n: int) -> Callable[[], object]:
        return lambda: decoder.step([5] * n, [position] * n, 0)

    most = max_prefill("cpu", size.prompt_length)

    return {
        "read": read.sum,
        "product": lambda: matrix @ matrix,
        **{f"prompts, {n}": prompts(n) for n in sorted({min(n, most) for n in n_rows})},
        **{f"step, {n}": step(n) for n in n_rows},
    }


def _take_turns(
    calls: dict[str, Callable[[], object]], n_turns: int
) -> dict[str, NDArray[np.int64]]:
    """Return what each call took of the processor's time: other programs may use it in between."""
    took = {name: np.empty(n_turns, dtype=np.int64) for name in calls}
    for call in calls.values():
        call()
    for turn in range(n_turns):
        for name, call in calls.items():
            started_ns = time.process_time_ns()
            call()
            took[name][turn] = time.process_time_ns() - started_ns
    return took


def _join(size: Size, options: Options, rows: list[MeasuredRow], figures: list[Figure]) -> None:
    """Narrate the newest window, with and without others under way."""
    decoder = decoder_of(size, seed=options.seed, max_rows=JOIN_ROWS)
    rng = np.random.default_rng(options.seed)
    shape = (size.prompt_length, size.config["hidden_size"])
    grids = [rng.normal(size=shape).astype(np.float32) for _ in range(JOIN_POPULATIONS)]
    case = f"{size.name}, windows of {JOIN_POPULATIONS}"
    period_ns = _alone_ns(decoder, size, grids) // 4
    per_s, ages = {}, {}
    for name, most in (("one by one", 1), ("joins, 2 windows", 2), ("joins, 4 windows", 4)):
        rate, age = _saturate(
            _engine(decoder, size), grids, most, period_ns, JOIN_SECONDS[size.name]
        )
        per_s[name], ages[name] = rate, age
        rows.append(row(case, name, age))
    for name in per_s:
        figures.append(figure(case, f"{name}, windows/s", np.array([per_s[name]])))
        if name != "one by one":
            figures += [
                figure(case, f"{name} / one by one, windows/s",
                       np.array([per_s[name] / per_s["one by one"]])),
                figure(case, f"{name} / one by one, age",
                       np.array([np.median(ages[name]) / np.median(ages["one by one"])])),
            ]  # fmt: skip


def _engine(decoder: Decoder, size: Size) -> Engine:
    from transformers import GenerationConfig

    return Engine(
        decoder,
        torch.from_numpy,
        GreedyChoice(GenerationConfig(), "cpu"),
        prompt_length=size.prompt_length,
        max_new_tokens=size.n_tokens,
    )


def _alone_ns(decoder: Decoder, size: Size, grids: list[NDArray[np.float32]]) -> int:
    engine = _engine(decoder, size)
    for _ in range(2):
        started_ns = time.perf_counter_ns()
        engine.begin(0, grids)
        while engine.n_rows:
            engine.step()
    return time.perf_counter_ns() - started_ns


def _saturate(
    engine: Engine,
    grids: list[NDArray[np.float32]],
    most: int,
    period_ns: int,
    seconds: float,
) -> tuple[float, NDArray[np.int64]]:
    """Return windows narrated a second, and the age in ns of each when it ended.

    A window arrives every `period_ns`; the newest is begun when fewer than `most` are under way.
    After so many seconds none is begun, and those under way are finished.
    """
    started_ns = now = time.perf_counter_ns()
    last = -1
    pending: dict[int, int] = {}
    arrived: dict[int, int] = {}
    ages: list[int] = []
    while (is_open := now - started_ns < seconds * 1e9) or pending:
        newest = (now - started_ns) // period_ns
        if is_open and newest > last and len(pending) < most:
            engine.begin(newest, grids)
            pending[newest], last = len(grids), newest
            arrived[newest] = started_ns + newest * period_ns
        for one in engine.step():
            if one.end:
                pending[one.batch_id] -= 1
                if not pending[one.batch_id]:
                    del pending[one.batch_id]
                    ages.append(time.perf_counter_ns() - arrived[one.batch_id])
        now = time.perf_counter_ns()
    return len(ages) / (now - started_ns) * 1e9, np.array(ages, dtype=np.int64)


if __name__ == "__main__":
    sys.exit(main())
