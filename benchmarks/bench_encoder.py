"""How long it takes to encode a window: each runtime against the machine's own matrix product.

    python -m benchmarks.bench_encoder
    python -m benchmarks.bench_encoder --threads 2
    python -m benchmarks.bench_encoder --architecture evidence
    python -m benchmarks.bench_encoder --gpu        (on a machine with an NVIDIA GPU)
    python -m benchmarks.bench_encoder --quick      (seconds; for tests)

What bounds it
--------------
The paper's encoder at 2,000 units takes 4.9 GFLOP a window, nearly all of them products of
matrices in the transformer over 576 patches. "roofline" is the time in which the machine would do
as many operations in one product of 1,024 x 1,024 matrices, with torch's own library, timed in
turn with the contenders. Operations are counted by torch's ``FlopCounterMode`` (a multiplication
and an addition are two), on the network as it is; the weights are 50 MB in float32, whose reading
takes a thirtieth of that time at the memory's speed; on a GPU it weighs more. The evidence encoder
at the same size, with 1,024 anchors and 256 components, takes 0.3 GFLOP a window, and its weights
are 240 MB: one window at a time is bound by the memory.

The contenders take turns, call by call, on the same windows, and must agree. "ORT" is what the
daemon runs (`daemon.encoders.onnx.OnnxGraph`), with the graph that ``neurrate export`` writes.
torch runs the network itself, eager (with its fused transformer layers) and compiled by inductor,
which needs a C++ compiler.

With ``--gpu``: TensorRT in float32 and float16, ORT on CUDA and torch in both, copies from and to
the host included; product and copy of the GPU are measured beside them. The float32 products of
torch and ORT may use TF32, as their defaults say; TensorRT's do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - a contender
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: TID253 - as above
from torch.utils.flop_counter import FlopCounterMode  # noqa: TID253 - as above

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.record import Options, Result, read_options, report, stop
from contracts.binning import BinRate
from contracts.embedding import PatchGrid
from contracts.errors import NeurrateError
from contracts.manifest import ENCODER_FLOAT32, ENCODER_ONNX, LanguageModel, Manifest, TrainingData
from contracts.population import Population, Unit
from contracts.window import WindowSpec
from daemon.encoders.onnx import OnnxGraph
from encoder_export.bundle import BundleFacts, write_bundle
from encoder_export.onnx_graph import CountEncoder, Precision
from encoder_training.data_set.training_set import Scaling
from encoder_training.evaluation.frame_space import MAX_COMPONENTS
from encoder_training.evidence.anchors import MAX_ANCHORS
from encoder_training.evidence.fitting import sizes_for
from encoder_training.evidence.network import EvidenceEncoder
from encoder_training.evidence.poisson import PARTS
from encoder_training.model import EncoderSpec, PatchEncoder

N_UNITS = 2_000
N_BINS = 20
BATCHES = (1, 8)
SIDE = 1_024
"""Of the matrices whose product is the roofline: 4 MB each, as the encoder's largest."""

GPU_SIDE = 8_192
N_TURNS = {1: 60, 8: 12}
N_TURNS_GPU = 300
N_TURNS_QUICK = 3
N_WARM = 2

ROOFLINE, EAGER, COMPILED = "roofline", "torch eager float32", "torch.compile float32"
ORT, ORT_INT8 = "ORT float32", "ORT int8"

MAX_ERROR = {"float32": 1e-3, "float16": 0.05, "int8": 0.2}
"""Of a contender's grid, relative to torch's: length of the difference over length."""

Contender = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EncoderCase:
    """One size of batch: windows, and the operations that they take."""

    name: str
    counts: NDArray[np.float32]
    mask: NDArray[np.float32]
    n_flop: int


def main() -> int:
    """Run the benchmark and return its exit code."""
    options = read_options(__doc__, _add_options)
    threads = options.more["threads"]
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(options.seed)
        make = _evidence if options.more["architecture"] == "evidence" else PatchEncoder
        encoder = make(_spec(is_quick=options.is_quick)).eval()
        model = CountEncoder(encoder, _scaling(encoder.spec.n_units)).eval()
        cases = [_case(model, n, options.seed) for n in BATCHES]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        run = _on_gpu if options.more["gpu"] else _on_cpu
        result = run(Path(folder), model, cases, options)
    return report(result, options)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=1, help="of each runtime on a CPU")
    parser.add_argument("--architecture", choices=("neurrator", "evidence"), default="neurrator")
    parser.add_argument("--gpu", action="store_true", help="measure an NVIDIA GPU instead")


