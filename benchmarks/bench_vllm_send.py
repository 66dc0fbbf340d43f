"""How soon the patches of a window reach a vLLM server, at the size of LLaVA-1.5-7B.

    python -m benchmarks.bench_vllm_send
    python -m benchmarks.bench_vllm_send --quick      (seconds; for tests)

What bounds it
--------------
A population is 576 image tokens of 4,096 numbers: 4.7 MB in bfloat16, saved by torch, 6.3 MB as
base64, over TCP loopback. So the bound is memory: each step of the way reads and writes all of it.

A process on another core takes requests as a server would, and notes when the first byte of a
window arrived, when the first request was whole, and when the last was. Two clients take turns on
the same image tokens: "narrator" is the back-end `vllm`; "all first" makes every request before it
sends one, with `isfinite` and the standard library's base64, through the same HTTP client. The
image tokens are ready: the projector's time is left out of both (docs/vllm.md has it).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import multiprocessing
import os
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch  # noqa: TID253 - image tokens are tensors
from numpy.typing import NDArray

from benchmarks.measure import Figure, MeasuredRow, copy_bytes_per_s, figure, row
from benchmarks.narrator_models import SHIPPED, shipped_manifest
from benchmarks.record import Options, Result, read_options, report, stop
from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.window import Window
from daemon.narrators.protocol import narrate
from daemon.narrators.vllm import chat, narrator
from daemon.narrators.vllm.connection import ServerConnection, make_client
from daemon.narrators.vllm.narrator import VllmNarrator
from daemon.narrators.vllm.projector import Projector
from daemon.service.settings import NarratorSettings, VllmSettings

BATCHES = (1, 8)
N_ROUNDS = 5
N_TURNS = 8
"""Windows of a round."""

MODEL = "llava"
EVENTS = (
    'data: {"choices": [{"delta": {"content": "A street"}, "finish_reason": "stop"}]}\n\n'
    "data: [DONE]\n\n"
)
CONNECT_S = 5.0
SILENCE_S = 30.0
STAMPS = ("first byte", "first request", "whole window")


@dataclass(frozen=True, slots=True)
class PatchSize:
    """Of the patches and of what the projector makes of them."""

    grid: PatchGrid
    width: int


LLAVA = PatchSize(PatchGrid(24, 24, 1024), 4096)
"""llava-hf/llava-1.5-7b-hf (its config.json)."""

TOY = PatchSize(PatchGrid(8, 8, 32), 64)


def main() -> int:
    """Measure, print and return the exit code."""
    options = read_options(__doc__)
    cores = sorted(os.sched_getaffinity(0))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, _server(cores[-1]) as (url, stamps):
        result = _measure(options, url, stamps, Path(folder), n_cores=len(cores))
    return report(result, options)


def _measure(
    options: Options,
    url: str,
    stamps: Callable[[int], NDArray[np.int64]],
    folder: Path,
    *,
    n_cores: int,
) -> Result:
    size = TOY if options.is_quick else LLAVA
    n_rounds, n_turns = (2, 2) if options.is_quick else (N_ROUNDS, N_TURNS)
    tokens = _image_tokens(options.seed, max(BATCHES), size)
    clients: dict[str, Callable[[int], None]] = {}
    rows: list[MeasuredRow] = []
    figures: list[Figure] = []
    with closing(_narrator(url, folder, size, tokens)) as ours, closing(_AllFirst(url)) as theirs:
        clients["narrator"] = lambda n: _narrate(ours, _embeddings(size.grid, n))
        clients["all first"] = lambda n: theirs.send(tokens[:n])
        for n in BATCHES:
            case = "1 population" if n == 1 else f"{n} populations"
            taken = _take_turns(clients, stamps, n, n_rounds * n_turns)
            for place, name in enumerate(STAMPS):
                rows += [row(case, f"{who}, {name}", of[:, place]) for who, of in taken.items()]
                by_round = {
                    who: np.median(of[:, place].reshape(n_rounds, n_turns), axis=1)
                    for who, of in taken.items()
                }
                ratio = by_round["narrator"] / by_round["all first"]
                figures.append(figure(case, f"{name}, narrator / all first", ratio))
                figures += [
                    figure(case, f"{name}, {who}, ms", of / 1e6) for who, of in by_round.items()
                ]
    parameters = {
        "batches": list(BATCHES),
        "image_tokens": size.grid.n_patches,
        "width": size.width,
        "dtype": "bfloat16",
        "has_core_each": n_cores > 1,
    }
    limits = {"copy_bytes_per_s": copy_bytes_per_s(is_quick=options.is_quick)}
    return Result("vllm_send", parameters, limits, rows, figures)


def _take_turns(
    clients: dict[str, Callable[[int], None]],
    stamps: Callable[[int], NDArray[np.int64]],
    n: int,
    n_windows: int,
) -> dict[str, NDArray[np.int64]]:
    """Return nanoseconds from a window's start to each of `STAMPS`, (n_windows, 3)."""
    taken = {name: np.empty((n_windows, len(STAMPS)), np.int64) for name in clients}
    order = list(clients.items())
    for send in clients.values():  # each opens its connections
        send(n)
        stamps(n)
    for window in range(n_windows):
        for name, send in order:
            started_ns = time.monotonic_ns()
            send(n)
            arrived_ns = stamps(n) - started_ns  # (n, 2): first and last byte of each request
            firsts, lasts = arrived_ns.T
            taken[name][window] = firsts.min(), lasts.min(), lasts.max()
        order = [*order[1:], order[0]]
    return taken


