"""Rows that are said together: they join, go on by one token at a time, and leave.

Theory of operation
-------------------
A row is one grid of patches on its way to a sentence. Rows that are being said lie in the first
places of the decoder's cache, without a gap, so that a step is one call on the rows there are: a
sentence that ends makes the step cheaper. `step` does one thing and returns: it reads the
prompts of as many waiting rows as `PREFILL_TOKENS` allows, or else says one token in every row. So
whoever calls can look after other things in between, however many rows wait.

1. A row that ends gives its place to the last one (`test_joins_and_leaves_change_no_word`).
2. A window of more rows than there are places begins with another of its rows each time, so that no
   population is always last (`test_turns_rotate`).
3. No row is lost to a full memory: what did not fit is done again, half as many rows at once, and
   only a row that does not fit alone fails (`test_memory_runs_out`).
4. A row ends by its deadline, also one that waits (`test_deadline_cuts_at_a_word`).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from daemon.narrators.llava.speech import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from daemon.narrators.llava.decoder import LlamaDecoder
    from daemon.narrators.llava.fixed_sizes import FixedSizes

PREFILL_TOKENS = {"cpu": 640, "cuda": 4096}
"""Tokens of prompts that are read at once. On a CPU more rows cost as many times more, and their
numbers leave its cache; a GPU is busy with some thousand (docs/decisions/0015-narrator-engine.md).
"""

logger = logging.getLogger(__name__)


class EndReason(Enum):
    """Why a row has ended."""

    BY_ITSELF = auto()
    AT_LIMIT = auto()
    AT_DEADLINE = auto()
    NO_NUMBERS = auto()
    NO_MEMORY = auto()


@dataclass(slots=True, eq=False)
class DecodingRow:
    """One grid on its way to a sentence.

    Attributes
    ----------
    batch_id, index : int
        The window, and which of its embeddings.
    patches : array, shape (n_patches, dim), float32
    start_host_ns : int
        When it was taken up. Host clock, as the other stamps.
    tokens : list of int
        Said so far, with the end token.
    logprobs : list of float
        Of these.
    first_token_host_ns, last_token_host_ns : int
        Zero before the first.
    end : EndReason or None
        None while it goes on.
    """

    batch_id: int
    index: int
    patches: NDArray[np.float32]
    start_host_ns: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_token_host_ns: int = 0
    last_token_host_ns: int = 0
    end: EndReason | None = None


class Engine:
    """The rows of all windows that are under way.

    Parameters
    ----------
    decoder : LlamaDecoder or FixedSizes
        Its cache has a place for each row that is said at once.
    embed : callable
        Grids (n, n_patches, dim) to prompts (n, n_tokens, width).
    choice : Choice
    prompt_length : int
        Tokens of a prompt with its patches.
    max_new_tokens : int
    deadline_s : float, optional
        Seconds from `begin` after which a row ends with what it has.
    clock : callable
        Host clock, nanoseconds.
    """

    def __init__(
        self,
        decoder: LlamaDecoder | FixedSizes,
        embed: Callable[[NDArray[np.float32]], Tensor],
        choice: Choice,
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
        budget = PREFILL_TOKENS["cpu" if decoder.device == "cpu" else "cuda"]
        self._n_read = max(1, budget // self._prompt_length)
        self._at_once = decoder.max_rows
        self._turn = 0
        self._waiting: deque[DecodingRow] = deque()
        self._said: list[DecodingRow] = []  # the place in the list is the row in the cache

    @property
    def n_rows(self) -> int:
        """Rows that are being said or wait."""
        return len(self._said) + len(self._waiting)

    @property
    def n_free(self) -> int:
        """Rows that could begin now and wait for none."""
        return max(0, self._at_once - self.n_rows)

    def begin(self, batch_id: int, grids: Sequence[NDArray[np.float32]]) -> list[DecodingRow]:
        """Take up a window; its rows wait for the next `step`.

        Parameters
        ----------
        batch_id : int
        grids : sequence of array, shape (n_patches, dim), float32

        Returns
        -------
        rows : list of DecodingRow
            In the order of `grids`.
        """
        now = self._clock()
        rows = [DecodingRow(batch_id, index, grid, now) for index, grid in enumerate(grids)]
        first = 0
        if len(rows) > self._at_once:
            first = self._turn % len(rows)
            self._turn += self._at_once
        self._waiting.extend(rows[first:] + rows[:first])
        return rows

    def cancel(self, batch_id: int) -> None:
        """Drop a window's rows."""
        self._waiting = deque(row for row in self._waiting if row.batch_id != batch_id)
        self._leave([row for row in self._said if row.batch_id == batch_id])

    def step(self) -> list[DecodingRow]:
        """Read prompts that wait, or say one token in every row.

        Returns
        -------
        rows : list of DecodingRow
            Those that have said something, or have ended.
        """
        import torch

        late = self._past_deadline()
        with torch.inference_mode():
            spoken = self._join() or self._go_on()
        self._leave([row for row in self._said if row.end])
        return late + spoken

    def _past_deadline(self) -> list[DecodingRow]:
        if self._deadline_ns is None:
            return []
        until = self._clock() - self._deadline_ns
        late = [row for row in (*self._said, *self._waiting) if row.start_host_ns <= until]
        for row in late:
            self._end(row, EndReason.AT_DEADLINE)
        self._leave([row for row in self._said if row.end])
        self._waiting = deque(row for row in self._waiting if not row.end)
        return late

    def _join(self) -> list[DecodingRow]:
        """Read the prompts of rows that wait, as many as there are places and patience for."""
        import torch

        first = len(self._said)
        n = min(len(self._waiting), self._at_once - first, self._n_read)
        if n <= 0:
            return []
        rows = [self._waiting.popleft() for _ in range(n)]
        try:
            prompts = self._embed(np.stack([row.patches for row in rows]))
            scores = self._decoder.prefill(prompts, first)
        except torch.OutOfMemoryError:
            if n == 1 and not first:
                return [self._out_of_memory(rows[0])]
            self._waiting.extendleft(reversed(rows))
            self._halve(first + n)
            return []
        self._said += rows
        self._hear(scores, rows, first)
        return rows

    def _go_on(self) -> list[DecodingRow]:
        import torch

        spoken: list[DecodingRow] = []
        first = 0
        while first < len(self._said):
            rows = self._said[first : first + self._at_once]
            try:
                scores = self._decoder.step(
                    [row.tokens[-1] for row in rows], [self._position(row) for row in rows], first
                )
            except torch.OutOfMemoryError:
                if len(rows) > 1:
                    self._halve(len(rows))
                    continue
                self._out_of_memory(rows[0])
            else:
                self._hear(scores, rows, first)
            spoken += rows
            first += len(rows)
        return spoken

    def _position(self, row: DecodingRow) -> int:
        """Return where the last token stands, which the cache does not hold yet."""
        return self._prompt_length + len(row.tokens) - 1

    def _hear(self, scores: Tensor, rows: list[DecodingRow], first: int) -> None:
        """Note each row's next token."""
        tokens, logprobs = self._choice.pick(scores, [row.tokens for row in rows])
        now = self._clock()
        for place, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True)):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            row.first_token_host_ns = row.first_token_host_ns or now
            row.last_token_host_ns = now
            if not math.isfinite(logprob):
                row.end = EndReason.NO_NUMBERS
                self._decoder.wipe(first + place)
            elif token in self._choice.end_ids:
                row.end = EndReason.BY_ITSELF
            elif len(row.tokens) == self._max_new_tokens:
                row.end = EndReason.AT_LIMIT

    def _leave(self, leaving: list[DecodingRow]) -> None:
        """Give up places; the last rows move into them."""
        for row in leaving:
            place = self._said.index(row)
            last = self._said.pop()
            if last is not row:
                self._decoder.move(len(self._said), place, self._position(last))
                self._said[place] = last

    def _halve(self, n: int) -> None:
        self._at_once = max(1, n // 2)
        if self._decoder.device != "cpu":
            import torch

            torch.cuda.empty_cache()
        logger.warning(
            "out of memory, fewer rows at once",
            extra={"device": self._decoder.device, "rows": n, "rows_at_once": self._at_once},
        )

    def _end(self, row: DecodingRow, end: EndReason) -> None:
        """End a row from outside; one that has said nothing has its first and last word now."""
        row.end = end
        if not row.tokens:
            row.first_token_host_ns = row.last_token_host_ns = self._clock()

    def _out_of_memory(self, row: DecodingRow) -> DecodingRow:
        logger.error("out of memory with one row", extra={"device": self._decoder.device})
        self._end(row, EndReason.NO_MEMORY)
        return row
