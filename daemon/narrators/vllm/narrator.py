"""The narrator whose words come from vLLM servers. Lives in the worker, never on the fast loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from contracts.clock import NS_PER_S
from contracts.embedding import PatchEmbedding
from contracts.errors import MisuseError, UserError
from contracts.manifest import Manifest
from contracts.narration import Evidence, Provenance
from daemon.narrators.evidence import EvidenceFinder
from daemon.narrators.protocol import EndedRow, PartialRow
from daemon.narrators.vllm import chat
from daemon.narrators.vllm.connection import ServerConnection, make_client
from daemon.narrators.vllm.pool import PATIENCE_S, ServerPool
from daemon.narrators.vllm.preflight import Preflight, rehearse
from daemon.narrators.vllm.projector import Projector
from daemon.narrators.vllm.sentence import Sentence
from daemon.narrators.words import whole_words
from daemon.service.settings import NarratorSettings, VllmSettings

STEP_S = 0.02
"""So long a step waits for words, so that whoever steps can look after other things."""

LEAVE_S = 0.2
"""So long a cancelled request may take to close its connection, which tells the server."""


@dataclass(slots=True, eq=False)
class _PendingAnswer:
    """One population of a window that is being narrated."""

    batch_id: int
    index: int
    with_partials: bool
    evidence: Evidence | None
    start_host_ns: int
    sentence: Sentence
    task: asyncio.Task[None] | None = None
    n_told: int = 0
    """Characters."""


class VllmNarrator:
    """Narrate through vLLM servers, greedily, one request for each population.

    Parameters
    ----------
    model : str
        Folder or hub id of the LLaVA that the servers serve: its config, its tokenizer and its
        projector's weights are read.
    revision : str
        Commit of a model on the hub; empty takes the newest.
    manifest : Manifest
        Of the bundle that the patches come from.
    settings : NarratorSettings
    vllm : VllmSettings

    Raises
    ------
    UserError
        If the model or a server does not fit the bundle or the settings.
    DependencyError
        If no server is there.
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
        _check_patience(settings, vllm)
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
        self._provenance = Provenance(
            bundle=manifest.sha256,
            backend="vllm",
            model=model,
            prompt=settings.prompt,
            revision=revision,
        )
        self._rows: list[_PendingAnswer] = []
        self._places = asyncio.Semaphore(settings.max_rows)
        self._news = asyncio.Event()
        self._client = make_client(
            key=os.environ.get(vllm.key_variable, ""), connect_timeout_s=vllm.connect_timeout_s
        )
        links = [
            ServerConnection(url, self._client, connect_timeout_s=vllm.connect_timeout_s)
            for url in vllm.urls
        ]
        self._pool = ServerPool(links, check)
        self._loop = asyncio.new_event_loop()
        try:
            resting = self._loop.run_until_complete(rehearse(check, links))
        except BaseException:
            self.close()
            raise
        for index, fault in resting:
            self._pool.rest(self._pool.servers[index], fault, asked_s=self._pool.now_s())

    @property
    def provenance(self) -> Provenance:
        """What goes into every narration."""
        return self._provenance

    @property
    def n_rows(self) -> int:
        """Populations that are being narrated or wait for their turn."""
        return len(self._rows)

    def has_room(self, n: int) -> bool:
        """Return whether n requests more can be sent at once."""
        return not self._rows or len(self._rows) + n <= self._settings.max_rows

    def begin(
        self, batch_id: int, embeddings: Sequence[PatchEmbedding], *, with_partials: bool = False
    ) -> None:
        """Project a window's patches and send them.

        Parameters
        ----------
        batch_id : int
        embeddings : sequence of PatchEmbedding
            Of the bundle's patch grid.
        with_partials : bool
            Whether `step` returns what is said before it is whole.

        Raises
        ------
        MisuseError
            If an embedding has another patch grid, or the number is under way.
        """
        if any(row.batch_id == batch_id for row in self._rows):
            raise MisuseError(f"narration batch {batch_id} is under way already")
        wrong = [each.grid for each in embeddings if each.grid != self._grid]
        if wrong:
            raise MisuseError(f"patches must be of {self._grid}, got {wrong[0]}")
        if not embeddings:
            return
        start_host_ns = time.monotonic_ns()
        evidence: Sequence[Evidence | None] = (
            self._finder.nearest(embeddings) if self._finder else [None] * len(embeddings)
        )
        tokens = self._projector.project(np.stack([each.patches for each in embeddings]))
        for index, found in enumerate(evidence):
            sentence = Sentence(on_word=self._news.set if with_partials else None)
            row = _PendingAnswer(batch_id, index, with_partials, found, start_host_ns, sentence)
            self._rows.append(row)
            if not bool(tokens[index].isfinite().all()):
                sentence.problem = (
                    "the projected patches are not numbers; use narrator.dtype float32 or bfloat16"
                )
                continue
            body = chat.request(
                tokens[index],
                model=self._served,
                prompt=self._settings.prompt,
                max_new_tokens=self._settings.max_new_tokens,
            )
            row.task = self._loop.create_task(self._say(sentence, body))

    def step(self) -> Sequence[PartialRow | EndedRow]:
        """Return what has come; wait for it for some 20 ms.

        Returns
        -------
        events : sequence of PartialRow or EndedRow
        """
        if self._rows and all(row.task and not row.task.done() for row in self._rows):
            self._loop.run_until_complete(self._wait())
        late = self._late()
        self._leave(late)
        events: list[PartialRow | EndedRow] = []
        for row in tuple(self._rows):
            if row in late:
                cut = f"cut at the deadline of {self._settings.deadline_s:g} s"
                events.append(self._end(row, cut))
            elif row.task is None or row.task.done():
                if row.task:
                    row.task.result()  # what is no fault of a server is ours, and is raised
                events.append(self._end(row))
            elif row.with_partials:
                draft = row.sentence.draft
                text = whole_words(draft.text)
                if len(text) > row.n_told:
                    row.n_told = len(text)
                    n_tokens = len(draft.logprobs)
                    events.append(PartialRow(row.batch_id, row.index, text, n_tokens))
        return events

    def cancel(self, batch_id: int) -> None:
        """Take a window's requests back."""
        gone = [row for row in self._rows if row.batch_id == batch_id]
        self._leave(gone)
        for row in gone:
            self._rows.remove(row)

    def close(self) -> None:
        """Take everything back and let go of the servers."""
        if self._loop.is_closed():
            return
        self._leave(self._rows)
        self._rows.clear()
        self._loop.run_until_complete(self._pool.close())
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _say(self, sentence: Sentence, body: bytes) -> None:
        try:
            async with self._places:
                await sentence.say(
                    self._pool,
                    body,
                    retries=self._vllm.retries,
                    silence_s=self._vllm.silence_timeout_s,
                )
        finally:
            self._news.set()

    async def _wait(self) -> None:
        self._news.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), STEP_S)

    def _late(self) -> list[_PendingAnswer]:
        """Return the rows that go on although their deadline is over."""
        if self._settings.deadline_s is None:
            return []
        begun_ns = time.monotonic_ns() - self._settings.deadline_s * NS_PER_S
        return [
            row
            for row in self._rows
            if row.task and not row.task.done() and row.start_host_ns <= begun_ns
        ]

    def _end(self, row: _PendingAnswer, cut: str = "") -> EndedRow:
        self._rows.remove(row)
        said = row.sentence.utterance(
            start_host_ns=row.start_host_ns,
            max_new_tokens=self._settings.max_new_tokens,
            cut=cut,
            evidence=row.evidence,
        )
        return EndedRow(row.batch_id, row.index, said)

    def _leave(self, rows: Sequence[_PendingAnswer]) -> None:
        """Stop the requests of rows, and wait a moment for their connections to close."""
        tasks = [row.task for row in rows if row.task and not row.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=LEAVE_S))


def _check_patience(settings: NarratorSettings, vllm: VllmSettings) -> None:
    """See that a sentence which silent servers fail ends before its worker is killed for it.

    Raises
    ------
    UserError
        If it does not, and so its reason would be lost.
    """
    n_tries = vllm.retries + 1
    longest_s = n_tries * (PATIENCE_S + vllm.connect_timeout_s + vllm.silence_timeout_s)
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
