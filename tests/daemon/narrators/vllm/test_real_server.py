"""The vllm narrator on a real vLLM server on the CPU, with the tiny LLaVA that ships.

The server starts longer than all checks take. So they are one test, which no way of sharing tests
between processes can make start two.
"""

from __future__ import annotations

import json
import re
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from contracts.manifest import Manifest
from contracts.narration import Status
from daemon.narrators.protocol import EndedRow, PartialRow, narrate
from daemon.narrators.vllm import chat
from daemon.narrators.vllm.narrator import VllmNarrator
from daemon.service.settings import PAPER_PROMPT
from tests.support.processes import get
from tests.support.record_vllm import body_of, recorded_tokens
from tests.support.recorded_vllm import RECORDED
from tests.support.vllm_narrators import embeddings_of, narrator_settings, vllm_settings
from tests.support.vllm_server import IS_INSTALLED, TINY_LLAVA, WHY_NOT, VllmProcess, vllm_server
from tests.support.wait_until import wait_until

pytestmark = [
    pytest.mark.skipif(not IS_INSTALLED, reason=WHY_NOT),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

MAX_NEW_TOKENS = 24


def test_a_real_server(tmp_path: Path, fitting: Manifest, subtests: pytest.Subtests):
    """Each check holds, on a narrator of its own and one server for all."""
    with vllm_server(tmp_path) as real:
        for check in (
            token_for_token_what_transformers_says,
            the_recording_is_what_it_says,
            partials_and_a_cancelled_window,
            a_server_that_stops_in_the_middle,
            what_a_hostile_request_does,
        ):
            with subtests.test(check.__name__), closing(narrator_on(real, fitting)) as narrator:
                check(narrator, real)


def narrator_on(real: VllmProcess, fitting: Manifest) -> VllmNarrator:
    """Return a narrator on a server."""
    return VllmNarrator(
        str(TINY_LLAVA),
        revision="",
        manifest=fitting,
        settings=narrator_settings(max_new_tokens=MAX_NEW_TOKENS),
        vllm=vllm_settings(real.url, silence_timeout_s=1.0, retries=0),
    )


def plain_road(embeddings: Any) -> list[tuple[str, int, float]]:
    """Return text, tokens and mean score of each, as transformers says them."""
    model = LlavaForConditionalGeneration.from_pretrained(TINY_LLAVA, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(TINY_LLAVA)
    ids = tokenizer(PAPER_PROMPT)["input_ids"]
    at = ids.index(model.config.image_token_id)
    words = model.get_input_embeddings()
    said = []
    with torch.inference_mode():
        before, after = words(torch.tensor([ids[:at]])), words(torch.tensor([ids[at + 1 :]]))
        for each in embeddings:
            image = model.model.multi_modal_projector(torch.from_numpy(each.patches)[None])
            prompt = torch.cat([before, image, after], dim=1)
            out = model.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
            tokens = out.sequences[0].tolist()
            scores = [
                float(logits[0].log_softmax(-1)[token])
                for logits, token in zip(out.logits, tokens, strict=True)
            ]
            text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
            said.append((text, len(tokens), float(np.mean(scores))))
    return said


def token_for_token_what_transformers_says(narrator: VllmNarrator, real: VllmProcess) -> None:
    """Eight populations at once: text, number of tokens and scores are the plain road's."""
    embeddings = embeddings_of(8)
    said = narrate(narrator, embeddings)
    expected = plain_road(embeddings)
    assert len({text for text, _, _ in expected}) == 8
    for each, (text, n_tokens, mean_logprob) in zip(said, expected, strict=True):
        assert (each.text, each.n_tokens) == (text, n_tokens)
        assert each.mean_logprob == pytest.approx(mean_logprob, abs=1e-4)
        assert each.status in {Status.OK, Status.TRUNCATED}


def the_recording_is_what_it_says(narrator: VllmNarrator, real: VllmProcess) -> None:
    """The server in the other tests repeats what this one says."""
    tokens = recorded_tokens()
    bodies = {
        "preflight": body_of(tokens, max_new_tokens=2, with_ids=True),
        "sentence": body_of(tokens),
        "cut": body_of(tokens, max_new_tokens=5),
        "other model": body_of(tokens, model="other"),
        "too long": body_of(tokens, max_new_tokens=2000),
    }
    headers = {"Content-Type": "application/json"}
    with httpx2.Client(base_url=real.url, timeout=60) as client:
        answers = {
            name: client.post(chat.PATH, content=body, headers=headers)
            for name, body in bodies.items()
        }
        models = client.get("/v1/models")
    for name, answer in answers.items():
        assert answer.status_code == RECORDED[name]["status"]
        assert answer.headers["content-type"] == RECORDED[name]["content_type"]
        assert essence(answer.text) == essence(RECORDED[name]["body"])
    assert chat.served_models(models.text) == chat.served_models(RECORDED["models"]["body"])


def essence(body: str) -> object:
    """Return what does not differ from one answer to the next: words, scores, end, prompt.

    A server that is in arrears puts several words into one event.
    """
    if not body.startswith("data: "):
        return json.loads(body)
    events = [line.removeprefix("data: ") for line in body.splitlines() if line]
    said = [one for data in events[:-1] if (one := chat.parse_event(data))]
    return (
        "".join(one.text for one in said),
        [round(score, 2) for one in said for score in one.logprobs],
        "".join(one.finish for one in said),
        chat.prompt_ids(events[0]),
        events[-1],
    )


def partials_and_a_cancelled_window(narrator: VllmNarrator, real: VllmProcess) -> None:
    """The words come one after the other, and the server hears that one window is given up."""
    narrator.begin(0, embeddings_of(1), with_partials=True)
    narrator.begin(1, embeddings_of(2, seed=7))
    events: list[PartialRow | EndedRow] = []

    def step() -> bool:
        events.extend(narrator.step())
        return bool(events)

    wait_until(step, what="a first word")
    narrator.cancel(1)
    wait_until(lambda: step() and narrator.n_rows == 0, what="the end")
    assert {event.batch_id for event in events} == {0}
    for batch_id in range(2, 40):  # on a busy machine all words of a sentence may come at once
        if any(isinstance(event, PartialRow) for event in events):
            break
        narrator.begin(batch_id, embeddings_of(1), with_partials=True)
        wait_until(lambda: step() and narrator.n_rows == 0, what="the end")
    (text,) = {event.utterance.text for event in events if isinstance(event, EndedRow)}
    partials = [event.text for event in events if isinstance(event, PartialRow)]
    assert partials
    assert all(text.startswith(partial) for partial in partials)
    wait_until(lambda: n_running(real) == 0, what="nothing runs on the server")


def n_running(real: VllmProcess) -> float:
    """Return the requests that the server works at, by its own account."""
    found = re.findall(
        r"^vllm:num_requests_running\{.*\} (\S+)$", get(f"{real.url}/metrics")[1], re.M
    )
    return sum(map(float, found))


def a_server_that_stops_in_the_middle(narrator: VllmNarrator, real: VllmProcess) -> None:
    """A server that is stopped fails sentences with the reason, and is back when it goes on."""
    assert narrate(narrator, embeddings_of(1))[0].status is Status.OK
    real.signal(signal.SIGSTOP)
    try:
        said = narrate(narrator, embeddings_of(2))
    finally:
        real.signal(signal.SIGCONT)
    assert [each.status for each in said] == [Status.FAILED] * 2
    assert {each.reason for each in said} == {f"{real.url} was silent for 1 s"}
    wait_until(
        lambda: narrate(narrator, embeddings_of(1))[0].status is Status.OK, what="it is back"
    )


def what_a_hostile_request_does(narrator: VllmNarrator, real: VllmProcess) -> None:
    """Image tokens of another number or width are refused, and the server lives on."""
    tokens = recorded_tokens()
    headers = {"Content-Type": "application/json"}
    bad = {
        "fewer patches": body_of(tokens[:3]),
        "other width": body_of(tokens[:, :96]),
        "no tensor": json.dumps(
            json.loads(body_of(tokens)) | {"messages": [{"role": "user", "content": [
                {"type": "image_embeds", "image_embeds": "bm90IGEgdGVuc29y"}]}]}
        ).encode(),
    }  # fmt: skip
    with httpx2.Client(base_url=real.url, timeout=60) as client:
        for body in bad.values():
            client.post(chat.PATH, content=body, headers=headers)
    wait_until(
        lambda: narrate(narrator, embeddings_of(1))[0].status is Status.OK, what="it lives on"
    )
