"""The warning of connections of acquisition programs, whose protocols have no encryption."""

from __future__ import annotations

import logging

from contracts.address import TcpAddress, leaves_machine

logger = logging.getLogger(__name__)


def warn_if_it_leaves(address: TcpAddress) -> None:
    """Warn if what is connected to is on another machine, or what is bound can be reached there."""
    if leaves_machine(address):
        logger.warning(
            "insecure: not encrypted; on a network that is yours alone, or through a tunnel",
            extra={"address": str(address)},
        )
