"""A replay: bind, play, close, in that order and in any outcome."""

import pytest

from contracts.clock import HostClock
from contracts.errors import UserError
from contracts.spikes import SpikeBatch
from stream_sources.replay import ReplayOptions, replay
from tests.stream_sources.test_player import RampSource


class ClosableSource(RampSource):
    """Knows whether it was closed."""

    is_closed = False

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


def test_a_source_is_played_and_closed():
    """The address is known before the first batch, and the report counts what was sent."""
    source = ClosableSource()
    addresses: list[str] = []
    batches: list[SpikeBatch] = []

    def on_batch(batch):
        assert addresses
        batches.append(batch)

    report = replay(
        source,
        ReplayOptions("tcp://127.0.0.1:*", speed=None, wait_subscribers=0),
        HostClock(),
        on_bound=addresses.append,
        on_batch=on_batch,
    )
    assert addresses[0].startswith("tcp://127.0.0.1:")
    assert report.n_batches == len(batches) == 500
    assert report.n_spikes == sum(batch.n_spikes for batch in batches)
    assert not report.was_stopped
    assert source.is_closed


def test_a_source_is_closed_if_nobody_can_subscribe_to_it():
    """An address that cannot be bound leaves no file open."""
    source = ClosableSource()
    with pytest.raises(UserError, match="--bind"):
        replay(source, ReplayOptions("tcp://0.0.0.0:5570"), HostClock())
    assert source.is_closed


def test_a_stop_is_reported():
    """Who asks to stop while the source waits for subscribers gets an empty report."""
    report = replay(
        RampSource(), ReplayOptions("tcp://127.0.0.1:*"), HostClock(), should_stop=lambda: True
    )
    assert report.was_stopped
    assert report.n_batches == 0
