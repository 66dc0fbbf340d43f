"""One sentence: asked for, and begun anew elsewhere when a server fails it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts.narration import Evidence, Status, Utterance
from daemon.narrators.vllm import chat
from daemon.narrators.vllm.connection import RefusedError, ServerConnection, ServerFault
from daemon.narrators.vllm.pool import NoServerError, ServerPool
from daemon.narrators.words import whole_words

ENDS = frozenset({"stop", "length"})
"""Ways in which a sentence ends; a server that shuts down says ``abort``."""


@dataclass(slots=True)
class Draft:
    """What one server has said of a sentence.

    Attributes
    ----------
    text : str
    logprobs : list of float
        One for each token.
    finish : str
        How it ended; empty while it has not.
    first_host_ns, last_host_ns : int
        When its first and last token came, host clock.
    """

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    finish: str = ""
    first_host_ns: int = 0
    last_host_ns: int = 0

    def add(self, said: chat.AnswerEvent) -> None:
        """Take what has come."""
        now_ns = time.monotonic_ns()
        if said.text or said.logprobs:
            self.first_host_ns = self.first_host_ns or now_ns
            self.last_host_ns = now_ns
        self.text += said.text
        self.logprobs += said.logprobs
        self.finish = said.finish or self.finish


class Sentence:
    """One sentence in the making.

    Parameters
    ----------
    on_word : callable, optional
        Called when something has been added.

    Attributes
    ----------
    draft : Draft
        The longest so far. The words are the most likely ones, so that each server says the same,
        and what one has said of a sentence need not be unsaid when another begins it anew.
    problem : str
        Why there will be no more; empty if that is its end.
    """

    def __init__(self, on_word: Callable[[], None] | None = None) -> None:
        self.draft = Draft()
        self.problem = ""
        self._on_word = on_word

    async def say(self, pool: ServerPool, body: bytes, *, retries: int, silence_s: float) -> None:
        """Have it said, by one server after the other if need be.

        Parameters
        ----------
        pool : ServerPool
        body : bytes
            The request.
        retries : int
        silence_s : float
            Without a word, after which a server has failed.
        """
        for _ in range(retries + 1):
            try:
                server = await pool.take()
            except NoServerError as error:
                self.problem = str(error)
                return
            asked_s = pool.now_s()
            try:
                draft = await self._try(server.link, body, silence_s)
            except ServerFault as fault:
                self.problem = str(fault)
                pool.rest(server, fault, asked_s=asked_s)
            except RefusedError as refusal:
                self.problem = str(refusal)
                return
            else:
                self.draft, self.problem = draft, ""
                pool.worked(server)
                return
        if retries:
            self.problem = f"{retries + 1} tries failed, the last: {self.problem}"

    async def _try(self, link: ServerConnection, body: bytes, silence_s: float) -> Draft:
        """Return a whole sentence of one server.

        Raises
        ------
        ServerFault
            If it does not come to an end.
        """
        draft = Draft()

        def take(data: str) -> None:
            if said := chat.said(data):
                draft.add(said)
                if len(draft.text) > len(self.draft.text):
                    self.draft = draft
                if self._on_word:
                    self._on_word()

        await link.ask(body, take, silence_s=silence_s)
        if draft.finish not in ENDS:
            ending = repr(draft.finish) if draft.finish else "no word of why"
            raise ServerFault(f"{link.url} ended a sentence with {ending}")
        return draft

    def utterance(
        self, *, start_host_ns: int, max_new_tokens: int, cut: str, evidence: Evidence | None
    ) -> Utterance:
        """Return what has been said.

        Parameters
        ----------
        start_host_ns : int
            When the window was taken up.
        max_new_tokens : int
        cut : str
            Why it ends here although it goes on; empty if it does not.
        evidence : Evidence or None

        Returns
        -------
        Utterance
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
