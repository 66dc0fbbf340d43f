"""The step of a decoder for a few fixed numbers of rows: compiled, and on a GPU recorded.

A step of a large model is a few hundred small kernels, which a GPU runs faster than Python
launches them. So for each number of rows in `buckets` the step is compiled by ``torch.compile``,
which fuses the small kernels, and recorded as a CUDA graph, which launches all at once. A step that
cannot be compiled or recorded, or whose scores then differ from the plain step's, is logged and
runs as it is.

A step of a larger size computes idle rows too, and drops their scores. In the cache the place of an
idle row may belong to an active one, when memory allows fewer rows at once than are active. So idle
rows write at the last position, which is never read: a sentence that reaches it has ended
(`test_idle_rows_write_where_nothing_is_read`).

On a CPU nothing is recorded, and it is used by tests only: compiling gains little where matrix
products take the time (docs/decisions/0015-narrator-engine.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from daemon.narrators.llava.decoder import LlamaDecoder

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIFFERENCE = 0.05
"""Of a score, relative to the largest: compiled kernels keep digits in float32 that plain ones
round to bfloat16, which has 8 bits; over 32 layers a percent or two."""

Call = Callable[["Tensor", "Tensor"], "Tensor"]
"""Last tokens and their positions, (n,) each, to scores, (n, n_words)."""

logger = logging.getLogger(__name__)


class FixedSizes:
    """A decoder whose step has fixed sizes; everything else is the decoder's.

    So is the step of a number of rows that cannot be compiled.
    """

    def __init__(
        self, decoder: LlamaDecoder, *, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        self._decoder = decoder
        self._backend = backend
        self._calls: dict[int, Call] = {}
        _allow_sizes(len(buckets(decoder.max_rows)))
        self.device = decoder.device
        self.max_rows = decoder.max_rows
        self.prefill = decoder.prefill
        self.move = decoder.move
        self.wipe = decoder.wipe
        for n_rows in buckets(decoder.max_rows):
            if (call := self._make(n_rows)) is None:
                break
            self._calls[n_rows] = call

    @property
    def sizes(self) -> list[int]:
        """Numbers of rows for which there is a step of its own."""
        return list(self._calls)

    def step(self, tokens: Sequence[int], positions: Sequence[int], first_row: int) -> Tensor:
        """Advance each row by one token, as `LlamaDecoder.step` does."""
        import torch

        n = len(tokens)
        n_rows = next((size for size in self._calls if size >= n), 0)
        if first_row or not n_rows:
            return self._decoder.step(tokens, positions, first_row)
        n_idle = n_rows - n
        idle = [self._decoder.n_positions - 1] * n_idle
        ids, places = torch.tensor(
            [[*tokens, *[0] * n_idle], [*positions, *idle]], device=self.device
        )
        return self._calls[n_rows](ids, places)[:n]

    def _make(self, n_rows: int) -> Call | None:
        # Compile and record; None, with a line in the log, where neither is possible.
        import torch

        plain = self._plain(n_rows)
        for name, make in (("compiled", self._compiled), ("plain", self._plain)):
            try:
                call = make(n_rows)
                if self.device != "cpu":
                    call = Recorded(call, n_rows, self.device)
                self._check(call, plain, n_rows)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler or a driver can say
                message = " ".join(str(error).split())[:200]
                logger.warning(
                    "step runs slower: cannot be fixed",
                    extra={
                        "rows": n_rows,
                        "kernels": name,
                        "reason": f"{type(error).__name__}: {message}",
                    },
                )
                if self.device == "cpu":
                    return None
            else:
                return call
            finally:
                for row in range(n_rows):
                    self._decoder.wipe(row)
        return None

    def _plain(self, n_rows: int) -> Call:
        def call(ids: Tensor, positions: Tensor) -> Tensor:
            place = self._decoder.spread(positions, self._decoder.n_positions)
            return self._decoder.forward(ids, place, slice(0, n_rows))

        return call

    def _compiled(self, n_rows: int) -> Call:
        import torch

        return torch.compile(
            self._plain(n_rows), fullgraph=True, dynamic=False, backend=self._backend
        )

    def _check(self, call: Call, plain: Call, n_rows: int) -> None:
        # Compare a call with the plain one, on different tokens at different positions.
        import torch

        # A vocabulary's first token may be zeros, and the first position attends to itself alone.
        ids, positions = (
            torch.tensor([size * (row + 1) // (n_rows + 1) for row in range(n_rows)])
            for size in (len(self._decoder.words), self._decoder.n_positions)
        )
        ids, positions = ids.to(self.device), positions.clamp_min(1).to(self.device)
        with torch.inference_mode():
            expected = plain(ids, positions)
            scores = call(ids, positions)
            largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
            difference = float((scores - expected).abs().max() / largest)
        if not difference <= MAX_DIFFERENCE:
            raise ArithmeticError(f"scores differ by {difference:.2g} of the largest")


class Recorded:
    """A call as a CUDA graph, whose inputs and output have fixed addresses."""

    def __init__(self, call: Call, n_rows: int, device: str) -> None:
        import torch

        with torch.inference_mode():
            self._ids, self._positions = torch.zeros((2, n_rows), dtype=torch.long, device=device)
        self._graph: Any = torch.cuda.CUDAGraph()
        # The first calls, which compile and allocate, come before recording and beside it.
        side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side_stream):
            for _ in range(3):
                call(self._ids, self._positions)
        torch.cuda.current_stream().wait_stream(side_stream)
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._scores = call(self._ids, self._positions)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Run it; the scores are overwritten by the next call."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._scores


def _allow_sizes(n: int) -> None:
    """Let the compiler make as many versions as there are sizes; its own limit is eight."""
    import torch._dynamo.config

    limit = torch._dynamo.config.recompile_limit  # noqa: SLF001 - where torch keeps its settings
    torch._dynamo.config.recompile_limit = max(limit, 2 * n)  # noqa: SLF001 - as above


def buckets(max_rows: int) -> list[int]:
    """Return the numbers of rows that a step is made for.

    >>> buckets(12)
    [1, 2, 4, 8, 12]
    """
    n_powers = (max_rows - 1).bit_length()  # of two, below `max_rows`
    return [*(2**n for n in range(n_powers)), max_rows]
