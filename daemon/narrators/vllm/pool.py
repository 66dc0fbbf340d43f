"""Chooses the server of each request: healthy ones in turn, others once they are healthy again.

Invariants (``tests/daemon/narrators/vllm/test_pool.py``):

1. Healthy servers are used in turn                   ``test_servers_take_turns``
2. One that failed is not used until it has rested    ``test_a_server_that_failed_rests``
3. It rests longer each time                          ``test_rests_grow_and_are_forgotten``
4. It is checked before it is used again              ``test_a_server_is_checked_before_it_is_back``
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

MAX_WAIT_S = 1.0
"""Seconds that a sentence waits for a server that may soon be back. A live narration is worth less
the longer it waits."""

logger = logging.getLogger(__name__)


class NoServerError(Exception):
    """No server is healthy; the message has the reason of each."""


@dataclass(slots=True, eq=False)
class VllmServer:
    """One server and its state."""

    connection: ServerConnection
    backoff: Backoff  # when its rest ends, and how long the next one is
    problem: str = ""  # why it rests; empty if it is healthy
    is_busy: bool = False  # it rests because it asked to: it is used again without a check
    # failures of earlier requests are part of what it rested for, and are ignored
    well_since_s: float = -math.inf
    check_task: asyncio.Task[None] | None = field(default=None, repr=False)  # while it runs


class ServerPool:
    """The servers of one narrator, in its asyncio loop.

    `check` raises `ServerFault`, `RefusedError` or `UserError` if a server must not be used.
    """

    def __init__(
        self,
        connections: Sequence[ServerConnection],
        check: Callable[[ServerConnection], Awaitable[None]],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or HostClock()
        self.servers = tuple(
            VllmServer(connection, Backoff(self._clock)) for connection in connections
        )
        self._check = check
        self._n_taken = 0

    async def take(self) -> VllmServer:
        """Return the next healthy server; wait a little if none is.

        Raises
        ------
        NoServerError
            If none will be in time.
        """
        give_up_s = self.now_s() + MAX_WAIT_S
        while True:
            self._start_checks()
            if healthy := [server for server in self.servers if not server.problem]:
                self._n_taken += 1
                return healthy[self._n_taken % len(healthy)]
            checks = [server.check_task for server in self.servers if server.check_task]
            next_s = min(
                (server.backoff.remaining_s for server in self.servers if not server.check_task),
                default=math.inf,
            )
            left_s = give_up_s - self.now_s()
            if left_s <= 0 or (not checks and next_s > left_s):
                problems = "; ".join(server.problem for server in self.servers)
                raise NoServerError(f"no vLLM server is well: {problems}")
            wait_s = max(min(left_s, next_s), 0)
            if checks:
                await asyncio.wait(checks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(wait_s)

    def now_s(self) -> float:
        """Return the pool's clock, seconds."""
        return ns_to_second(self._clock.now_ns())

    def worked(self, server: VllmServer) -> None:
        """Reset the rests of a server that has completed a sentence."""
        server.backoff.reset()

    def rest(self, server: VllmServer, fault: Exception, *, requested_s: float) -> None:
        """Do not use a server for a while.

        `requested_s` is when the failed request was sent, on the pool's clock: ten sentences that
        fail together are one failure.
        """
        if requested_s < server.well_since_s or server.problem:
            return
        is_busy = isinstance(fault, ServerFault) and fault.is_busy
        pause_s = fault.pause_s if isinstance(fault, ServerFault) else None
        rest_s = server.backoff.end(pause_s)
        server.problem, server.is_busy = str(fault), is_busy
        logger.warning("vLLM server rests", extra={"reason": str(fault), "rest_s": rest_s})

    async def close(self) -> None:
        """Stop checking."""
        checks = [server.check_task for server in self.servers if server.check_task]
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)

    def _start_checks(self) -> None:
        """Check the servers that have rested."""
        for server in self.servers:
            if not server.problem or server.check_task or not server.backoff.is_over:
                continue
            if server.is_busy:
                self._restore(server)
            else:
                server.check_task = asyncio.ensure_future(self._try(server))

    async def _try(self, server: VllmServer) -> None:
        try:
            await self._check(server.connection)
        except (ServerFault, RefusedError, UserError) as error:
            server.problem = ""
            self.rest(server, error, requested_s=math.inf)
        else:
            self._restore(server)
        finally:
            server.check_task = None

    def _restore(self, server: VllmServer) -> None:
        server.problem, server.well_since_s = "", self.now_s()
        logger.info("vLLM server is back", extra={"url": server.connection.url})
