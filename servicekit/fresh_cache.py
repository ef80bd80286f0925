"""Answers remembered for a moment, and for longer while whoever gave them is down."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from servicekit.clock import Clock
from servicekit.errors import UnavailableError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class FreshCache(Generic[Key, Value]):
    """Remembers what `fetch` answered.

    An answer is fresh for `fresh_seconds`. After that it is fetched again; if that raises UnavailableError, the old
    answer serves until it is `stale_seconds` old. Only answers are remembered, never failures. The least recently used
    of more than `max_size` answers is forgotten.
    """

    def __init__(
        self,
        fetch: Callable[[Key], Awaitable[Value]],
        *,
        clock: Clock,
        fresh_seconds: float,
        stale_seconds: float,
        max_size: int = 10_000,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._max_size = max_size
        self._answers: OrderedDict[Key, tuple[float, Value]] = OrderedDict()
        self._fetching: dict[Key, asyncio.Future[Value]] = {}

    async def get(self, key: Key, *, anew: bool = False) -> Value:
        """Return the answer for a key; raise whatever `fetch` raises. Calls that come together fetch once.

        `anew` fetches also what is fresh.
        """
        known = self._answers.get(key)
        asked_at = self._clock.monotonic()
        if known and not anew and asked_at - known[0] < self._fresh_seconds:
            self._answers.move_to_end(key)
            return known[1]
        try:
            return await self._fetch_once(key)
        except UnavailableError:
            if known and asked_at - known[0] < self._stale_seconds:
                return known[1]
            raise

    def known(self, key: Key, *, younger_than_seconds: float = math.inf) -> Value | None:
        """Return the answer that is remembered, as long as it may serve, without asking; None when there is none."""
        known = self._answers.get(key)
        return known[1] if known and self._age(known) < min(self._stale_seconds, younger_than_seconds) else None

    def is_fresh(self, key: Key) -> bool:
        """Tell whether the answer that is remembered needs not be asked for again yet."""
        known = self._answers.get(key)
        return known is not None and self._age(known) < self._fresh_seconds

    def _age(self, known: tuple[float, Value]) -> float:
        return self._clock.monotonic() - known[0]

    async def _fetch_once(self, key: Key) -> Value:
        fetching = self._fetching.get(key)
        if fetching is None:
            fetching = self._fetching[key] = asyncio.ensure_future(self._fetch_and_remember(key))
            fetching.add_done_callback(lambda _done: self._fetching.pop(key, None))
        # Shielded: whoever gives up does not take the answer from those who wait with it.
        return await asyncio.shield(fetching)

    async def _fetch_and_remember(self, key: Key) -> Value:
        asked_at = self._clock.monotonic()
        try:
            value = await self._fetch(key)
        except UnavailableError:
            raise
        except Exception:
            self._answers.pop(key, None)
            raise
        self._answers[key] = (asked_at, value)
        self._answers.move_to_end(key)
        if len(self._answers) > self._max_size:
            self._answers.popitem(last=False)
        return value
