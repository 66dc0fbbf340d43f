"""The vllm narrator on servers that repeat a recording, and fail as a test says."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contracts.embedding import PatchEmbedding, PatchGrid
from contracts.errors import MisuseError
from contracts.narration import Status
from daemon import backoff
from daemon.narrators.protocol import EndedRow, PartialRow, narrate
from daemon.narrators.vllm import pool
from daemon.narrators.vllm.connection import ServerConnection
from tests.support.recorded_vllm import RECORDED, SENTENCE, Act, recorded_vllm
from tests.support.tiny_bundle import tiny_windows
from tests.support.vllm_narrators import embeddings_of, narrator_settings
from tests.support.wait_until import wait_until


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Return what a server waits for, open at the end."""
    event = threading.Event()
    yield event
    event.set()


def steps_until(narrator: Any, condition: Any, *, what: str) -> list[PartialRow | EndedRow]:
    """Step until something holds; return what came."""
    events: list[PartialRow | EndedRow] = []

    def step() -> bool:
        events.extend(narrator.step())
        return bool(condition(events))

    wait_until(step, what=what)
    return events


def ended(events: Sequence[PartialRow | EndedRow]) -> list[EndedRow]:
    return [event for event in events if isinstance(event, EndedRow)]


def test_says_what_the_server_says(make_narrator, server, fitting):
    """Text, tokens and score are the server's; the narration says what made it."""
    narrator = make_narrator(server.url)
    (said,) = narrate(narrator, embeddings_of(1))
    assert (said.text, said.status, said.reason) == (SENTENCE, Status.OK, "")
    assert said.n_tokens == RECORDED["sentence"]["body"].count('"logprob":') == 13
    assert said.mean_logprob is not None
    assert -5 < said.mean_logprob < 0
    assert narrator.provenance.backend == "vllm"
    assert narrator.provenance.bundle == fitting.sha256


def test_a_long_sentence_is_cut(make_narrator, server):
    """What the server cut at the limit is marked, with the limit."""
    server.acts.append(Act("cut"))
    (said,) = narrate(make_narrator(server.url, max_new_tokens=5), embeddings_of(1))
    assert (said.status, said.reason, said.n_tokens) == (Status.TRUNCATED, "cut at 5 tokens", 5)
    assert SENTENCE.startswith(said.text)


def test_every_population_is_asked_for_at_once(make_narrator, server, gate):
    """No request of a window waits for another; each ends when its own sentence does."""
    server.acts.extend([Act(n_events=3, gate=gate)] * 4)
    narrator = make_narrator(server.url)
    narrator.begin(7, embeddings_of(4))
    steps_until(narrator, lambda _: server.n_sentences == 4, what="four requests")
    assert narrator.n_rows == 4
    gate.set()
    events = steps_until(narrator, lambda _: narrator.n_rows == 0, what="four sentences")
    assert sorted((event.batch_id, event.row) for event in ended(events)) == [
        (7, row) for row in range(4)
    ]
    assert {event.utterance.text for event in ended(events)} == {SENTENCE}


def test_a_request_leaves_before_the_next_is_made(make_narrator, server, gate):
    """The first population's sentence does not wait for the work on the others."""
    narrator = make_narrator(server.url)
    make = narrator._make
    n_made = 0

    def make_slowly(grid: Any) -> Any:
        nonlocal n_made
        n_made += 1
        if n_made == 2:
            gate.wait(60)
        return make(grid)

    narrator._make = make_slowly
    narrator.begin(0, embeddings_of(3))
    events = steps_until(narrator, lambda _: narrator.n_rows == 2, what="one sentence")
    assert [event.utterance.text for event in ended(events)] == [SENTENCE]
    assert (server.n_sentences, n_made) == (1, 2)
    gate.set()
    steps_until(narrator, lambda _: narrator.n_rows == 0, what="the others")


def test_equal_patches_are_made_into_one_request(make_narrator, server):
    """Each population gets its own sentence all the same."""
    narrator = make_narrator(server.url)
    make, n_made = narrator._make, 0

    def count(grid: Any) -> Any:
        nonlocal n_made
        n_made += 1
        return make(grid)

    narrator._make = count
    one, other = embeddings_of(2)
    said = narrate(narrator, [one, other, replace(one, population="again")])
    assert [each.text for each in said] == [SENTENCE] * 3
    assert (n_made, server.n_sentences) == (2, 3)


