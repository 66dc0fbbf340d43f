"""Rows that are decoded together: they join, gain a token per step, and leave.

Theory of operation
-------------------
A row is one grid of patches on its way to a sentence. Rows that are being decoded lie in the first
places of the decoder's cache, without a gap, so that a step is one call on the active rows: a
sentence that ends makes the next step cheaper. `step` does one thing and returns: it reads the
prompts of as many waiting rows as `PREFILL_TOKENS` allows, or else adds one token to every active
row. So the caller can look at its sockets in between, however many rows wait.

::

    begin ──► waiting ── prefill ──► active ── a token per step ──► ended
                 │                     │
                 └── deadline, cancel ─┘

1. A row that ends gives its place to the last one (`test_joins_and_leaves_change_no_word`).
2. A window of more rows than there are places begins with another of its rows each time, so that no
   population is always last (`test_turns_rotate`).
3. No row is lost to a full memory: what did not fit is repeated with half as many rows at once, and
   only a row that does not fit alone fails (`test_memory_runs_out`).
4. A row ends by its deadline, also one that waits
   (`test_deadline_cuts_what_is_said_and_what_waits`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from daemon.narrators.llava.tokens import GreedyChoice

if TYPE_CHECKING:
    from torch import Tensor

PREFILL_TOKENS = {"cpu": 768, "cuda": 4096}
"""Tokens of prompts that are read in one step. On a CPU more take proportionally longer: these are
eight prompts of the shipped model, or one of LLaVA-1.5. A GPU is busy with a few thousand
(docs/decisions/0015-narrator-engine.md)."""

logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """A text model with a cache of rows; see `LlamaDecoder` for each method."""

    device: str
    max_rows: int

    def prefill(self, prompts: Tensor, first_row: int) -> Tensor: ...  # noqa: D102
    def step(  # noqa: D102
        self, tokens: Sequence[int], positions: Sequence[int], first_row: int
    ) -> Tensor: ...
    def move(self, source: int, target: int, n_keys: int) -> None: ...  # noqa: D102
    def wipe(self, row: int) -> None: ...  # noqa: D102


def max_prefill(device: str, prompt_length: int) -> int:
    """Return the most prompts of so many tokens that are read in one step."""
    budget = PREFILL_TOKENS["cpu" if device == "cpu" else "cuda"]
    # At least one, however long the prompt: a step that read none would never end.
    return max(1, budget // prompt_length)


class EndReason(Enum):
    """Why a row has ended."""

    BY_ITSELF = auto()
    AT_LIMIT = auto()
    AT_DEADLINE = auto()
    NO_NUMBERS = auto()
    NO_MEMORY = auto()


@dataclass(slots=True, eq=False)
class DecodingRow:
    """One grid on its way to a sentence."""

    # the window, and which of its embeddings
    batch_id: int
    index: int
    patches: NDArray[np.float32]  # (n_patches, dim)
    start_host_ns: int  # when `Engine.begin` took it; host clock, as the other stamps
    tokens: list[int] = field(default_factory=list)  # so far, with the end token
    logprobs: list[float] = field(default_factory=list)  # one for each token
    first_token_host_ns: int = 0  # zero before the first
    last_token_host_ns: int = 0
    end: EndReason | None = None  # None while it is waiting or active


class Engine:
    """The rows of all windows that are being narrated.

    Parameters
    ----------
    embed : callable
        Grids (n, n_patches, dim) to prompts (n, n_tokens, width).
    prompt_length : int
        Tokens of a prompt with its patches.
    deadline_s : float, optional
        Seconds from `begin` after which a row ends with the tokens it has.
    """

    def __init__(
        self,
        decoder: Decoder,
        embed: Callable[[NDArray[np.float32]], Tensor],
        choice: GreedyChoice,
        *,
        prompt_length: int,
        max_new_tokens: int,
        deadline_s: float | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._decoder = decoder
        self._embed = embed
        self._choice = choice
        self._max_new_tokens = max_new_tokens
        self._deadline_ns = None if deadline_s is None else int(deadline_s * 1e9)
        self._clock = clock
        self._prompt_length = prompt_length
        self._max_prefill = max_prefill(decoder.device, prompt_length)
        # Starts at the size of the cache, and halves when the memory does not hold as many.
        self._max_active = decoder.max_rows
        self._turn = 0
        self._waiting: deque[DecodingRow] = deque()
        self._active: list[DecodingRow] = []  # the index in the list is the row of the cache

    @property
    def n_rows(self) -> int:
        """Rows that are active or waiting."""
        return len(self._active) + len(self._waiting)

    @property
    def n_free(self) -> int:
        """Rows that could begin now without waiting for others."""
        return max(0, self._max_active - self.n_rows)

    def begin(self, batch_id: int, grids: Sequence[NDArray[np.float32]]) -> list[DecodingRow]:
        """Add a window's grids, (n_patches, dim) each; their rows wait for the next `step`."""
        now = self._clock()
        rows = [DecodingRow(batch_id, index, grid, now) for index, grid in enumerate(grids)]
        first = 0
        # More rows than places: those at the end of the queue are read last, and have the fewest
        # tokens when the deadline comes. The queue of the next window starts that many rows later.
        if len(rows) > self._max_active:
            first = self._turn % len(rows)
            self._turn += self._max_active
        self._waiting.extend(rows[first:] + rows[:first])
        return rows

    def cancel(self, batch_id: int) -> None:
        """Drop a window's rows."""
        self._waiting = deque(row for row in self._waiting if row.batch_id != batch_id)
        self._remove([row for row in self._active if row.batch_id == batch_id])

    def step(self) -> list[DecodingRow]:
        """Read prompts of waiting rows, or add one token to every active row.

        Returns the rows that have gained a token, or have ended.
        """
        import torch

        # Before the work, so that a row whose time is over does not take a place from another.
        late = self._end_late_rows()
        with torch.inference_mode():
            # Prompts first: a row that waits has shown nothing yet, and joins the next step's call,
            # which costs little more for one row more.
            advanced = self._prefill() or self._decode()
        self._remove([row for row in self._active if row.end])
        return late + advanced

    def _end_late_rows(self) -> list[DecodingRow]:
        if self._deadline_ns is None:
            return []
        until = self._clock() - self._deadline_ns
        late = [row for row in (*self._active, *self._waiting) if row.start_host_ns <= until]
        for row in late:
            self._end(row, EndReason.AT_DEADLINE)
        self._remove([row for row in self._active if row.end])
        self._waiting = deque(row for row in self._waiting if not row.end)
        return late

    def _prefill(self) -> list[DecodingRow]:
        """Read the prompts of waiting rows, as many as have a place and fit into one step."""
        import torch

        first = len(self._active)
        n = min(len(self._waiting), self._max_active - first, self._max_prefill)
        if n <= 0:
            return []
        rows = [self._waiting.popleft() for _ in range(n)]
        try:
            prompts = self._embed(np.stack([row.patches for row in rows]))
            scores = self._decoder.prefill(prompts, first)
        except torch.OutOfMemoryError:
            # Alone on the device: fewer rows at once is not possible.
            if n == 1 and not first:
                return [self._out_of_memory(rows[0])]
            # Back to the front in their order; the next step tries fewer. Nothing of them is in the
            # cache that counts: rows beyond the active ones are overwritten.
            self._waiting.extendleft(reversed(rows))
            self._halve(first + n)
            return []
        self._active += rows
        self._take_tokens(scores, rows, first)
        return rows

    def _decode(self) -> list[DecodingRow]:
        """Add one token to every active row."""
        import torch

        advanced: list[DecodingRow] = []
        first = 0
        # One call, unless the memory held more rows when they joined than it does now: then all
        # rows still advance in this step, in several calls.
        while first < len(self._active):
            rows = self._active[first : first + self._max_active]
            try:
                scores = self._decoder.step(
                    [row.tokens[-1] for row in rows], [self._position(row) for row in rows], first
                )
            except torch.OutOfMemoryError:
                if len(rows) > 1:
                    # The failed call has written keys and values of the last tokens at most; the
                    # repeated one writes the same ones to the same positions.
                    self._halve(len(rows))
                    continue
                self._out_of_memory(rows[0])
            else:
                self._take_tokens(scores, rows, first)
            advanced += rows
            first += len(rows)
        return advanced

    def _position(self, row: DecodingRow) -> int:
        """Return the position of the last token, which the cache does not hold yet."""
        return self._prompt_length + len(row.tokens) - 1

    def _take_tokens(self, scores: Tensor, rows: list[DecodingRow], first: int) -> None:
        """Append each row's next token, and end the rows that are complete."""
        tokens, logprobs = self._choice.pick(scores, [row.tokens for row in rows])
        now = self._clock()
        for place, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True)):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.first_token_host_ns = row.first_token_host_ns or now
            row.last_token_host_ns = now
            if not math.isfinite(logprob):
                row.end = EndReason.NO_NUMBERS
                # Attention multiplies masked values by zero, and zero times NaN is NaN: what stays
                # in the cache would break the next row in this place.
                self._decoder.wipe(first + place)
            elif token in self._choice.end_ids:
                row.end = EndReason.BY_ITSELF
            elif len(row.tokens) == self._max_new_tokens:
                row.end = EndReason.AT_LIMIT

    def _remove(self, leaving: list[DecodingRow]) -> None:
        """Free places; the last active rows move into them."""
        for row in leaving:
            place = self._active.index(row)
            last = self._active.pop()
            if last is not row:
                self._decoder.move(len(self._active), place, self._position(last))
                self._active[place] = last

    def _halve(self, n: int) -> None:
        # For good: a device that was full once is likely to be full again at the same size.
        self._max_active = max(1, n // 2)
        if self._decoder.device != "cpu":
            import torch

            # Blocks that torch keeps for sizes that are not used again may be what was missing.
            torch.cuda.empty_cache()
        logger.warning(
            "out of memory, fewer rows at once",
            extra={"device": self._decoder.device, "rows": n, "rows_at_once": self._max_active},
        )

    def _end(self, row: DecodingRow, end: EndReason) -> None:
        """End a row from outside; without a token, its first and last are stamped now."""
        row.end = end
        if not row.tokens:
            row.first_token_host_ns = row.last_token_host_ns = self._clock()

    def _out_of_memory(self, row: DecodingRow) -> DecodingRow:
        logger.error("out of memory with one row", extra={"device": self._decoder.device})
        self._end(row, EndReason.NO_MEMORY)
        return row
