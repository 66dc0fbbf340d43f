"""The check of a server before it is used: a short narration of an empty grid.

It finds a server with another model, another template or without a flag before the first window,
and keeps the cost of a server's first sentence (kernels, memory) from any window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

import numpy as np

from contracts.errors import DependencyError, UserError
from contracts.manifest import Manifest
from daemon.narrators.protocol import WARM_UP_TOKENS
from daemon.narrators.vllm import chat
from daemon.narrators.vllm.connection import RefusedError, ServerConnection, ServerFault
from daemon.narrators.vllm.projector import Projector
from daemon.service.settings import NarratorSettings, VllmSettings

SERVE = "configs/vllm/serve MODEL"
"""Starts a server with every flag that this back-end needs."""


class Preflight:
    """Checks servers, one for each call.

    Raises
    ------
    UserError
        If the model's tokenizer does not fit the prompt.
    """

    def __init__(
        self,
        projector: Projector,
        manifest: Manifest,
        *,
        narrator: NarratorSettings,
        vllm: VllmSettings,
        model: str,
    ) -> None:
        grid = manifest.patch_grid
        self._model = model
        self._key_variable = vllm.key_variable
        self._timeout_s = vllm.start_timeout_s
        self._prompt_ids = projector.prompt_ids(narrator.prompt, grid.n_patches)
        self._n_tokens = len(self._prompt_ids) + narrator.max_new_tokens
        self._max_new_tokens = narrator.max_new_tokens
        empty = projector.project(np.zeros((1, grid.n_patches, grid.dim), np.float32))[0]
        self._body = chat.completion_request(
            empty,
            model=model,
            prompt=narrator.prompt,
            max_new_tokens=min(WARM_UP_TOKENS, narrator.max_new_tokens),
            with_ids=True,
        )

    async def __call__(self, connection: ServerConnection) -> None:
        """Check one server.

        Raises
        ------
        ServerFault
            If it cannot be reached or is not healthy.
        UserError
            If it was started with the wrong flags or model, with what to change.
        """
        try:
            self._check_model(connection.url, await connection.served_models())
            prompts: list[list[int]] = []
            async with asyncio.timeout(self._timeout_s):
                await connection.stream(
                    self._body,
                    lambda data: prompts.extend(filter(None, [chat.prompt_ids(data)])),
                    silence_s=self._timeout_s,
                )
        except RefusedError as error:
            raise UserError(self._remedy(error)) from error
        except TimeoutError as error:
            raise ServerFault(
                f"{connection.url} had not said {WARM_UP_TOKENS} words after {self._timeout_s:g} s"
            ) from error
        self._check_prompt(connection.url, prompts)

    def _check_model(self, url: str, served: dict[str, int | None]) -> None:
        if self._model not in served:
            raise UserError(
                f"{url} serves {', '.join(map(repr, served)) or 'no model'}, and not "
                f"{self._model!r}. Start it with --served-model-name {self._model}, or set "
                "vllm.model to a name that it serves, if that is the model the bundle was made "
                "for."
            )
        n_most = served[self._model]
        if n_most is not None and n_most < self._n_tokens:
            raise UserError(
                f"{url} holds {n_most} tokens of a prompt and its sentence; prompt, patches and "
                f"narrator.max_new_tokens = {self._max_new_tokens} take {self._n_tokens}. Start "
                f"it with --max-model-len {self._n_tokens} or more."
            )

    def _check_prompt(self, url: str, prompts: Sequence[list[int]]) -> None:
        # Compare the server's token ids of the prompt, if it returned them.
        if prompts and prompts[0] != self._prompt_ids:
            raise UserError(
                f"{url} reads the prompt as {len(prompts[0])} tokens that differ from the model's "
                f"own {len(self._prompt_ids)}: its chat template adds or drops something. Start it "
                "with --chat-template configs/vllm/narrator.jinja "
                "--chat-template-content-format openai."
            )

    def _remedy(self, error: RefusedError) -> str:
        """Add the flag or setting that a refusal is about."""
        if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return f"{error}. Put its key into the environment variable {self._key_variable}."
        if "enable-mm-embeds" in str(error) or "enable_mm_embeds" in str(error):
            return (
                f"{error}. Start it with --enable-mm-embeds "
                "--limit-mm-per-prompt '{\"image\": 0}'."
            )
        return f"{error}. It must be a vLLM server as '{SERVE}' starts one; see docs/vllm.md."


async def check_servers(
    check: Preflight, connections: Sequence[ServerConnection]
) -> list[tuple[int, ServerFault]]:
    """Check every server at once; return the indices and faults of those that must rest.

    Raises
    ------
    UserError
        If one was started in the wrong way.
    DependencyError
        If none is healthy.
    """
    results = await asyncio.gather(*map(check, connections), return_exceptions=True)
    wrong = [str(result) for result in results if isinstance(result, UserError)]
    if wrong:
        raise UserError("\n".join(wrong))
    for result in results:
        if result is not None and not isinstance(result, ServerFault):
            raise result
    resting = [(i, fault) for i, fault in enumerate(results) if isinstance(fault, ServerFault)]
    if len(resting) == len(connections):
        raise DependencyError(
            f"no vLLM server is there: {'; '.join(str(fault) for _, fault in resting)}. Start one "
            f"with '{SERVE}' (docs/vllm.md), or set vllm.urls."
        )
    return resting