def test_rows_beyond_the_limit_take_turns(make_narrator, server, gate):
    """No more requests are under way than the settings allow, and room is said to be so."""
    server.acts.extend([Act(n_events=3, gate=gate)] * 2)
    narrator = make_narrator(server.url, max_rows=2)
    assert narrator.has_room(5)
    narrator.begin(0, embeddings_of(5))
    assert not narrator.has_room(1)
    steps_until(narrator, lambda _: server.n_sentences == 2, what="two requests")
    for _ in range(3):
        assert not narrator.step()
    assert server.n_sentences == 2
    gate.set()
    steps_until(narrator, lambda _: narrator.n_rows == 0, what="five sentences")
    assert narrator.has_room(5)


def test_partials_grow_into_the_sentence(make_narrator, server, gate):
    """Who asks for partials gets the text so far, from its beginning; who does not gets none."""
    server.acts.extend([Act(n_events=5, gate=gate), Act(n_events=5, gate=gate)])
    narrator = make_narrator(server.url)
    narrator.begin(0, embeddings_of(1), with_partials=True)
    narrator.begin(1, embeddings_of(1))
    before = steps_until(
        narrator,
        lambda events: any(isinstance(each, PartialRow) and each.n_tokens == 4 for each in events),
        what="four tokens",
    )
    gate.set()
    events = before + steps_until(narrator, lambda _: narrator.n_rows == 0, what="the end")
    partials = [event for event in events if isinstance(event, PartialRow)]
    texts = [partial.text for partial in partials]
    assert {partial.batch_id for partial in partials} == {0}
    assert texts == sorted(set(texts), key=len)
    assert all(text == SENTENCE or SENTENCE.startswith(f"{text} ") for text in texts)


BAD_STARTS = {
    "500": Act(status=500),
    "503": Act(status=503),
    "429": Act(status=429, headers={"Retry-After": "0"}),
    "cut before a word": Act(n_events=0),
    "cut in the middle": Act(n_events=4),
    "an event that is no JSON": Act(n_events=3, last="data: {nonsense\n\n"),
    "an event of something else": Act(n_events=3, last='data: {"choices": [3]}\n\n'),
    "an error in the middle": Act(n_events=3, last='data: {"error": {"message": "engine"}}\n\n'),
    "aborted": Act(
        n_events=3,
        last='data: {"choices": [{"delta": {}, "finish_reason": "abort"}]}\n\ndata: [DONE]\n\n',
    ),
    "an end without a reason": Act(n_events=3, last="data: [DONE]\n\n"),
    "no stream": Act("models"),
}


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_failed_sentence_is_begun_anew(make_narrator, server, monkeypatch, name):
    """Whatever breaks a sentence, the next try says it whole."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.01)
    server.acts.append(BAD_STARTS[name])
    (said,) = narrate(make_narrator(server.url), embeddings_of(1))
    assert (said.text, said.status) == (SENTENCE, Status.OK)
    assert server.n_sentences == 2


def test_another_server_takes_over(make_narrator, server, other):
    """Sentences that one server breaks off are said by the other; the first is left alone."""
    server.acts.extend([Act(n_events=3)] * 9)
    other_said = make_narrator(server.url, other.url)
    said = narrate(other_said, embeddings_of(6))
    assert {each.text for each in said} == {SENTENCE}
    assert 1 <= server.n_sentences <= 3  # those that left before the first had failed
    assert other.n_sentences == 6


def test_servers_share_the_work(make_narrator, server, other):
    """Two servers that are well get half of the sentences each."""
    narrate(make_narrator(server.url, other.url), embeddings_of(8))
    assert (server.n_sentences, other.n_sentences) == (4, 4)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_silent_server_is_given_up(make_narrator, server, other, gate, retries):
    """A server that says nothing more has failed, and another says the sentence if it may."""
    server.acts.append(Act(n_events=3, gate=gate))
    vllm = {"silence_timeout_s": 0.1, "retries": retries}
    narrator = make_narrator(other.url, server.url, vllm=vllm)
    (said,) = narrate(narrator, embeddings_of(1))
    if retries:
        assert (said.text, said.status, other.n_sentences) == (SENTENCE, Status.OK, 1)
    else:
        assert (said.text, said.status) == ("", Status.FAILED)
        assert said.reason == f"{server.url} was silent for 0.1 s"


def test_a_reset_has_a_reason(make_narrator, server, gate):
    """The library has no words for a connection that is reset; its kind is named instead."""
    server.acts.append(Act(n_events=3, gate=gate))
    narrator = make_narrator(server.url, vllm={"retries": 0})
    narrator.begin(0, embeddings_of(1), with_partials=True)
    steps_until(narrator, bool, what="a partial")
    (connection,) = server.connections
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    (end,) = ended(steps_until(narrator, lambda _: narrator.n_rows == 0, what="the end"))
    assert (end.utterance.status, end.utterance.reason) == (
        Status.FAILED,
        f"{server.url} broke off: ReadError",
    )


def test_bytes_without_words_are_silence(make_narrator, server):
    """What keeps a connection open and says nothing does not keep a sentence waiting."""
    narrator = make_narrator(server.url, vllm={"silence_timeout_s": 0.3, "retries": 0})
    server.drips = "/v1/chat/completions"
    (said,) = narrate(narrator, embeddings_of(1))
    assert (said.status, said.reason) == (
        Status.FAILED,
        f"{server.url} was silent for 0.3 s",
    )


def test_a_connection_is_used_again(make_narrator, server):
    """One sentence after the other costs one connection, the preflight's."""
    narrator = make_narrator(server.url)
    for _ in range(3):
        narrate(narrator, embeddings_of(1))
    assert len(server.connections) == 1


