"""One sentence: requested from a server, and from another one if that fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.narration import Evidence, Status, Utterance
from daemon.narrators.vllm import chat
from daemon.narrators.vllm.connection import RefusedError, ServerConnection, ServerFault
from daemon.narrators.vllm.pool import NoServerError, ServerPool
from daemon.narrators.whole_words import whole_words

ENDS = frozenset({"stop", "length"})
"""Reasons of a complete sentence; a server that shuts down gives ``abort``."""


@dataclass(slots=True)
class Draft:
    """The part of a sentence that one server has sent."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)  # one for each token
    finish: str = ""  # why it ended; empty while it has not
    first_host_ns: int = 0  # of its first and last token; host clock
    last_host_ns: int = 0

    def add(self, event: chat.AnswerEvent) -> None:
        """Append what an event adds."""
        now_ns = time.monotonic_ns()
        if event.text or event.logprobs:
            self.first_host_ns = self.first_host_ns or now_ns
            self.last_host_ns = now_ns
        self.text += event.text
        self.logprobs += event.logprobs
        self.finish = event.finish or self.finish


class Sentence:
    """One sentence while it is generated.

    Attributes
    ----------
    draft : Draft
        The longest so far. Decoding is greedy, so that each server generates the same sentence,
        and partials that were published stay valid when another server starts it again.
    problem : str
        Why it is incomplete; empty if it is complete.
    """

    def __init__(self, on_text: Callable[[], None] | None = None) -> None:
        self.draft = Draft()
        self.problem = ""
        self._on_text = on_text

    async def generate(
        self, pool: ServerPool, body: chat.RequestBody, *, retries: int, silence_s: float
    ) -> None:
        """Request it from one server after the other, until one completes it.

        `retries` are tries after the first; a server has failed after `silence_s` without an event.
        """
        for _ in range(retries + 1):
            try:
                server = await pool.take()
            except NoServerError as error:
                self.problem = str(error)
                return
            requested_s = pool.now_s()
            try:
                draft = await self._try(server.connection, body, silence_s)
            except ServerFault as fault:
                self.problem = str(fault)
                pool.rest(server, fault, requested_s=requested_s)
            except RefusedError as refusal:
                self.problem = str(refusal)
                return
            else:
                self.draft, self.problem = draft, ""
                pool.worked(server)
                return
        if retries:
            self.problem = f"{retries + 1} tries failed, the last: {self.problem}"

    async def _try(
        self, connection: ServerConnection, body: chat.RequestBody, silence_s: float
    ) -> Draft:
        draft = Draft()

        def on_event(data: str) -> None:
            if event := chat.parse_event(data):
                draft.add(event)
                if len(draft.text) > len(self.draft.text):
                    self.draft = draft
                if self._on_text:
                    self._on_text()

        await connection.stream(body, on_event, silence_s=silence_s)
        if draft.finish not in ENDS:
            ending = repr(draft.finish) if draft.finish else "no word of why"
            raise ServerFault(f"{connection.url} ended a sentence with {ending}")
        return draft

    def utterance(
        self, *, start_host_ns: int, max_new_tokens: int, cut: str, evidence: Evidence | None
    ) -> Utterance:
        """Return the sentence with its status, score and stamps.

        `cut` says why it ends before it is complete; empty if it does not.
        """
        draft = self.draft
        text, status, reason = self._end(max_new_tokens, cut)
        mean_logprob = math.fsum(draft.logprobs) / len(draft.logprobs) if draft.logprobs else None
        is_number = mean_logprob is not None and math.isfinite(mean_logprob)
        now_ns = time.monotonic_ns()
        return Utterance(
            text=text,
            status=status,
            reason=reason,
            mean_logprob=mean_logprob if is_number and text else None,
            n_tokens=len(draft.logprobs),
            evidence=evidence,
            start_host_ns=start_host_ns,
            first_token_host_ns=draft.first_host_ns or now_ns,
            last_token_host_ns=draft.last_host_ns or now_ns,
        )

    def _end(self, max_new_tokens: int, cut: str) -> tuple[str, Status, str]:
        """Return text, status and reason."""
        draft = self.draft
        text = draft.text.strip()
        if cut:
            text = whole_words(text)
            if not text:
                return "", Status.FAILED, f"{cut}: {self.problem}" if self.problem else cut
            return text, Status.TRUNCATED, cut
        if self.problem:
            return "", Status.FAILED, self.problem
        if not text:
            return "", Status.FAILED, "the model ended without a word"
        if draft.finish == "length":
            return text, Status.TRUNCATED, f"cut at {max_new_tokens} tokens"
        return text, Status.OK, ""
