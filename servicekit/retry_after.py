"""Reads the header in which a server says when to come again (RFC 9110, 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST_SECONDS: Final = 86_400.0

_DIGITS: Final = 10


def seconds_asked(header: str, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, 0 to a day; None when it can not be read or is empty."""
    if header.isascii() and header.isdecimal():
        return min(float(header[:_DIGITS]), LONGEST_SECONDS)
    try:
        until = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_SECONDS)