def test_tries_come_to_an_end(make_narrator, server, monkeypatch):
    """After the last try the narration fails, with how many there were and the last reason."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.001)
    server.acts.extend([Act(status=500)] * 9)
    (said,) = narrate(make_narrator(server.url, vllm={"retries": 2}), embeddings_of(1))
    assert (said.status, said.text) == (Status.FAILED, "")
    assert "3 tries failed" in said.reason
    assert f"{server.url} answered 500" in said.reason
    assert "status 500, as asked" in said.reason
    assert server.n_sentences == 3


def test_a_refusal_is_final(make_narrator, server):
    """What a server will not do is not asked again, and its words are the reason."""
    server.acts.append(Act("too long"))
    narrator = make_narrator(server.url)
    (said,) = narrate(narrator, embeddings_of(1))
    assert said.status is Status.FAILED
    assert "cannot be greater than max_model_len" in said.reason
    assert server.n_sentences == 1
    (said,) = narrate(narrator, embeddings_of(1))
    assert said.status is Status.OK


@pytest.mark.parametrize(
    ("n_events", "text"), [(4, "A bright"), (5, "A bright street:"), (13, SENTENCE)]
)
def test_the_deadline_cuts_at_a_word(make_narrator, server, gate, n_events, text):
    """What is not said in time is cut at its last whole word, as every partial is, and marked."""
    server.acts.append(Act(n_events=n_events, gate=gate))
    narrator = make_narrator(server.url)
    narrator.begin(3, embeddings_of(1), with_partials=True)
    partials = steps_until(
        narrator,
        lambda events: any(event.n_tokens == n_events - 1 for event in events),
        what="the words",
    )
    assert isinstance(partials[-1], PartialRow)
    assert partials[-1].text == text
    narrator._settings = narrator_settings(deadline_s=1e-6)  # it has been over for long
    (event,) = narrator.step()
    said = event.utterance
    assert (said.status, said.reason) == (Status.TRUNCATED, "cut at the deadline of 1e-06 s")
    assert (said.text, said.n_tokens) == (text, n_events - 1)
    assert said.mean_logprob is not None


def test_rows_that_are_late_leave_together(make_narrator, server, gate, monkeypatch):
    """All requests of a window are taken back before any is waited for."""
    log: list[str] = []

    async def stream(*_: object, **__: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("told")
            await asyncio.sleep(0)
            log.append("gone")

    narrator = make_narrator(server.url, deadline_s=1e-6)
    monkeypatch.setattr(ServerConnection, "stream", stream)
    narrator.begin(3, embeddings_of(3))
    assert len(ended(narrator.step())) == 3
    assert log == ["told"] * 3 + ["gone"] * 3


def test_the_deadline_before_the_first_word(make_narrator, server, gate):
    """With nothing to cut the narration fails, and says so."""
    server.acts.append(Act(n_events=0, gate=gate))
    narrator = make_narrator(server.url, deadline_s=0.05)
    narrator.begin(3, embeddings_of(1))
    events = steps_until(narrator, lambda _: narrator.n_rows == 0, what="the end")
    (event,) = ended(events)
    assert event.utterance.status is Status.FAILED
    assert event.utterance.reason == "cut at the deadline of 0.05 s"


def test_a_cancelled_window_leaves_at_once(make_narrator, server, gate):
    """It is said no more of, the others go on, and its connection is closed."""
    server.acts.extend([Act(n_events=3, gate=gate)] * 3)
    narrator = make_narrator(server.url)
    narrator.begin(0, embeddings_of(2), with_partials=True)
    narrator.begin(1, embeddings_of(1))
    steps_until(narrator, lambda _: server.n_sentences == 3, what="three requests")
    narrator.cancel(0)
    narrator.cancel(0)
    assert narrator.n_rows == 1
    gate.set()
    events = steps_until(narrator, lambda _: narrator.n_rows == 0, what="the end")
    assert {event.batch_id for event in events} == {1}
    narrator.begin(0, embeddings_of(1))
    events = steps_until(narrator, lambda _: narrator.n_rows == 0, what="a number used again")
    assert [event.utterance.status for event in ended(events)] == [Status.OK]


def test_patches_that_are_no_numbers_are_not_sent(make_narrator, server):
    """A broken grid fails alone; a server might not survive it."""
    good = embeddings_of(1)[0]
    broken = replace(good, patches=np.full_like(good.patches, np.nan))
    failed, said = narrate(make_narrator(server.url), [broken, good])
    assert failed.status is Status.FAILED
    assert "not numbers" in failed.reason
    assert said.text == SENTENCE
    assert server.n_sentences == 1


def test_a_server_that_goes_and_comes_back(make_narrator, monkeypatch):
    """Narrations fail with the reason while it is gone, and come back with it, after a check."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool, "MAX_WAIT_S", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE_S", 0.2)
    with recorded_vllm() as server:
        narrator = make_narrator(server.url)
        port = server.server_port
        assert narrate(narrator, embeddings_of(1))[0].status is Status.OK
    for _ in range(3):
        for said in narrate(narrator, embeddings_of(2)):
            assert said.status is Status.FAILED
            assert f"127.0.0.1:{port} cannot be reached" in said.reason
    with recorded_vllm(port) as server:
        wait_until(
            lambda: narrate(narrator, embeddings_of(1))[0].status is Status.OK, what="it is back"
        )
        assert [path for path, _, _ in server.requests[:3]] == [
            "/health", "/v1/models", "/v1/chat/completions",
        ]  # fmt: skip
        assert "return_token_ids" in server.requests[2][2]


