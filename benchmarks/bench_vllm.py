"""The overhead of a vLLM server: back-ends vllm and llava with the same tiny model.

    python -m benchmarks.bench_vllm --url http://127.0.0.1:8000 --served tiny-llava

against a running server: docs/vllm.md, "What has been tried, and on what", starts one.

What bounds it
--------------
With two million weights the arithmetic of a token takes a tenth of a millisecond, so this measures
the overhead: the projector, base64 and JSON, HTTP, vLLM's processes and their queues, and an event
for each token. For a 7B model on a GPU a token takes milliseconds, and the same overhead is small
beside it.

Both narrate the same windows in turns, in float32, and must return the same text. The server shares
the processor with the client.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import closing

import httpx2
import numpy as np

from benchmarks.measure import Figure, MeasuredRow, figure, row
from benchmarks.narrator_models import SHIPPED, SHIPPED_GRID, shipped_manifest
from benchmarks.record import Options, Result, read_options, report, stop
from contracts.embedding import PatchEmbedding
from contracts.window import Window
from daemon.narrators.auto import load_narrator
from daemon.narrators.protocol import Narrator, narrate
from daemon.narrators.vllm.narrator import VllmNarrator
from daemon.service.settings import NarratorSettings, VllmSettings

BATCHES = (1, 8)
N_ROUNDS = 5
N_TURNS = 12
"""Windows of a round."""

MAX_NEW_TOKENS = 24


def main() -> int:
    """Measure, print and return the exit code."""
    options = read_options(__doc__, _add_options)
    return report(_measure(options, options.more["url"]), options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="of a running vLLM server")
    parser.add_argument(
        "--served", default="tiny-llava", help="its name for simulation/weights/tiny-llava"
    )


def _measure(options: Options, url: str) -> Result:
    manifest = shipped_manifest()
    rng = np.random.default_rng(options.seed)
    n_rounds, n_turns = (2, 2) if options.is_quick else (N_ROUNDS, N_TURNS)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    settings = NarratorSettings(
        model=str(SHIPPED), dtype="float32", device="cpu", max_new_tokens=MAX_NEW_TOKENS
    )
    llava = load_narrator(settings, manifest)
    vllm = VllmNarrator(
        str(SHIPPED),
        revision="",
        manifest=manifest,
        settings=settings,
        vllm=VllmSettings(urls=(url,), model=options.more["served"]),
    )
    with closing(vllm):
        for n in BATCHES:
            windows = [_embeddings(rng, n) for _ in range(n_rounds * n_turns)]
            durations_ns = _take_turns({"llava": llava, "vllm": vllm}, windows)
            by_round = {
                name: each.reshape(n_rounds, n_turns) for name, each in durations_ns.items()
            }
            rows += [row(f"{n} a window", name, each) for name, each in durations_ns.items()]
            medians = {name: np.median(each, axis=1) for name, each in by_round.items()}
            figures += [
                figure(f"{n} a window", f"{name}, narrations/s", n / (each / 1e9))
                for name, each in medians.items()
            ]
            figures.append(
                figure(f"{n} a window", "vllm / llava", medians["vllm"] / medians["llava"])
            )
    parameters = {"max_new_tokens": MAX_NEW_TOKENS, "batches": list(BATCHES), "dtype": "float32"}
    return Result("vllm", parameters, {"http_round_trip_s": _round_trip_s(url)}, rows, figures)


def _round_trip_s(url: str) -> float:
    """Return the shortest round trip to the server: the median of its health page."""
    durations_s = []
    with httpx2.Client() as client:
        for _ in range(50):
            started_s = time.perf_counter()
            client.get(f"{url}/health")
            durations_s.append(time.perf_counter() - started_s)
    return float(np.median(durations_s))


def _embeddings(rng: np.random.Generator, n: int) -> list[PatchEmbedding]:
    spec = shipped_manifest().window_spec
    window = Window(spec=spec, first_bin=0, counts=np.zeros((spec.n_bins, 1), np.uint16))
    shape = (SHIPPED_GRID.n_patches, SHIPPED_GRID.dim)
    return [
        PatchEmbedding(
            window, f"p{i}", 1, SHIPPED_GRID, (2 * rng.normal(size=shape)).astype(np.float32)
        )
        for i in range(n)
    ]


def _take_turns(
    narrators: Mapping[str, Narrator], windows: list[list[PatchEmbedding]]
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Give every window to both narrators in turns; stop if their texts differ."""
    order = list(narrators.items())
    durations_ns = {name: np.empty(len(windows), np.int64) for name in narrators}
    for i, embeddings in enumerate(windows):
        texts = {}
        for name, narrator in order:
            started_ns = time.perf_counter_ns()
            texts[name] = [narration.text for narration in narrate(narrator, embeddings)]
            durations_ns[name][i] = time.perf_counter_ns() - started_ns
        if len({tuple(sentences) for sentences in texts.values()}) != 1:
            stop(f"{texts}")
        order = [*order[1:], order[0]]
    return durations_ns


if __name__ == "__main__":
    sys.exit(main())
