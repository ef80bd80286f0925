"""When a webhook is called again, and when it is given up: a pure rule.

The schedule is the example of Standard Webhooks 1.0: ten attempts over about 75 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.delivery.webhooks import CallResult

_HOUR: Final = 3600.0

# Seconds before each attempt, counted from the end of the one before.
DELAYS: Final = (0.0, 5.0, 300.0, 1800.0, *(hours * _HOUR for hours in (2, 5, 10, 14, 20, 24)))
MAX_TRIES: Final = len(DELAYS)
JITTER: Final = 0.2
# How far a Retry-After may push an attempt, in delays.
LONGEST_WAIT: Final = 2.0
GONE: Final = 410
DISABLED_AFTER: Final = timedelta(days=5)
# Longer than any wait between two attempts of one event: a failure after so much silence begins a new streak, so that
# an endpoint which is seldom called is not disabled by two bad moments that lie weeks apart.
STREAK_ENDS_AFTER: Final = timedelta(days=3)


@dataclass(frozen=True, kw_only=True)
class Done:
    """The endpoint has the event."""


@dataclass(frozen=True, kw_only=True)
class Again:
    """Call once more at this time."""

    at: datetime


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """Do not call again. `endpoint_is_gone` says that the endpoint wants no events at all."""

    endpoint_is_gone: bool = False


Step = Done | Again | GiveUp


def next_step(result: CallResult, *, tries: int, now: datetime, jitter: float) -> Step:
    """Return what follows an attempt, the `tries`th of its schedule. `jitter` is random, 0 to 1.

    A wait is its delay, ±20 %. A Retry-After is honoured between the delay and twice the delay: sooner would be against
    the schedule, and later would let a wrong clock at the receiver lose the event.
    """
    if result.is_success:
        return Done()
    if result.status_code == GONE:
        return GiveUp(endpoint_is_gone=True)
    if tries >= MAX_TRIES:
        return GiveUp()
    delay = DELAYS[tries]
    if result.retry_after_seconds is None:
        wait = delay * (1 - JITTER + 2 * JITTER * jitter)
    else:
        wait = min(max(delay, result.retry_after_seconds) * (1 + JITTER * jitter), LONGEST_WAIT * delay)
    return Again(at=now + timedelta(seconds=wait))


def streak_after_failure(
    failing_since: datetime | None, last_failure_at: datetime | None, failed_at: datetime
) -> datetime:
    """Return since when an endpoint has only failed, after one more failure."""
    if failing_since is None or last_failure_at is None or failed_at - last_failure_at > STREAK_ENDS_AFTER:
        return failed_at
    return failing_since


def is_to_be_disabled(failing_since: datetime, now: datetime) -> bool:
    """Tell whether an endpoint that only fails since a time has done so for too long."""
    return now - failing_since > DISABLED_AFTER
