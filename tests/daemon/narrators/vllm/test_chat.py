"""The servers' protocol as values, against what a real server said."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch

from daemon.narrators.vllm import chat
from daemon.service.settings import PAPER_PROMPT
from tests.support.recorded_vllm import RECORDED, SENTENCE

TEMPLATE = Path(__file__).parents[4] / "configs" / "vllm" / "narrator.jinja"

PROMPTS = (
    PAPER_PROMPT,
    "<image>",
    "<image>\n What?\n\n",
    "  \tA: {{ x }} {% y %}<image>",
    "[INST] <image> 中 [/INST]",
)


def events(name: str) -> list[str]:
    """Return the data of each event of a recorded answer."""
    lines = RECORDED[name]["body"].splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def request_of(prompt: str = PAPER_PROMPT, **options: Any) -> dict[str, Any]:
    """Return a request as a server reads it."""
    body = chat.completion_request(
        torch.arange(6.0).reshape(3, 2), model="m", prompt=prompt, max_new_tokens=7, **options
    )
    return dict(json.loads(b"".join(body)))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_template_renders_the_prompt_word_for_word(prompt):
    """Whatever stands around the image stands there in the server's prompt, and nothing else."""
    template = jinja2.Environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    messages = request_of(prompt)["messages"]
    for part in messages[0]["content"]:
        if part["type"] == "image_embeds":
            part["type"] = "image"  # as vLLM hands it to a template
    assert template.render(messages=messages, bos_token="<s>") == prompt


def test_the_image_tokens_come_through():
    """The tensor is that of one image, of its own memory, in its own format."""
    whole = torch.arange(24.0).reshape(4, 3, 2).to(torch.bfloat16)
    made = chat.completion_request(whole[2], model="m", prompt=PAPER_PROMPT, max_new_tokens=7)
    body = json.loads(b"".join(made))
    (part,) = [p for p in body["messages"][0]["content"] if p["type"] == "image_embeds"]
    data = base64.b64decode(part["image_embeds"])
    read = torch.load(io.BytesIO(data), weights_only=True)
    assert read.dtype == torch.bfloat16
    assert torch.equal(read, whole[2:3])
    assert read.untyped_storage().nbytes() == 3 * 2 * 2


@pytest.mark.parametrize("n_bytes", [0, 1, 2, 3, 8, 9, 10])
def test_a_body_in_parts_is_the_body(n_bytes, monkeypatch):
    """However many parts the image tokens are encoded in, their base64 is that of the whole."""
    monkeypatch.setattr(chat, "CHUNK_BYTES", 3)
    data = bytes(range(n_bytes))
    body = chat.RequestBody(b'{"a": "', memoryview(data), b'"}')
    whole = b"".join(body)
    assert base64.b64decode(json.loads(whole)["a"]) == data
    assert len(body) == len(whole)


def test_a_request_asks_for_the_likeliest_words():
    """Greedy, streamed, with scores, and with the prompt's own words alone."""
    request = request_of()
    assert (request["temperature"], request["max_tokens"], request["model"]) == (0, 7, "m")
    assert request["stream"]
    assert request["logprobs"]
    assert request["add_special_tokens"]
    assert not request["add_generation_prompt"]
    assert "return_token_ids" not in request
    assert request_of(with_ids=True)["return_token_ids"]


def test_a_recorded_sentence_is_read():
    """Its words, a score for each token, and how it ended."""
    said = [one for data in events("sentence")[:-1] if (one := chat.parse_event(data))]
    assert "".join(one.text for one in said).strip() == SENTENCE
    scores = [score for one in said for score in one.logprobs]
    assert len(scores) == 13
    assert all(-20 < score <= 0 for score in scores)
    assert [one.finish for one in said if one.finish] == ["stop"]
    assert events("sentence")[-1] == chat.END


def test_the_prompts_tokens_are_read():
    """They are in the first event, if they were asked for."""
    ids = [chat.prompt_ids(data) for data in events("preflight")[:-1]]
    assert ids[0] is not None
    assert (len(ids[0]), ids[0].count(4)) == (90, 64)
    assert not any(ids[1:])
    assert not any(chat.prompt_ids(data) for data in events("sentence")[:-1])


def test_an_account_of_tokens_has_no_words():
    """The event with the usage, which some servers always send, is passed over."""
    assert chat.parse_event('{"choices": [], "usage": {"completion_tokens": 3}}') is None


def test_a_server_without_scores():
    """Words without scores are words."""
    said = chat.parse_event('{"choices": [{"delta": {"content": "A"}, "finish_reason": null}]}')
    assert said == chat.AnswerEvent("A", (), "")


@pytest.mark.parametrize(
    "data",
    ["", "3", "null", "{", "{}", '{"choices": 3}', '{"choices": [{}]}', '{"choices": [null]}',
     '{"choices": [{"delta": {}, "logprobs": {"content": [3]}}]}', '{"error": {"message": "x"}}',
     '{"choices": [{"delta": {}, "logprobs": {"content": [{"logprob": 9' + "0" * 400 + "}]}}]}",
     '{"choices":' + "[" * 100_000],
    ids=lambda data: data[:60],
)  # fmt: skip
def test_what_is_no_event_is_the_servers_fault(data):
    """Anything that cannot be read is one kind of error."""
    with pytest.raises(ValueError, match=r".+"):
        chat.parse_event(data)


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"data": 3}', '{"data": [{}]}', "<html>",
     '{"data": [{"id": "m", "max_model_len": 1e999}]}', "[" * 100_000],
    ids=lambda body: body[:60],
)  # fmt: skip
def test_what_is_no_list_of_models(body):
    """Anything else at that path is no vLLM server."""
    with pytest.raises(ValueError, match=r".+"):
        chat.served_models(body)


def test_recorded_models_are_read():
    """Their names, and the tokens that each holds."""
    assert chat.served_models(RECORDED["models"]["body"]) == {"tiny-llava": 512}
    assert chat.served_models('{"data": [{"id": "a"}]}') == {"a": None}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unauthorized", "Unauthorized"),
        ("no embeddings", "You must set `--enable-mm-embeds`"),
        ("other model", "The model `other` does not exist"),
        ("too long", "max_tokens=2000 cannot be greater than max_model_len=512"),
    ],
)
def test_recorded_errors_are_read(name, words):
    """The server's own words are found in its answer."""
    assert RECORDED[name]["status"] >= 400
    assert chat.error_message(RECORDED[name]["body"]).startswith(words)


def test_half_a_letter_is_replaced():
    """What JSON can hold and no narration does not come through."""
    said = chat.parse_event('{"choices": [{"delta": {"content": "A \\ud83d"}}]}')
    assert said == chat.AnswerEvent("A ?", (), "")


def test_an_error_page_is_cut():
    """Words are shown, not all of them; of a web page nothing is."""
    assert chat.error_message(" <html>" + "x" * 9999) == ""
    assert chat.error_message("[" * 100_000) == "[" * 300
    assert chat.error_message("x" * 9999) == "x" * 300
    assert math.isclose(len(chat.error_message(json.dumps({"error": "y" * 9999}))), 300)