class _AllFirst:
    """Makes every request of a window, then sends them."""

    def __init__(self, url: str) -> None:
        self._client = make_client(key="", connect_timeout_s=CONNECT_S)
        self._connection = ServerConnection(url, self._client, connect_timeout_s=CONNECT_S)
        self._loop = asyncio.new_event_loop()

    def send(self, tokens: torch.Tensor) -> None:
        bodies = [self._body(image) for image in tokens]
        self._loop.run_until_complete(self._send(bodies))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    async def _send(self, bodies: list[chat.RequestBody]) -> None:
        await asyncio.gather(
            *(self._connection.stream(body, lambda _: None, silence_s=SILENCE_S) for body in bodies)
        )

    def _body(self, tokens: torch.Tensor) -> chat.RequestBody:
        if not bool(tokens.isfinite().all()):
            stop("an image token is not a number")
        file = io.BytesIO()
        torch.save(tokens[None].clone(), file)
        part = {"type": "image_embeds", "image_embeds": "%"}
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": [part]}]})
        head, tail = body.encode().split(b"%")
        encoded = base64.b64encode(file.getbuffer())
        return chat.RequestBody(b"".join([head, encoded, tail]), memoryview(b""), b"")


def _narrate(ours: VllmNarrator, embeddings: list[PatchEmbedding]) -> None:
    texts = {narration.text for narration in narrate(ours, embeddings)}
    if texts != {"A street"}:
        stop(f"the narrator says {texts}")


def _narrator(url: str, folder: Path, size: PatchSize, tokens: torch.Tensor) -> VllmNarrator:
    """Return the back-end on a model of this size, whose image tokens are ready."""

    class ReadyTokens(Projector):
        """Image tokens by the first number of the patches, where a projector would compute."""

        def project(self, grids: NDArray[np.float32]) -> torch.Tensor:
            """Return ready image tokens."""
            place = int(grids[0, 0, 0])  # the back-end projects one population at a time
            return tokens[place : place + 1].clone()

    _write_model(folder, size)
    with patch.object(narrator, "Projector", ReadyTokens):
        return VllmNarrator(
            str(folder),
            revision="",
            manifest=shipped_manifest(size.grid),
            settings=NarratorSettings(model=str(folder), dtype="bfloat16", device="cpu"),
            vllm=VllmSettings(urls=(url,), model=MODEL),
        )


