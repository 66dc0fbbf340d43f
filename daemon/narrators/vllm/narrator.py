"""The narrator that uses vLLM servers. Runs in the worker process, never on the fast loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from contracts.clock import NS_PER_S
from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError, UserError
from contracts.manifest import Manifest
from contracts.narration import Evidence, Provenance
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.narrators.vllm.connection import ServerConnection, make_client
from daemon.narrators.vllm.pool import MAX_WAIT_S, ServerPool
from daemon.narrators.vllm.preflight import Preflight, check_servers
from daemon.narrators.vllm.projector import Projector
from daemon.narrators.vllm.requests import (
    NotNumbersError,
    RequestMaker,
    SharedRequest,
    first_equals,
)
from daemon.narrators.vllm.sentence import Sentence
from daemon.narrators.whole_words import whole_words
from daemon.service.settings import NarratorSettings, VllmSettings

STEP_S = 0.02
"""Seconds that a step waits for events; short, so that the caller can do other things between."""

CANCEL_S = 0.2
"""Seconds that a cancelled request has to close its connection, which tells the server."""


@dataclass(slots=True, eq=False)
class _PendingAnswer:
    """One population of a window that is being narrated."""

    batch_id: int
    index: int
    with_partials: bool
    evidence: Evidence | None
    start_host_ns: int
    sentence: Sentence
    task: asyncio.Task[None]
    n_reported: int = 0
    """Characters that have gone out in partials."""


class VllmNarrator:
    """Narrate through vLLM servers, by greedy decoding, one request for each population.

    `model` is the LLaVA that the servers serve: its config, its tokenizer and its projector's
    weights are read. An empty `revision` takes the newest.

    Raises
    ------
    UserError
        If the model or a server does not fit the bundle or the settings.
    DependencyError
        If no server can be reached.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str,
        manifest: Manifest,
        settings: NarratorSettings,
        vllm: VllmSettings,
    ) -> None:
        _check_timeouts(settings, vllm)
        self._settings, self._vllm = settings, vllm
        self._grid = manifest.patch_grid
        self._served = vllm.model or model
        self._finder = EvidenceFinder.from_bundle(manifest)
        self._projector = Projector(
            model,
            revision=revision,
            manifest=manifest,
            dtype=settings.dtype,
            device=settings.device,
            threads=settings.threads,
        )
        check = Preflight(
            self._projector, manifest, narrator=settings, vllm=vllm, model=self._served
        )
        self.provenance = Provenance(
            bundle=manifest.sha256,
            backend="vllm",
            model=model,
            prompt=settings.prompt,
            revision=revision,
        )
        self._make = RequestMaker(
            self._projector,
            model=self._served,
            prompt=settings.prompt,
            max_new_tokens=settings.max_new_tokens,
        )
        self._rows: list[_PendingAnswer] = []
        self._slots = asyncio.Semaphore(settings.max_rows)
        self._has_news = asyncio.Event()
        self._client = make_client(
            key=os.environ.get(vllm.key_variable, ""), connect_timeout_s=vllm.connect_timeout_s
        )
        connections = [
            ServerConnection(url, self._client, connect_timeout_s=vllm.connect_timeout_s)
            for url in vllm.urls
        ]
        self._pool = ServerPool(connections, check)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm-requests")
        self._loop = asyncio.new_event_loop()
        try:
            resting = self._loop.run_until_complete(check_servers(check, connections))
        except BaseException:
            self.close()
            raise
        for index, fault in resting:
            self._pool.rest(self._pool.servers[index], fault, requested_s=self._pool.now_s())

    @property
    def n_rows(self) -> int:
        """Populations that are being narrated or waiting."""
        return len(self._rows)

    def has_room(self, n: int) -> bool:
        """Return whether n more requests can be sent at once."""
        return not self._rows or len(self._rows) + n <= self._settings.max_rows

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Start to project and send a window's patches, population by population.

        Raises
        ------
        MisuseError
            If an embedding has another patch grid, or the number is in use.
        """
        if any(row.batch_id == batch_id for row in self._rows):
            raise MisuseError(f"narration batch {batch_id} is under way already")
        wrong = [e.grid for e in embeddings if e.grid != self._grid]
        if wrong:
            raise MisuseError(f"patches must be of {self._grid}, got {wrong[0]}")
        if not embeddings:
            return
        start_host_ns = time.monotonic_ns()
        evidence: Sequence[Evidence | None] = (
            self._finder.nearest(embeddings) if self._finder else [None] * len(embeddings)
        )
        grids = [embedding.patches for embedding in embeddings]
        requests = [SharedRequest(partial(self._make, grid), self._thread) for grid in grids]
        for index, first in enumerate(first_equals(grids)):
            sentence = Sentence(on_text=self._has_news.set if with_partials else None)
            task = self._loop.create_task(self._generate(sentence, requests[first]))
            self._rows.append(
                _PendingAnswer(
                    batch_id, index, with_partials, evidence[index], start_host_ns, sentence, task
                )
            )

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """Return what has arrived; wait up to 20 ms for it."""
        if self._rows and all(not row.task.done() for row in self._rows):
            self._loop.run_until_complete(self._wait())
        late = self._late()
        self._cancel_tasks(late)
        events: list[PartialRow | EndedRow] = []
        for row in tuple(self._rows):
            if row in late:
                cut = f"cut at the deadline of {self._settings.deadline_s:g} s"
                events.append(self._end(row, cut))
            elif row.task.done():
                row.task.result()  # raises what is no fault of a server
                events.append(self._end(row))
            elif row.with_partials:
                draft = row.sentence.draft
                text = whole_words(draft.text)
                if len(text) > row.n_reported:
                    row.n_reported = len(text)
                    n_tokens = len(draft.logprobs)
                    events.append(PartialRow(row.batch_id, row.index, text, n_tokens))
        return events

    def cancel(self, batch_id: int) -> None:
        """Cancel a window's requests."""
        cancelled = [row for row in self._rows if row.batch_id == batch_id]
        self._cancel_tasks(cancelled)
        for row in cancelled:
            self._rows.remove(row)

    def close(self) -> None:
        """Cancel every request and close the connections."""
        if self._loop.is_closed():
            return
        self._cancel_tasks(self._rows)
        self._rows.clear()
        self._loop.run_until_complete(self._pool.close())
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._thread.shutdown(cancel_futures=True)
        self._loop.close()

    async def _generate(self, sentence: Sentence, request: SharedRequest) -> None:
        try:
            async with self._slots:
                await sentence.generate(
                    self._pool,
                    await request.body(),
                    retries=self._vllm.retries,
                    silence_s=self._vllm.silence_timeout_s,
                )
        except NotNumbersError as error:
            sentence.problem = str(error)
        finally:
            self._has_news.set()

    async def _wait(self) -> None:
        self._has_news.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_news.wait(), STEP_S)

    def _late(self) -> list[_PendingAnswer]:
        """Return the unfinished rows whose deadline has passed."""
        if self._settings.deadline_s is None:
            return []
        begun_ns = time.monotonic_ns() - self._settings.deadline_s * NS_PER_S
        return [row for row in self._rows if not row.task.done() and row.start_host_ns <= begun_ns]

    def _end(self, row: _PendingAnswer, cut: str = "") -> EndedRow:
        self._rows.remove(row)
        utterance = row.sentence.utterance(
            start_host_ns=row.start_host_ns,
            max_new_tokens=self._settings.max_new_tokens,
            cut=cut,
            evidence=row.evidence,
        )
        return EndedRow(row.batch_id, row.index, utterance)

    def _cancel_tasks(self, rows: Sequence[_PendingAnswer]) -> None:
        """Cancel the requests of rows, and wait a moment for their connections to close."""
        tasks = [row.task for row in rows if not row.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=CANCEL_S))


def _check_timeouts(settings: NarratorSettings, vllm: VllmSettings) -> None:
    # A sentence on which silent servers fail must end before its worker is killed: the reason would
    # be lost with the worker.
    n_tries = vllm.retries + 1
    longest_s = n_tries * (MAX_WAIT_S + vllm.connect_timeout_s + vllm.silence_timeout_s)
    if settings.deadline_s is not None:
        longest_s = min(longest_s, settings.deadline_s)
    if settings.mode == "worker" and longest_s >= settings.batch_timeout_s:
        raise UserError(
            f"the worker may take narrator.batch_timeout_s = {settings.batch_timeout_s:g} s for a "
            f"window and is killed then, and silent servers can take {longest_s:g} s: vllm.retries "
            f"= {vllm.retries}, vllm.connect_timeout_s = {vllm.connect_timeout_s:g}, "
            f"vllm.silence_timeout_s = {vllm.silence_timeout_s:g}, narrator.deadline_s = "
            f"{settings.deadline_s}. Lower one of these, or raise narrator.batch_timeout_s."
        )
