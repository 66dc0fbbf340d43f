"""The keys and the token that the settings name, read once at the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contracts.allow_list import ServerKeys, load_server_keys
from contracts.keys import ClientKeys, load_keys_of_servers
from contracts.secret_file import load_token
from daemon.service.settings import Settings


@dataclass(frozen=True, slots=True)
class DaemonKeys:
    """What the daemon authenticates itself and others with; None where there is nothing.

    `sources` are in the order of ``ingest.connect``.
    """

    publish: ServerKeys | None
    sources: Sequence[ClientKeys | None]
    http_token: str | None


def load_keys(settings: Settings) -> DaemonKeys:
    """Read what the settings name.

    Raises
    ------
    UserError
        For what is not there, is no key, or can be read by others.
    """
    keys, token_file = settings.keys, settings.http.token_file
    return DaemonKeys(
        None if keys.own is None else load_server_keys(keys.own, setting="keys.own"),
        load_keys_of_servers(
            keys.own, keys.sources, settings.ingest.connect, settings=("keys.own", "keys.sources")
        ),
        None if token_file is None else load_token(token_file, setting="http.token_file"),
    )
