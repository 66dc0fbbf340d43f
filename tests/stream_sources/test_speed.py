"""Options of a replay: how long a batch is at a speed."""

import pytest

from contracts.errors import UserError
from stream_sources.speed import batch_length_ms, speed_factor


@pytest.mark.parametrize(
    ("speed", "batch_ms", "length_ms"),
    [
        ("1", None, 10),
        ("max", None, 100),
        ("0.5", None, 10),
        ("0.001", None, 1),
        ("1", 1000, 1000),
        ("50", 1000, 1000),
        ("max", 1000, 1000),
        ("0.4", 400, 400),
    ],
)
def test_length_of_a_batch(speed: str, batch_ms: float | None, length_ms: float) -> None:
    """Short at real time, long at full speed, and never more than a second of the clock."""
    assert batch_length_ms(speed_factor(speed), batch_ms) == length_ms


@pytest.mark.parametrize(("speed", "batch_ms"), [("0.4", 1000), ("0.4", 401), ("0.001", 2)])
def test_batch_that_takes_longer_than_a_second_is_refused(speed: str, batch_ms: float) -> None:
    """A source that is heard more rarely would be declared blind between two batches."""
    with pytest.raises(UserError, match=f"at --speed {speed}, got {batch_ms}: .* once a second"):
        batch_length_ms(speed_factor(speed), batch_ms)


@pytest.mark.parametrize("batch_ms", [0.01, 1001, float("nan")])
def test_length_out_of_bounds_is_refused(batch_ms: float) -> None:
    """A batch spans at most a second of the session."""
    with pytest.raises(UserError, match=r"--batch-ms must be from 0\.1 to 1000"):
        batch_length_ms(1.0, batch_ms)
