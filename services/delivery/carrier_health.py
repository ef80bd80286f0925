"""How a carrier does, as one process sees it: pure rules and a little memory, with every time given from outside.

A breaker keeps messages from a carrier that fails; it is open for every process (`store.CarrierCondition`), while the
counting that opens it is each process's own.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

WINDOW: Final = timedelta(seconds=30)
MINUTE: Final = timedelta(seconds=60)
LEAST_OUTCOMES: Final = 10
FAILURE_SHARE: Final = 0.5
FIRST_OPEN_SECONDS: Final = 5.0
LONGEST_OPEN_SECONDS: Final = 60.0
# The pause is the longest long before that, and a carrier that is dead for weeks must not be counted out of a column.
MOST_TIMES_OPENED: Final = 30
LEAST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 900.0

_GAIN: Final = 0.05  # of what is missing to 1, with each success
_LOSS: Final = 0.9  # what is left after a failure
_LEAST_SCORE: Final = 0.05  # never nothing, or it could not show that it is well again
_HALF_LIFE_SECONDS: Final = 60.0  # of what is missing to 1, when nothing is heard
_LEAST_FACTOR: Final = 0.1
_RECOVERY_SECONDS: Final = 60.0  # from nothing to the full rate


@dataclass
class _Second:
    """What was heard within one second."""

    at: datetime
    went_well: int = 0
    failed: int = 0


class CarrierHealth:
    """Counts the outcomes of the last minute, and keeps a score in [0.05, 1] that sinks with failures and recovers."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque()
        self._judged_from: datetime | None = None
        self._score = 1.0
        self._scored_at: datetime | None = None

    def hear(self, at: datetime, *, failed: bool) -> None:
        """Take in one outcome."""
        score = self.score(at)
        self._score = max(_LEAST_SCORE, score * _LOSS) if failed else score + (1.0 - score) * _GAIN
        self._scored_at = at
        if not self._seconds or at >= self._seconds[-1].at + timedelta(seconds=1):
            self._seconds.append(_Second(at=at))
            self._forget(at)
        if failed:
            self._seconds[-1].failed += 1
        else:
            self._seconds[-1].went_well += 1

    def score(self, now: datetime) -> float:
        """Return the score as it is by now."""
        if self._scored_at is None:
            return 1.0
        quiet = max(0.0, (now - self._scored_at).total_seconds())
        return 1.0 - (1.0 - self._score) * math.exp2(-quiet / _HALF_LIFE_SECONDS)

    def must_open(self, now: datetime) -> bool:
        """Whether so many fail that nothing more should be sent."""
        since = max(now - WINDOW, self._judged_from) if self._judged_from else now - WINDOW
        went_well, failed = self._sum(since)
        return went_well + failed >= LEAST_OUTCOMES and failed >= FAILURE_SHARE * (went_well + failed)

    def judge_afresh(self, now: datetime) -> None:
        """Judge by what is heard from now on: the breaker has opened or closed."""
        self._judged_from = now
        self._seconds.append(_Second(at=now))

    def last_minute(self, now: datetime) -> tuple[int, int]:
        """Return how many went well and how many failed."""
        return self._sum(now - MINUTE)

    def _sum(self, since: datetime) -> tuple[int, int]:
        recent = [second for second in self._seconds if second.at >= since]
        return sum(second.went_well for second in recent), sum(second.failed for second in recent)

    def _forget(self, now: datetime) -> None:
        while self._seconds[0].at < now - MINUTE:
            self._seconds.popleft()


def open_seconds(times_opened: int) -> float:
    """Return for how long a breaker stays open that opens for the nth time in a row, from 1."""
    return min(LONGEST_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0 ** (min(times_opened, MOST_TIMES_OPENED) - 1))


def pause_seconds(retry_after: float | None) -> float:
    """Return for how long a carrier is left alone that asked for less; `retry_after` is its own wish."""
    return min(LONGEST_PAUSE_SECONDS, max(LEAST_PAUSE_SECONDS, retry_after or 0.0))


def slowed(factor: float) -> float:
    """Return what is left of a carrier's rate after it has asked for less once more."""
    return max(_LEAST_FACTOR, factor / 2.0)


def recovered(factor: float, slowed_at: datetime, now: datetime) -> float:
    """Return the factor as it is by now: it grows evenly back to 1."""
    return min(1.0, factor + max(0.0, (now - slowed_at).total_seconds()) / _RECOVERY_SECONDS)
