"""A flood of bad data is one log line a second."""

import logging

from daemon.rate_limited_log import RateLimitedLog
from tests.support.manual_clock import ManualClock


def test_one_line_a_second_for_each_reason(caplog):
    """Lines within a second of one reason are counted, and the next one says how many."""
    clock = ManualClock()
    log = RateLimitedLog(logging.getLogger("daemon.x"), clock)
    for _ in range(4):
        log.warning("version", "message dropped", extra={})
    log.warning("size", "message dropped", extra={})
    clock.ns += 1_000_000_000
    log.warning("version", "message dropped", extra={})
    assert [getattr(record, "suppressed", 0) for record in caplog.records] == [0, 0, 3]


def test_flush_logs_what_was_left_out(caplog):
    """At shutdown the suppressed lines are named once."""
    log = RateLimitedLog(logging.getLogger("daemon.x"), ManualClock())
    for _ in range(3):
        log.warning("version", "message dropped", extra={})
    log.flush()
    log.flush()
    assert [getattr(record, "suppressed", 0) for record in caplog.records] == [0, 2]
