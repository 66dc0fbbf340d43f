"""The garbage collector rests while something is loaded, and is as before afterwards."""

import gc

import pytest

from contracts.garbage import collector_paused


@pytest.fixture
def collecting():
    """Leave the collector on, as a process starts with it."""
    gc.enable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collecting")
def test_collector_rests_and_returns():
    """It is off in the body, and on again whatever happens there."""
    seen = []

    @collector_paused()
    def load():
        seen.append(gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        load()
    assert (seen, gc.isenabled()) == ([False], True)


@pytest.mark.usefixtures("collecting")
def test_collector_that_was_off_stays_off():
    """Whoever switched it off decides when it is on again: pauses can be nested."""
    with collector_paused():
        with collector_paused():
            pass
        assert not gc.isenabled()