def _write_model(folder: Path, size: PatchSize) -> None:
    """Write what the back-end reads of a LLaVA: config, tokenizer and the projector's weights."""
    from safetensors.torch import save_file

    for path in SHIPPED.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    config: dict[str, Any] = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    config["text_config"]["hidden_size"] = size.width
    vision["hidden_size"], vision["num_attention_heads"] = size.grid.dim, 2
    vision["image_size"] = size.grid.rows * vision["patch_size"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = {
        "linear_1.weight": (size.width, size.grid.dim),
        "linear_1.bias": (size.width,),
        "linear_2.weight": (size.width, size.width),
        "linear_2.bias": (size.width,),
    }
    prefix = "multi_modal_projector."
    weights = {prefix + name: torch.zeros(of, dtype=torch.bfloat16) for name, of in shapes.items()}
    save_file(weights, folder / "model.safetensors")


def _image_tokens(seed: int, n: int, size: PatchSize) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, size.grid.n_patches, size.width)
    return torch.randn(shape, generator=generator).to(torch.bfloat16)


def _embeddings(grid: PatchGrid, n: int) -> list[PatchEmbedding]:
    spec = shipped_manifest().window_spec
    window = Window(spec=spec, first_bin=0, counts=np.zeros((spec.n_bins, 1), np.uint16))
    return [
        PatchEmbedding(
            window, f"p{i}", 1, grid, np.full((grid.n_patches, grid.dim), i, dtype=np.float32)
        )
        for i in range(n)
    ]


@contextmanager
def _server(core: int) -> Iterator[tuple[str, Callable[[int], NDArray[np.int64]]]]:
    """Run the server; yield its address, and what returns the stamps of the last n requests."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, core), daemon=True)
    process.start()

    def stamps(n: int) -> NDArray[np.int64]:
        ours.send(n)
        return np.array(ours.recv(), dtype=np.int64)

    try:
        yield f"http://127.0.0.1:{ours.recv()}", stamps
    finally:
        ours.send(0)
        process.join()


class _CountingServer(socketserver.ThreadingTCPServer):
    """Takes whole requests; each gets a short sentence."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CountingHandler)
        self.stamps_ns: list[tuple[int, int]] = []


class _CountingHandler(socketserver.BaseRequestHandler):
    server: _CountingServer

    def handle(self) -> None:
        buffer = bytearray(1 << 20)
        while n := self.request.recv_into(buffer):
            first_ns = time.monotonic_ns()
            head = bytes(buffer[:n])
            while b"\r\n\r\n" not in head:
                head += self.request.recv(1 << 16)
            head, _, body = head.partition(b"\r\n\r\n")
            fields = dict(
                line.lower().split(b": ", 1) for line in head.split(b"\r\n") if b": " in line
            )
            left = int(fields.get(b"content-length", b"0")) - len(body)
            while left > 0:
                left -= self.request.recv_into(buffer)
            last_ns = time.monotonic_ns()
            if head.startswith(b"POST"):
                self.server.stamps_ns.append((first_ns, last_ns))
                self._answer(EVENTS, b"text/event-stream")
            else:
                self._answer(json.dumps({"data": [{"id": MODEL}]}), b"application/json")

    def _answer(self, text: str, kind: bytes) -> None:
        body = text.encode()
        self.request.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (kind, len(body), body)
        )


def _serve(pipe: Connection, core: int) -> None:
    os.sched_setaffinity(0, [core])
    with _CountingServer() as server:
        serve = partial(server.serve_forever, poll_interval=0.05)
        threading.Thread(target=serve, daemon=True).start()
        pipe.send(server.server_address[1])
        while n := pipe.recv():
            pipe.send(server.stamps_ns[-n:])
            server.stamps_ns.clear()
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