def _on_cpu(
    folder: Path, model: CountEncoder, cases: list[EncoderCase], options: Options
) -> Result:
    threads = options.more["threads"]
    contenders: dict[str, Contender] = {EAGER: _torch_run(model)}
    notes = {}
    try:
        contenders[COMPILED] = _compiled(model, cases, is_quick=options.is_quick)
    except _LeftOutError as error:
        notes[COMPILED] = f"left out: {error}"
    manifest = _bundle(folder / "int8", model, "int8")  # with a float32 graph beside it
    contenders[ORT] = OnnxGraph(manifest, threads=threads, file_name=ENCODER_FLOAT32).run
    contenders[ORT_INT8] = OnnxGraph(manifest, threads=threads).run
    for case in cases:
        _agree(case, contenders)
    matrix = torch.randn(SIDE, SIDE)
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    best_flop_per_s = 0.0
    for case in cases:
        n_turns = N_TURNS_QUICK if options.is_quick else N_TURNS[len(case.counts)]
        took = _take_turns(case, contenders, lambda: matrix @ matrix, n_turns)
        product = took.pop(ROOFLINE)
        roofline = (product * (case.n_flop / (2 * SIDE**3))).astype(np.int64)
        best_flop_per_s = max(best_flop_per_s, 2 * SIDE**3 / float(product.min()) * 1e9)
        rows.append(row(case.name, ROOFLINE, roofline))
        rows += [row(case.name, name, each) for name, each in took.items()]
        figures += [
            *(figure(case.name, f"{name} / {ROOFLINE}", each / roofline)
              for name, each in took.items()),
            *(figure(case.name, f"{name} / {ORT}", each / took[ORT])
              for name, each in took.items() if name != ORT),
        ]  # fmt: skip
    return Result(
        # The budgets are for the paper's encoder, which is bound by its products.
        benchmark="encoder" if options.more["architecture"] == "neurrator" else "evidence encoder",
        parameters=_parameters(model, is_gpu=False) | {"threads": threads} | notes,
        limits={
            "matrix_product_flop_per_s": best_flop_per_s,
            "copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick),
            **{f"gflop, {case.name}": case.n_flop / 1e9 for case in cases},
            "weights_bytes": float(_weights_bytes(model)),
        },
        rows=rows,
        figures=figures,
    )


def _on_gpu(
    folder: Path, model: CountEncoder, cases: list[EncoderCase], options: Options
) -> Result:
    """Measure TensorRT, ORT on CUDA and torch, each from and to the host's memory."""
    from daemon.encoders.tensorrt import TensorrtGraph
    from daemon.encoders.tensorrt_build import find_gpu

    try:
        gpu = find_gpu()
        contenders: dict[str, Contender] = {}
        for precision in ("float32", "float16"):
            manifest = _bundle(folder / precision, model, precision)
            graph = TensorrtGraph(manifest, opt_batch=BATCHES[-1])
            contenders[f"TensorRT {precision}"] = graph.run
            contenders[f"ORT CUDA {precision}"] = OnnxGraph(manifest, device="cuda").run
            contenders[f"torch {precision}"] = _torch_on_gpu(model, precision)
    except NeurrateError as error:
        sys.exit(f"a GPU was asked for, and {error}")
    for case in cases:
        _agree(case, {EAGER: _torch_run(model), **contenders})
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    reference = "TensorRT float32"
    n_turns = N_TURNS_QUICK if options.is_quick else N_TURNS_GPU
    for case in cases:
        took = _take_turns(case, contenders, torch.cuda.synchronize, n_turns)
        took.pop(ROOFLINE)
        rows += [row(case.name, name, each) for name, each in took.items()]
        figures += [
            figure(case.name, f"{name} / {reference}", each / took[reference])
            for name, each in took.items()
            if name != reference
        ]
    limits: dict[str, float] = {
        f"{dtype}_product_flop_per_s": _gpu_product(getattr(torch, dtype))
        for dtype in ("float32", "float16")
    }
    limits["gpu_copy_bytes_per_s"] = _gpu_copy()
    limits["weights_bytes, float32"] = float(_weights_bytes(model))
    for case in cases:
        n_bytes = case.counts.nbytes + case.mask.nbytes + _grid_bytes(model, len(case.counts))
        limits[f"gflop, {case.name}"] = case.n_flop / 1e9
        limits[f"bytes to and from the host, {case.name}"] = float(n_bytes)
    return Result(
        benchmark="encoder_gpu",
        parameters=_parameters(model, is_gpu=True)
        | {"gpu": gpu.name, "capability": gpu.compute_capability},
        limits=limits,
        rows=rows,
        figures=figures,
    )


