"""When a carrier is taken to fail, and how it recovers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.delivery.carrier_health import CarrierHealth, open_seconds, pause_seconds, recovered, slowed

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


def heard(outcomes: str, *, apart_seconds: float = 0.1) -> tuple[CarrierHealth, datetime]:
    """Hear outcomes one after the other: `.` went well, `x` failed."""
    health, at = CarrierHealth(), NOW
    for outcome in outcomes:
        at += timedelta(seconds=apart_seconds)
        health.hear(at, failed=outcome == "x")
    return health, at


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ("", False),
        ("xxxxxxxxx", False),  # too few to tell
        ("xxxxxxxxxx", True),
        ("xxxxx.....", True),
        ("xxxx......", False),
        ("." * 100 + "x" * 50, False),
        ("." * 100 + "x" * 100, True),
    ],
)
def test_opens_when_half_of_what_was_heard_lately_failed(outcomes, opens):
    health, at = heard(outcomes)

    assert health.must_open(at) is opens


def test_forgets_what_is_longer_ago_than_half_a_minute():
    health, at = heard("x" * 20)

    assert not health.must_open(at + timedelta(seconds=40))


def test_judges_afresh_after_the_breaker_has_turned():
    health, at = heard("x" * 20)

    health.judge_afresh(at)
    health.hear(at, failed=True)

    assert not health.must_open(at)
    assert health.last_minute(at) == (0, 21)


def test_sinks_with_failures_and_recovers_with_successes_and_with_time():
    failing, at = heard("x" * 10)
    low = failing.score(at)
    failing.hear(at, failed=False)

    assert heard("." * 10)[0].score(at) == 1.0
    assert 0.05 <= low < 0.4
    assert failing.score(at) > low
    assert low < failing.score(at + timedelta(seconds=60)) < failing.score(at + timedelta(minutes=10))


def test_never_sinks_to_nothing():
    health, at = heard("x" * 1000)

    assert health.score(at) >= 0.05


@pytest.mark.parametrize(("times", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 60), (100, 60), (100_000, 60)])
def test_stays_open_longer_each_time_up_to_a_minute(times, seconds):
    assert open_seconds(times) == seconds


@pytest.mark.parametrize(("wish", "seconds"), [(None, 1), (0, 1), (0.2, 1), (5, 5), (900, 900), (3600, 900)])
def test_pauses_as_the_carrier_wishes_within_a_second_and_a_quarter_of_an_hour(wish, seconds):
    assert pause_seconds(wish) == seconds


def test_halves_the_rate_and_lets_it_grow_back_within_a_minute():
    assert [slowed(1.0), slowed(0.5), slowed(0.11)] == [0.5, 0.25, 0.1]
    assert recovered(0.5, NOW, NOW) == 0.5
    assert recovered(0.5, NOW, NOW + timedelta(seconds=15)) == pytest.approx(0.75)
    assert recovered(0.1, NOW, NOW + timedelta(seconds=60)) == 1.0
