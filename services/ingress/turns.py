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


class Turn:
    """A lock that tells whether it can be had at once.

    asyncio's own is free for a moment when one who waits for it has been given it and does not run yet.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wanted = 0  # by those who hold it, or wait for it

    @property
    def is_free(self) -> bool:
        """Whether nobody holds it and nobody waits for it."""
        return not self._wanted

    async def __aenter__(self) -> None:
        """Wait for it."""
        self._wanted += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._wanted -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        """Give it to the next."""
        self._wanted -= 1
        self._lock.release()


class Turns:
    """Whose turn it is among the large payloads of each integration: who sends many waits for itself only."""

    def __init__(self) -> None:
        # One is gone when nobody holds it and nobody waits for it.
        self._turns: WeakValueDictionary[str, Turn] = WeakValueDictionary()

    def of(self, integration_id: str) -> Turn:
        """Return what is held while a large payload of this integration is mapped."""
        return self._turns.setdefault(integration_id, Turn())


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