def _spec(*, is_quick: bool) -> EncoderSpec:
    if is_quick:
        tiny = EncoderSpec.tiny(40, PatchGrid(rows=4, cols=4, dim=32))
        return replace(tiny, time_layers=1, patch_layers=1)  # tracing takes a time for each
    return EncoderSpec(N_UNITS)


def _evidence(spec: EncoderSpec) -> EvidenceEncoder:
    """Return an encoder of the largest sizes, its closed forms random."""
    n_latents = min(MAX_COMPONENTS, spec.grid.n_patches)
    sizes = sizes_for(
        spec, n_bins=N_BINS, n_parts=max(PARTS), n_anchors=MAX_ANCHORS, n_latents=n_latents
    )
    encoder = EvidenceEncoder(spec, sizes)
    loads = torch.randn(spec.n_units, sizes.n_gaussian) / spec.n_units**0.5
    precision = loads[:, :, None] * loads[:, None, :]
    encoder.gaussian_precision.copy_(precision.flatten(1))
    encoder.gaussian_gain.copy_(loads.repeat(sizes.n_parts, 1))
    for buffer in (encoder.poisson_gain, encoder.poisson_offset, encoder.anchors):
        buffer.normal_(std=spec.n_units**-0.5)
    encoder.patch_mean.normal_()
    encoder.trust.weight.normal_()
    return encoder


def _scaling(n_units: int) -> Scaling:
    """Return rates of 0.5 to 30 spikes a second, and their Poisson standard deviation."""
    mean = (np.geomspace(0.5, 30, n_units) / 120).astype(np.float32)
    return Scaling(mean, np.sqrt(mean))


def _case(model: CountEncoder, n: int, seed: int) -> EncoderCase:
    rng = np.random.default_rng([seed, n])
    mean = model.mean.numpy()
    counts = rng.poisson(mean, (n, N_BINS, len(mean))).astype(np.float32)
    mask = np.ones((n, len(mean)), np.float32)
    counter = FlopCounterMode(display=False)
    # As plain products: the counter knows no fused attention on a CPU.
    with counter, _plain(), sdpa_kernel(SDPBackend.MATH):
        model(torch.from_numpy(counts), torch.from_numpy(mask))
    return EncoderCase(f"batch {n}", counts, mask, counter.get_total_flops())


