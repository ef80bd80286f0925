"""Time: milliseconds there and back, and no time without a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.clock import SystemClock, from_milliseconds, to_milliseconds

LAST = 253_402_300_799_999  # the last millisecond of the year 9999


@given(st.integers(0, LAST))
def test_milliseconds_come_back_as_they_were(milliseconds):
    assert to_milliseconds(from_milliseconds(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2026, 6, 12, 14, 32, 0, 120_000, tzinfo=UTC), 1_781_274_720_120),
        (datetime(2026, 6, 12, 14, 32, 0, 120_999, tzinfo=UTC), 1_781_274_720_120),
        (datetime(2026, 6, 12, 22, 32, 0, 120_000, tzinfo=timezone(timedelta(hours=8))), 1_781_274_720_120),
        (datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), -1),
    ],
)
def test_counts_whole_milliseconds_since_1970(moment, expected):
    assert to_milliseconds(moment) == expected


def test_refuses_a_naive_time():
    with pytest.raises(ValueError, match="naive"):
        to_milliseconds(datetime(2026, 6, 12))  # noqa: DTZ001  # a naive time is what is refused


def test_the_systems_time_is_utc_and_has_no_part_of_a_millisecond():
    now = SystemClock().now()

    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)


def test_the_systems_monotonic_time_never_goes_back():
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(1000)]

    assert readings == sorted(readings)
