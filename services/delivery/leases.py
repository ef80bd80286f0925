"""When the first lease ends of what this process holds, so that it never takes its own for what another has left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta

from servicekit.clock import Clock


class Leases:
    """The leases that this process has, or is about to write.

    Whoever claims takes what is leased until a time that has come. So it must claim by a time at which nothing of its
    own has ended, however long this process stood still before, and with whatever transactions of its own on the way:
    `now` gives such a time.
    """

    def __init__(self, *, clock: Clock, seconds: float, extend: Callable[[datetime], Awaitable[None]]) -> None:
        """Take how long a lease is, and what moves the end of those that are written."""
        self._clock = clock
        self._length = timedelta(seconds=seconds)
        self._extend = extend
        self._first_end = self.end()  # of those that are written
        self._on_the_way: dict[asyncio.Future[None], datetime] = {}

    def end(self) -> datetime:
        """Return when a lease ends that begins now."""
        return self._clock.now() + self._length

    @contextlib.contextmanager
    def written(self, until: datetime) -> Iterator[None]:
        """Count leases until this time as ours while they are being written, and from then on."""
        with self._on_the_way_until(until):
            try:
                yield
            finally:
                self._first_end = min(self._first_end, until)

    async def now(self) -> datetime:
        """Return the time, once no lease of ours has ended by it. Raises UnavailableError when none can be renewed.

        That is at once, unless this process stood still. What it held is its own until another has claimed it.
        """
        while (now := self._clock.now()) >= min([self._first_end, *self._on_the_way.values()]):
            if late := [over for over, until in self._on_the_way.items() if until <= now]:
                await asyncio.wait(late)
            else:
                await self.renew()
        return now

    async def renew(self) -> None:
        """Move the end of those that are written; raise UnavailableError when that could not be done."""
        until, before = self.end(), self._first_end
        self._first_end = until
        with self._on_the_way_until(before):
            try:
                await self._extend(until)
            except BaseException:
                self._first_end = min(self._first_end, before)
                raise

    @contextlib.contextmanager
    def _on_the_way_until(self, until: datetime) -> Iterator[None]:
        over = asyncio.get_running_loop().create_future()
        self._on_the_way[over] = until
        try:
            yield
        finally:
            del self._on_the_way[over]
            over.set_result(None)
