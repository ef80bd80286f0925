"""When webhooks are called again, and when they are given up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.delivery.webhook_schedule import (
    DELAYS,
    MAX_TRIES,
    Again,
    Done,
    GiveUp,
    is_to_be_disabled,
    next_step,
    streak_after_failure,
)
from services.delivery.webhooks import CallResult

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)


def answered(status_code: int | None, retry_after_seconds: float | None = None) -> CallResult:
    return CallResult(status_code=status_code, milliseconds=5, retry_after_seconds=retry_after_seconds)


def wait(result: CallResult, tries: int, jitter: float = 0.5) -> float:
    step = next_step(result, tries=tries, now=NOW, jitter=jitter)
    assert isinstance(step, Again)
    return (step.at - NOW).total_seconds()


def test_spreads_ten_attempts_over_about_75_hours():
    assert MAX_TRIES == 10
    assert sum(DELAYS) == timedelta(hours=75, minutes=35, seconds=5).total_seconds()


@pytest.mark.parametrize("status_code", [200, 201, 204, 299])
def test_takes_any_2xx_for_success(status_code):
    assert next_step(answered(status_code), tries=1, now=NOW, jitter=0.5) == Done()


@pytest.mark.parametrize(
    "status_code", [None, 100, 199, 300, 301, 304, 307, 400, 401, 404, 408, 429, 500, 502, 503, 599]
)
@pytest.mark.parametrize("tries", range(1, 10))
def test_calls_again_after_anything_else_by_the_schedule(status_code, tries):
    assert wait(answered(status_code), tries) == DELAYS[tries]


@pytest.mark.parametrize("tries", range(1, 10))
@pytest.mark.parametrize(("jitter", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_varies_waits_by_a_fifth(tries, jitter, factor):
    assert wait(answered(500), tries, jitter) == pytest.approx(DELAYS[tries] * factor)


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(0, 300), (299, 300), (300, 300), (400, 400), (600, 600), (601, 600), (86400, 600), (float("inf"), 600)],
)
def test_honours_a_retry_after_between_the_delay_and_twice_the_delay(asked, waited):
    assert wait(answered(429, asked), tries=2, jitter=0.0) == waited


@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
def test_never_comes_sooner_than_a_retry_after_that_it_honours(jitter):
    assert 400 <= wait(answered(503, 400), tries=2, jitter=jitter) <= 600


@pytest.mark.parametrize("tries", [10, 11])
def test_gives_up_after_the_tenth_attempt(tries):
    assert next_step(answered(500), tries=tries, now=NOW, jitter=0.5) == GiveUp()


@pytest.mark.parametrize("tries", [1, 10])
def test_stops_at_once_when_the_endpoint_is_gone(tries):
    assert next_step(answered(410, 60), tries=tries, now=NOW, jitter=0.5) == GiveUp(endpoint_is_gone=True)


def test_counts_a_streak_of_failures_from_its_first():
    later = NOW + timedelta(hours=28)

    assert streak_after_failure(None, None, NOW) == NOW
    assert streak_after_failure(NOW, NOW, later) == NOW


def test_begins_a_new_streak_after_a_long_silence():
    later = NOW + timedelta(days=3, seconds=1)

    assert streak_after_failure(NOW - timedelta(days=4), NOW, later) == later


@pytest.mark.parametrize(("hours", "disabled"), [(0, False), (75, False), (120, False), (120.1, True)])
def test_disables_what_has_only_failed_for_five_days(hours, disabled):
    assert is_to_be_disabled(NOW, NOW + timedelta(hours=hours)) is disabled
