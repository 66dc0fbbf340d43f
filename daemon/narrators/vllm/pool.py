"""Which server is asked next: those that are well in turn, and the others when they are again.

Invariants (``tests/daemon/narrators/vllm/test_pool.py``):

1. Servers that are well are asked in turn           ``test_servers_take_turns``
2. One that fails is not asked until it has rested   ``test_a_server_that_failed_rests``
3. It rests longer each time                         ``test_rests_grow_and_are_forgotten``
4. It is checked before it is asked again            ``test_a_server_is_checked_before_it_is_back``
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from contracts.clock import Clock, HostClock, ns_to_second
from contracts.errors import UserError
from daemon.backoff import Backoff
from daemon.narrators.vllm.connection import RefusedError, ServerConnection, ServerFault

PATIENCE_S = 1.0
"""So long a sentence waits for a server that may soon be back. A live narration gets no better by
waiting longer."""

logger = logging.getLogger(__name__)


class NoServerError(Exception):
    """No server is well, with the reason of each."""


@dataclass(slots=True, eq=False)
class VllmServer:
    """One server and how it is.

    Attributes
    ----------
    backoff : Backoff
        When its rest ends, and how long the next one is.
    problem : str
        Why it rests; empty if it is well.
    is_busy : bool
        It rests because it asked to; it need not be checked.
    well_since_s : float
        Faults of what was asked earlier are those that it rested for.
    revival : Task or None
        Its check, while that goes on.
    """

    link: ServerConnection
    backoff: Backoff
    problem: str = ""
    is_busy: bool = False
    well_since_s: float = -math.inf
    revival: asyncio.Task[None] | None = field(default=None, repr=False)


class ServerPool:
    """The servers of one narrator, in its asyncio loop.

    Parameters
    ----------
    links : sequence of ServerConnection
    check : callable
        Given a link; raises `ServerFault`, `RefusedError` or `UserError` if the server is not to
        be used.
    clock : Clock, optional
        Host clock.
    """

    def __init__(
        self,
        links: Sequence[ServerConnection],
        check: Callable[[ServerConnection], Awaitable[None]],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or HostClock()
        self.servers = tuple(VllmServer(link, Backoff(self._clock)) for link in links)
        self._check = check
        self._n_taken = 0

    async def take(self) -> VllmServer:
        """Return the next server that is well; wait a little if none is.

        Raises
        ------
        NoServerError
            If none will be.
        """
        give_up_s = self.now_s() + PATIENCE_S
        while True:
            self._revive()
            if well := [server for server in self.servers if not server.problem]:
                self._n_taken += 1
                return well[self._n_taken % len(well)]
            revivals = [server.revival for server in self.servers if server.revival]
            next_s = min(
                (server.backoff.remaining_s for server in self.servers if not server.revival),
                default=math.inf,
            )
            left_s = give_up_s - self.now_s()
            if left_s <= 0 or (not revivals and next_s > left_s):
                problems = "; ".join(server.problem for server in self.servers)
                raise NoServerError(f"no vLLM server is well: {problems}")
            wait_s = max(min(left_s, next_s), 0)
            if revivals:
                await asyncio.wait(revivals, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(wait_s)

    def now_s(self) -> float:
        """Return the pool's time."""
        return ns_to_second(self._clock.now_ns())

    def worked(self, server: VllmServer) -> None:
        """Say that a server has said a whole sentence."""
        server.backoff.reset()

    def rest(self, server: VllmServer, fault: Exception, *, asked_s: float) -> None:
        """Leave a server alone for a while.

        Parameters
        ----------
        server : VllmServer
        fault : Exception
            What it did.
        asked_s : float
            When it was asked for what it failed, on the pool's clock. Ten sentences that it
            failed at once are one failure.
        """
        if asked_s < server.well_since_s or server.problem:
            return
        is_busy = isinstance(fault, ServerFault) and fault.is_busy
        pause_s = fault.pause_s if isinstance(fault, ServerFault) else None
        rest_s = server.backoff.end(pause_s)
        server.problem, server.is_busy = str(fault), is_busy
        logger.warning("vLLM server rests", extra={"reason": str(fault), "rest_s": rest_s})

    async def close(self) -> None:
        """Stop checking."""
        revivals = [server.revival for server in self.servers if server.revival]
        for revival in revivals:
            revival.cancel()
        await asyncio.gather(*revivals, return_exceptions=True)

    def _revive(self) -> None:
        """Have those checked that have rested."""
        for server in self.servers:
            if not server.problem or server.revival or not server.backoff.is_over:
                continue
            if server.is_busy:
                self._back(server)
            else:
                server.revival = asyncio.ensure_future(self._try(server))

    async def _try(self, server: VllmServer) -> None:
        try:
            await self._check(server.link)
        except (ServerFault, RefusedError, UserError) as error:
            server.problem = ""
            self.rest(server, error, asked_s=math.inf)
        else:
            self._back(server)
        finally:
            server.revival = None

    def _back(self, server: VllmServer) -> None:
        server.problem, server.well_since_s = "", self.now_s()
        logger.info("vLLM server is back", extra={"url": server.link.url})