def test_another_model_does_not_come_back(make_narrator, server, monkeypatch):
    """A server that has been started again with another model is not used, and that is said."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool, "MAX_WAIT_S", 0.2)
    narrator = make_narrator(server.url)
    server.acts.append(Act(status=500))
    server.preflight = "other template"
    (said,) = narrate(narrator, embeddings_of(1))
    assert said.status is Status.FAILED
    assert "--chat-template configs/vllm/narrator.jinja" in said.reason
    assert server.n_sentences == 1


def test_the_key_is_sent_and_never_said(make_narrator, server, monkeypatch, caplog):
    """The key comes from the environment, goes with every request, and is in no log line."""
    monkeypatch.setenv("RIG_KEY", "s3cret")
    caplog.set_level("DEBUG")
    server.acts.append(Act(status=400))
    narrator = make_narrator(server.url, vllm={"key_variable": "RIG_KEY"})
    (said,) = narrate(narrator, embeddings_of(1))
    assert {key for _, key, _ in server.requests} == {"Bearer s3cret"}
    assert "s3cret" not in caplog.text + said.reason


def test_stamps_are_in_order(make_narrator, server):
    """Begun, first word, last word, ended: on the host clock."""
    narrator = make_narrator(server.url)
    before = time.monotonic_ns()
    for said in narrate(narrator, embeddings_of(3)):
        stamps = [
            before, said.start_host_ns, said.first_token_host_ns, said.last_token_host_ns,
            time.monotonic_ns(),
        ]  # fmt: skip
        assert stamps == sorted(stamps)


def test_nothing_under_way(make_narrator, server):
    """No window, no events; an empty one neither."""
    narrator = make_narrator(server.url)
    assert narrator.step() == []
    narrator.begin(0, [])
    assert (narrator.n_rows, list(narrator.step())) == (0, [])


def test_our_own_mistakes_are_raised(make_narrator, server):
    """Patches of another grid, and a number that is under way."""
    narrator = make_narrator(server.url)
    (window,) = tiny_windows(1)
    small = PatchEmbedding(window, "all", 12, PatchGrid(2, 2, 96), np.zeros((4, 96), np.float32))
    with pytest.raises(MisuseError, match="patches must be of"):
        narrator.begin(0, [small])
    narrator.begin(0, embeddings_of(1))
    with pytest.raises(MisuseError, match="under way"):
        narrator.begin(0, embeddings_of(1))
