"""Write down what a real vLLM server answers, for the server in tests that repeats it.

``python -m tests.support.record_vllm`` writes ``tests/data/vllm/recorded.json``. It starts three
servers, one after the other, and takes two minutes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import torch

from daemon.narrators.vllm import chat
from daemon.service.settings import PAPER_PROMPT
from tests.support.vllm_server import NAME, REPOSITORY, TINY_LLAVA, vllm_server

OUT = REPOSITORY / "tests" / "data" / "vllm" / "recorded.json"
KEY = "a-key"
WIDTH = 128


def main() -> None:
    """Record everything."""
    tokens = recorded_tokens()
    sentence = body_of(tokens)
    recorded: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, httpx2.Client(timeout=120) as client:
        with vllm_server(Path(folder), "--api-key", KEY) as server:
            ask = asker(client, server.url, recorded)
            ask("unauthorized", "GET", "/v1/models", key="")
            ask("version", "GET", "/version")
            ask("health", "GET", "/health")
            ask("models", "GET", "/v1/models")
            ask("preflight", "POST", chat.PATH, body_of(tokens, max_new_tokens=2, with_ids=True))
            ask("sentence", "POST", chat.PATH, sentence)
            ask("cut", "POST", chat.PATH, body_of(tokens, max_new_tokens=5))
            ask("other model", "POST", chat.PATH, body_of(tokens, model="other"))
            ask("too long", "POST", chat.PATH, body_of(tokens, max_new_tokens=2000))
            ask("other width", "POST", chat.PATH, body_of(tokens[:, :96]))
        with vllm_server(Path(folder), "--no-enable-mm-embeds") as server:
            asker(client, server.url, recorded)("no embeddings", "POST", chat.PATH, sentence)
        template = str(TINY_LLAVA / "chat_template.jinja")
        with vllm_server(Path(folder), "--chat-template", template) as server:
            ask = asker(client, server.url, recorded)
            ask(
                "other template",
                "POST",
                chat.PATH,
                body_of(tokens, max_new_tokens=2, with_ids=True),
            )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def recorded_tokens() -> torch.Tensor:
    """Return the image tokens of every recorded sentence."""
    return torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0))


def body_of(tokens: torch.Tensor, **options: Any) -> bytes:
    """Return a request as the narrator makes it."""
    defaults: dict[str, Any] = {"model": NAME, "prompt": PAPER_PROMPT, "max_new_tokens": 24}
    return b"".join(chat.completion_request(tokens, **(defaults | options)))


def asker(client: httpx2.Client, url: str, recorded: dict[str, dict[str, Any]]) -> Any:
    """Return a function that asks and writes down the answer under a name."""

    def ask(name: str, method: str, path: str, body: bytes = b"", *, key: str = KEY) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= {"Content-Type": "application/json"} if body else {}
        answer = client.request(method, url + path, content=body, headers=headers)
        recorded[name] = {
            "status": answer.status_code,
            "content_type": answer.headers.get("content-type", ""),
            "body": answer.text.replace(str(TINY_LLAVA), "simulation/weights/tiny-llava"),
        }

    return ask


if __name__ == "__main__":
    main()
