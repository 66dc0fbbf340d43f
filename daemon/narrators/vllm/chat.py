"""The servers' protocol without sockets: builds requests from image tokens, parses the answers.

``tests/data/vllm/`` has recorded answers of a real server.

References
----------
vLLM's OpenAI-compatible server, chat completions with ``image_embeds`` parts
(https://docs.vllm.ai/en/latest/features/multimodal_inputs/).
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pybase64

from daemon.service.settings import IMAGE_TOKEN

if TYPE_CHECKING:
    from torch import Tensor

PATH = "/v1/chat/completions"

END = "[DONE]"
"""Data of the event after the last."""


CHUNK_BYTES = 3 << 18
"""Of the image tokens in a part of a body: no base64 character stands for bytes of two parts."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The body of a request, JSON, encoded part by part while it is sent."""

    head: bytes
    data: memoryview  # between head and tail, as base64
    tail: bytes

    def __len__(self) -> int:
        n_groups = -(-len(self.data) // 3)
        return len(self.head) + 4 * n_groups + len(self.tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for start in range(0, len(self.data), CHUNK_BYTES):
            yield pybase64.b64encode(self.data[start : start + CHUNK_BYTES])
        yield self.tail


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """What one event of a streamed answer adds."""

    text: str
    logprobs: tuple[float, ...]  # one for each token, the end token included
    finish: str  # ``stop`` or ``length`` in the last event; empty before


def completion_request(
    tokens: Tensor, *, model: str, prompt: str, max_new_tokens: int, with_ids: bool = False
) -> RequestBody:
    """Return the body of a request for greedy decoding.

    The server's template puts nothing around the message. The image tokens, (n_patches, width), are
    in main memory. With `with_ids` the server also returns the token ids of the prompt.
    """
    import torch

    before, after = prompt.split(IMAGE_TOKEN)
    file = io.BytesIO()
    if tokens.untyped_storage().nbytes() > tokens.nbytes:
        tokens = tokens.clone()  # torch saves the whole memory that a slice is of
    torch.save(tokens[None], file)  # vLLM wants a batch of one
    # Apart from the rest: json would inspect each of millions of characters.
    place = secrets.token_hex(16)
    parts = [
        {"type": "text", "text": before},
        {"type": "image_embeds", "image_embeds": place},
        {"type": "text", "text": after},
    ]
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "user", "content": [part for part in parts if part.get("text") != ""]}
        ],
        "add_generation_prompt": False,
        "add_special_tokens": True,
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 0,
        "stream": True,
    }
    if with_ids:
        body["return_token_ids"] = True
    head, _, tail = json.dumps(body).partition(place)
    return RequestBody(head.encode(), file.getbuffer(), tail.encode())


def parse_event(data: str) -> AnswerEvent | None:
    """Parse one event of an answer, JSON; return None for an event without text.

    Raises
    ------
    ValueError
        With the server's message if it stopped in the middle, or if this is no such event.
    """
    event = _object(data)
    if error := event.get("error"):
        raise ValueError(message_of(error))
    try:
        if not event["choices"]:  # usage statistics
            return None
        choice = event["choices"][0]
        scores = (choice.get("logprobs") or {}).get("content") or ()
        return AnswerEvent(
            text=_encodable(str(choice["delta"].get("content") or "")),
            logprobs=tuple(float(score["logprob"]) for score in scores),
            finish=str(choice.get("finish_reason") or ""),
        )
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"an event that is no part of a chat completion: {data:.200}") from error


def prompt_ids(data: str) -> list[int] | None:
    """Return the token ids of the prompt, if this event has them."""
    ids = _object(data).get("prompt_token_ids")
    return ids if isinstance(ids, list) else None


def served_models(body: str) -> dict[str, int | None]:
    """Parse the list of models, by name.

    The numbers are the tokens of prompt and sentence together that each model takes; None if the
    server does not report them.

    Raises
    ------
    ValueError
        If it is no such list.
    """
    try:
        return {
            str(model["id"]): None if (n := model.get("max_model_len")) is None else int(n)
            for model in _object(body)["data"]
        }
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no list of models: {body:.200}") from error


def error_message(body: str) -> str:
    """Return the message in an error answer; nothing for a web page."""
    try:
        answer = _object(body)
    except ValueError:
        text = body.strip()
        return "" if text.startswith("<") else f"{text:.300}"
    return message_of(answer.get("error") or answer.get("detail") or answer)


def message_of(error: Any) -> str:
    """Return the message of an error object in the format of OpenAI's API."""
    message = error.get("message", error) if isinstance(error, dict) else error
    return f"{message!s:.300}"


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"JSON that is too deep: {text:.60}") from error
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {text:.200}")  # noqa: TRY004 - the peer's fault
    return value


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()
