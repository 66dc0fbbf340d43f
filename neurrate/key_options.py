"""Options of the verbs that listen to other programs, or connect to them, with keys."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from contracts.allow_list import ServerKeys
    from contracts.keys import ClientKeys

KeyOption = Annotated[str | None, Parameter(name="--key")]

REMEDY = "Add --key NAME and --server-key NAME"

logger = logging.getLogger(__name__)


@Parameter(name="*")
@dataclass(frozen=True)
class ConnectOptions:
    """With which keys to connect."""

    key: str | None = None
    "Pair of keys to connect with: a name of 'neurrate keys new', or a file."
    server_key: tuple[str, ...] = ()
    "Public key of whoever listens: a name or a file; for each address, or one for all, or none."
    insecure: bool = False
    "Connect to other machines without keys."

    def keys_for(self, addresses: Sequence[str]) -> list[ClientKeys | None]:
        """Return what to connect to each address with; refuse other machines without keys.

        Raises
        ------
        UserError
            With what to do.
        """
        from contracts.address import check_kept_private, leaves_machine
        from contracts.keys import load_keys_of_servers

        settings = ("--key", "--server-key")
        keys = load_keys_of_servers(self.key, self.server_key, addresses, settings=settings)
        check_kept_private(addresses, keys, is_insecure=self.insecure, remedy=REMEDY)
        for address, of_address in zip(addresses, keys, strict=True):
            if of_address is None and leaves_machine(address):
                fields = {"address": address}
                logger.warning("insecure: another machine, without keys", extra=fields)
        return keys


PLAIN = ConnectOptions()


def server_keys(key: str | None) -> ServerKeys | None:
    """Return the keys of a verb that listens; None without ``--key``."""
    from contracts.allow_list import load_server_keys

    return None if key is None else load_server_keys(key, setting="--key")
