"""Time that tests can replace."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Made once, and multiplied and divided by: every message passes here a dozen times.
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """Where a service gets the time from, and how it waits."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC, to the millisecond."""

    def monotonic(self) -> float:
        """Return seconds from an unknown start; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the time of day, cut to the millisecond, which is what every store keeps."""
        return from_milliseconds(time.time_ns() // 1_000_000)

    def monotonic(self) -> float:
        """Return the machine's monotonic clock in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


def to_milliseconds(moment: datetime) -> int:
    """Return whole milliseconds since 1970; raise ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a naive time has no place here: give it a time zone")
    return (moment - _EPOCH) // _MILLISECOND


def from_milliseconds(milliseconds: int) -> datetime:
    """Return the aware UTC time of so many milliseconds since 1970."""
    return _EPOCH + _MILLISECOND * milliseconds


def from_microseconds(microseconds: int) -> datetime:
    """Return the aware UTC time of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)
