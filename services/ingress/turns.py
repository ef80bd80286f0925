"""Large payloads: others are served while one is mapped, and an integration has one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

# A recipient that is no number takes up to 0.1 milliseconds, and a text that is transliterated 0.3.
MAX_AT_ONCE: Final = 10

# Called after each recipient.
Pause = Callable[[], Awaitable[None]]


class Turns:
    """Whose turn it is among the large payloads of each integration: who sends many waits for itself only."""

    def __init__(self) -> None:
        # A lock is gone when nobody holds it and nobody waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, integration_id: str) -> asyncio.Lock:
        """Return the lock that is held while a large payload of this integration is mapped."""
        return self._locks.setdefault(integration_id, asyncio.Lock())


async def no_pause() -> None:
    """Go on at once."""


def pauses() -> Pause:
    """Return what lets others be served after every few recipients."""
    recipients = 0

    async def pause() -> None:
        nonlocal recipients
        recipients += 1
        if recipients % MAX_AT_ONCE == 0:
            await asyncio.sleep(0)

    return pause