@contextmanager
def _plain() -> Iterator[None]:
    """Keep torch off its fused layers, whose operations the counter does not see."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _torch_run(model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Contender:
    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        grids: NDArray[np.float32] = model(torch.from_numpy(counts), torch.from_numpy(mask)).numpy()
        return grids

    return run


class _LeftOutError(Exception):
    """A contender cannot take part here."""


def _compiled(model: CountEncoder, cases: list[EncoderCase], *, is_quick: bool) -> Contender:
    """Compile for each size of batch, before anything is timed.

    Raises
    ------
    _LeftOutError
        If inductor cannot compile here.
    """
    if is_quick:
        raise _LeftOutError("compiling takes longer than a quick run")
    with _plain():  # inductor fuses for itself
        run = _torch_run(torch.compile(model, dynamic=False))
        try:
            for case in cases:
                run(case.counts, case.mask)
        except Exception as error:  # whatever a compiler can say
            first_line = (str(error).splitlines() or [""])[0]
            raise _LeftOutError(f"{type(error).__name__}: {first_line}") from error
    return run


def _torch_on_gpu(model: CountEncoder, precision: str) -> Contender:
    import copy

    dtype = getattr(torch, precision)
    encoder = copy.deepcopy(model.encoder).to_precision(dtype).to("cuda")
    scaling = Scaling(model.mean.numpy(), model.std.numpy())
    on_gpu = CountEncoder(encoder, scaling).to("cuda").eval()

    def run(counts: NDArray[np.float32], mask: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = (torch.from_numpy(each).to("cuda") for each in (counts, mask))
        grids: NDArray[np.float32] = on_gpu(*inputs).cpu().numpy()
        return grids

    return run


def _bundle(folder: Path, model: CountEncoder, precision: Precision) -> Manifest:
    n_units = len(model.mean)
    facts = BundleFacts(
        population=Population([Unit(unit_id=str(row)) for row in range(n_units)]),
        scaling=Scaling(model.mean.numpy(), model.std.numpy()),
        window=WindowSpec(BinRate(120), n_bins=N_BINS, stride_bins=N_BINS),
        language_model=LanguageModel(model_id="none"),
        training_data=TrainingData(recording="benchmark"),
        trained=False,
        command="benchmarks",
        scores={},
    )
    encoder = model.encoder
    with torch.inference_mode(False):
        return write_bundle(folder, encoder, facts, precision=precision)


def _agree(case: EncoderCase, contenders: dict[str, Contender]) -> None:
    expected = contenders[EAGER](case.counts, case.mask).astype(np.float64)
    length = np.linalg.norm(expected)
    for name, contender in contenders.items():
        found = contender(case.counts, case.mask)
        error = np.linalg.norm(found - expected) / length
        if not error <= MAX_ERROR[name.rpartition(" ")[2]]:
            stop(f"{name} differs from {EAGER} by {error:.2g}, {case.name}")


def _take_turns(
    case: EncoderCase, contenders: dict[str, Contender], product: Callable[[], object], n_turns: int
) -> dict[str, NDArray[np.int64]]:
    """Time each contender and the product once a turn; who goes first rotates."""

    def bound(contender: Contender) -> Callable[[], object]:
        return lambda: contender(case.counts, case.mask)

    order: list[tuple[str, Callable[[], object]]] = [
        (name, bound(contender)) for name, contender in contenders.items()
    ]
    order.append((ROOFLINE, product))
    for _, call in order * N_WARM:
        call()
    durations_ns = {name: np.empty(n_turns, dtype=np.int64) for name, _ in order}
    for turn in range(n_turns):
        for name, call in order:
            started_ns = time.perf_counter_ns()
            call()
            durations_ns[name][turn] = time.perf_counter_ns() - started_ns
        order = [*order[1:], order[0]]
    return durations_ns


def _parameters(model: CountEncoder, *, is_gpu: bool) -> dict[str, Any]:
    spec = model.encoder.spec
    return {
        "n_units": spec.n_units,
        "n_bins": N_BINS,
        "patches": [spec.grid.rows, spec.grid.cols, spec.grid.dim],
        "n_parameters": sum(each.numel() for each in model.encoder.state_dict().values()),
        "graph": ENCODER_ONNX,
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime-gpu" if is_gpu else "onnxruntime"),
    }


def _weights_bytes(model: CountEncoder) -> int:
    return sum(each.numel() * each.element_size() for each in model.encoder.state_dict().values())


def _grid_bytes(model: CountEncoder, n: int) -> int:
    grid = model.encoder.spec.grid
    return n * grid.n_patches * grid.dim * 4


def _gpu_product(dtype: torch.dtype) -> float:
    matrix = torch.randn(GPU_SIDE, GPU_SIDE, device="cuda", dtype=dtype)
    return 2 * GPU_SIDE**3 / _best_s(lambda: matrix @ matrix)


def _gpu_copy() -> float:
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_s(lambda: target.copy_(source))


def _best_s(call: Callable[[], object]) -> float:
    """Return the shortest of ten calls, by the GPU's own clock, after two that warm up."""
    times_ms = []
    for turn in range(12):
        start, stop_ = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        stop_.record()
        torch.cuda.synchronize()
        if turn >= 2:
            times_ms.append(start.elapsed_time(stop_))
    return float(min(times_ms)) / 1e3


if __name__ == "__main__":
    sys.exit(main())
