"""What a server must do before it is used: say a word or two about nothing, as it would say them.

So a server with another model, another template or without a flag is found before the first
window; and what its first sentence takes longer (kernels, memory) no window pays for.
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
"""Starts a server with all that this back-end needs."""


class Preflight:
    """The check of one server; the same for all of them.

    Parameters
    ----------
    projector : Projector
    manifest : Manifest
        Of the bundle that the patches come from.
    narrator : NarratorSettings
    vllm : VllmSettings
    model : str
        Name that the servers must serve.

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
        nothing = projector.project(np.zeros((1, grid.n_patches, grid.dim), np.float32))[0]
        self._body = chat.request(
            nothing,
            model=model,
            prompt=narrator.prompt,
            max_new_tokens=min(WARM_UP_TOKENS, narrator.max_new_tokens),
            with_ids=True,
        )

    async def __call__(self, link: ServerConnection) -> None:
        """Check one server.

        Raises
        ------
        ServerFault
            If it is not there or not well.
        UserError
            If it was started in another way than this back-end needs, with what to change.
        """
        try:
            self._check_model(link.url, await link.served_models())
            read: list[list[int]] = []
            async with asyncio.timeout(self._timeout_s):
                await link.ask(
                    self._body,
                    lambda data: read.extend(filter(None, [chat.prompt_ids(data)])),
                    silence_s=self._timeout_s,
                )
        except RefusedError as error:
            raise UserError(self._remedy(error)) from error
        except TimeoutError as error:
            raise ServerFault(
                f"{link.url} had not said {WARM_UP_TOKENS} words after {self._timeout_s:g} s"
            ) from error
        self._check_prompt(link.url, read)

    def _check_model(self, url: str, served: dict[str, int | None]) -> None:
        """Compare names and lengths.

        Raises
        ------
        UserError
            If the server lacks the model, or the room for prompt and sentence.
        """
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

    def _check_prompt(self, url: str, read: Sequence[list[int]]) -> None:
        """Compare the tokens that the server made of the prompt, if it says which.

        Raises
        ------
        UserError
            If they are not the model's own.
        """
        if read and read[0] != self._prompt_ids:
            raise UserError(
                f"{url} reads the prompt as {len(read[0])} tokens that differ from the model's own "
                f"{len(self._prompt_ids)}: its chat template adds or drops something. Start it "
                "with --chat-template configs/vllm/narrator.jinja "
                "--chat-template-content-format openai."
            )

    def _remedy(self, error: RefusedError) -> str:
        """Say which flag or setting a refusal is about."""
        if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return f"{error}. Put its key into the environment variable {self._key_variable}."
        if "enable-mm-embeds" in str(error) or "enable_mm_embeds" in str(error):
            return (
                f"{error}. Start it with --enable-mm-embeds "
                "--limit-mm-per-prompt '{\"image\": 0}'."
            )
        return f"{error}. It must be a vLLM server as '{SERVE}' starts one; see docs/vllm.md."


def rehearsed(
    links: Sequence[ServerConnection], results: Sequence[BaseException | None]
) -> list[tuple[int, ServerFault]]:
    """Judge the first rehearsal of every server.

    Parameters
    ----------
    links : sequence of ServerConnection
    results : sequence of exception or None
        What became of each.

    Returns
    -------
    resting : list of (int, ServerFault)
        Which servers are not well, if others are.

    Raises
    ------
    UserError
        If one was started in the wrong way.
    DependencyError
        If none is well.
    """
    wrong = [str(result) for result in results if isinstance(result, UserError)]
    if wrong:
        raise UserError("\n".join(wrong))
    for result in results:
        if result is not None and not isinstance(result, ServerFault):
            raise result
    resting = [(i, each) for i, each in enumerate(results) if isinstance(each, ServerFault)]
    if len(resting) == len(links):
        raise DependencyError(
            f"no vLLM server is there: {'; '.join(str(fault) for _, fault in resting)}. Start one "
            f"with '{SERVE}' (docs/vllm.md), or set vllm.urls."
        )
    return resting


async def rehearse(
    check: Preflight, links: Sequence[ServerConnection]
) -> list[tuple[int, ServerFault]]:
    """Check every server at once; raises and returns as `rehearsed`."""
    results = await asyncio.gather(*map(check, links), return_exceptions=True)
    return rehearsed(links, results)
