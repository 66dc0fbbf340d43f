"""Which server is asked next, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest

from contracts.clock import NS_PER_S
from daemon.backoff import LONGEST_PAUSE_S
from daemon.narrators.vllm.connection import ServerConnection, ServerFault
from daemon.narrators.vllm.pool import NoServerError, ServerPool
from tests.support.manual_clock import ManualClock

URLS = ("http://a", "http://b", "http://c")
FAULT = ServerFault("it failed")


class PoolScenario:
    """A pool whose checks and clock belong to the test."""

    def __init__(self, *urls: str) -> None:
        self.clock = ManualClock(0)
        self.checked: list[str] = []
        self.problems: dict[str, Exception] = {}
        client: Any = httpx2.AsyncClient
        connections = [ServerConnection(url, client, connect_timeout_s=1) for url in urls]
        self.pool = ServerPool(connections, self._check, clock=self.clock)

    @property
    def now_s(self) -> float:
        """The clock in seconds."""
        return self.clock.ns / NS_PER_S

    @now_s.setter
    def now_s(self, now_s: float) -> None:
        self.clock.ns = round(now_s * NS_PER_S)

    async def _check(self, link: ServerConnection) -> None:
        self.checked.append(link.url)
        if problem := self.problems.get(link.url):
            raise problem

    async def urls(self, n: int) -> Counter[str]:
        """Return how often each server is given."""
        return Counter([(await self.pool.take()).connection.url for _ in range(n)])

    def fail(self, url: str, fault: Exception = FAULT, *, requested_s: float | None = None) -> None:
        """Say that a server failed."""
        (server,) = [each for each in self.pool.servers if each.connection.url == url]
        self.pool.rest(
            server, fault, requested_s=self.now_s if requested_s is None else requested_s
        )

    def rest_s(self, url: str) -> float:
        """Return how long a server still rests."""
        (server,) = [each for each in self.pool.servers if each.connection.url == url]
        return server.backoff.remaining_s if server.problem else 0.0


def test_servers_take_turns():
    """Three that are well get a third each."""
    scenario = PoolScenario(*URLS)
    assert asyncio.run(scenario.urls(9)) == dict.fromkeys(URLS, 3)


def test_a_server_that_failed_rests():
    """It gets nothing until its rest is over, and then after a check."""
    scenario = PoolScenario(*URLS)

    async def play() -> None:
        scenario.fail("http://a")
        assert await scenario.urls(4) == {"http://b": 2, "http://c": 2}
        scenario.now_s = 0.6
        await scenario.urls(1)  # the check begins with whoever asks next
        await asyncio.sleep(0)
        assert scenario.checked == ["http://a"]
        assert (await scenario.urls(9))["http://a"] == 3

    asyncio.run(play())


def test_rests_grow_and_are_forgotten():
    """Each rest is twice the last, up to a limit; a whole sentence starts them anew."""
    scenario = PoolScenario("http://a", "http://b")
    scenario.problems["http://a"] = FAULT
    rests = []

    async def play() -> None:
        scenario.fail("http://a")
        for _ in range(9):
            rests.append(scenario.rest_s("http://a"))
            scenario.now_s += rests[-1]
            await scenario.urls(1)
            await asyncio.sleep(0)
        del scenario.problems["http://a"]
        scenario.now_s += scenario.rest_s("http://a")
        await scenario.urls(1)
        await asyncio.sleep(0)
        scenario.pool.worked(scenario.pool.servers[0])
        scenario.fail("http://a")

    asyncio.run(play())
    assert rests == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert scenario.rest_s("http://a") == pytest.approx(0.5)


def test_failures_of_one_moment_count_once():
    """Ten sentences that break off together make one rest, not ten."""
    scenario = PoolScenario(*URLS)
    for _ in range(10):
        scenario.fail("http://a")
    assert scenario.rest_s("http://a") == 0.5


def test_what_was_asked_before_the_rest_is_forgiven():
    """A sentence from before that fails after the server is back does not count again."""
    scenario = PoolScenario(*URLS)

    async def play() -> None:
        scenario.fail("http://a")
        scenario.now_s = 1.0
        await scenario.urls(1)
        await asyncio.sleep(0)
        scenario.fail("http://a", requested_s=0.0)
        assert scenario.rest_s("http://a") == 0
        scenario.fail("http://a", requested_s=1.5)
        assert scenario.rest_s("http://a") > 0

    asyncio.run(play())


def test_a_server_is_checked_before_it_is_back():
    """A check that fails lets it rest again, with the check's reason."""
    scenario = PoolScenario("http://a")
    scenario.problems["http://a"] = ServerFault("still loading", pause_s=20)

    async def play() -> None:
        scenario.fail("http://a")
        scenario.now_s = 0.5
        with pytest.raises(NoServerError, match="still loading"):
            await scenario.pool.take()

    asyncio.run(play())
    assert scenario.checked == ["http://a"]
    assert scenario.rest_s("http://a") == 20


def test_a_busy_server_says_how_long():
    """It rests for what it asks, not beyond the limit, and needs no check."""
    scenario = PoolScenario("http://a")

    async def play() -> None:
        scenario.fail("http://a", ServerFault("busy", is_busy=True, pause_s=7))
        assert scenario.rest_s("http://a") == 7
        scenario.now_s = 7.0
        assert await scenario.urls(1) == {"http://a": 1}
        scenario.fail("http://a", ServerFault("busy", is_busy=True, pause_s=86_400))
        assert scenario.rest_s("http://a") == LONGEST_PAUSE_S

    asyncio.run(play())
    assert not scenario.checked


def test_nobody_waits_for_a_long_rest():
    """When all rest for longer than a sentence waits, it fails at once, with every reason."""
    scenario = PoolScenario("http://a", "http://b")
    scenario.fail("http://a", ServerFault("a is off", pause_s=20))
    scenario.fail("http://b", ServerFault("b is off", pause_s=20))
    with pytest.raises(NoServerError, match=r"no vLLM server is well: a is off; b is off"):
        asyncio.run(scenario.urls(1))
