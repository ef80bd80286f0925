"""Tells watchers of every change, and knows when each has applied it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from servicekit.clock import Clock
from servicekit.errors import UnavailableError

ACKNOWLEDGE_SECONDS: Final = 1.0
# For how long after a ping that was answered a caller may take its copy for exact. It is less than the time for which
# an author waits for an acknowledgement: who is cut off without hearing of it has stopped believing by then.
EXACT_SECONDS: Final = 0.7

Change = TypeVar("Change")


@dataclass(frozen=True, kw_only=True)
class Pong:
    """The answer to a ping: every change that was published before the ping came has been given before this."""

    number: int


class Watcher(Generic[Change]):
    """One caller's place in the feed. It sees each change once, in the order of publication, until it is cut off."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, Change] | Pong] = deque()
        self._news = asyncio.Event()
        self._start = 0
        self._given = 0
        self._applied = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._promised_until = -math.inf
        self._cut_off = False

    def begin_after(self, revision: int) -> None:
        """Leave out changes up to this revision: the caller has them by other means."""
        self._start = self._given = revision

    async def next_change(self) -> tuple[int, Change] | Pong:
        """Return the next change and its revision, or pong, once there is one; raise UnavailableError when cut off."""
        while True:
            self.require_live()
            while self._changes:
                news = self._changes.popleft()
                if isinstance(news, Pong):
                    return news
                if news[0] > self._start:
                    self._given = news[0]
                    return news
            self._news.clear()
            await self._news.wait()

    def require_live(self) -> None:
        """Raise UnavailableError when this watcher has been cut off."""
        if self._cut_off:
            raise UnavailableError("This stream fell behind or is ending. Open a new one for a fresh snapshot.")

    def acknowledge(self, revision: int) -> None:
        """Note that the caller has applied everything up to this revision; more than it was given counts as that."""
        self._applied = max(self._applied, min(revision, self._given))
        for awaited, future in self._waiting:
            if awaited <= self._applied and not future.done():
                future.set_result(None)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]

    def _publish(self, revision: int, change: Change) -> None:
        self._changes.append((revision, change))
        self._news.set()

    def _promise(self, number: int, until: float) -> None:
        self._changes.append(Pong(number=number))
        self._promised_until = until
        self._news.set()

    def _applied_up_to(self, revision: int) -> asyncio.Future[None]:
        """Return a future that is done when the caller has applied that revision, or is gone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._applied >= revision:
            future.set_result(None)
        else:
            self._waiting.append((revision, future))
        return future

    def _end(self) -> None:
        self._cut_off = True
        self._changes.clear()
        self._news.set()
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


class Broadcaster(Generic[Change]):
    """Gives every change to every watcher, and cuts off those that do not acknowledge it in time.

    A watcher that falls behind must not hold back the others: it is told to begin again, from a fresh snapshot. One
    that is gone may not know it yet, if the network between is broken: it goes on believing until the last promise that
    it was given is over, and so long authors wait.
    """

    def __init__(self, clock: Clock, acknowledge_seconds: float = ACKNOWLEDGE_SECONDS) -> None:
        self._clock = clock
        self._acknowledge_seconds = acknowledge_seconds
        self._watchers: set[Watcher[Change]] = set()
        self._trusted_until = math.inf
        self._gone_believe_until = -math.inf
        self._closed = False

    @property
    def watcher_count(self) -> int:
        """How many watchers are live."""
        return len(self._watchers)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher[Change]]:
        """Join: the watcher gets every change that is published from now on, until the block ends."""
        watcher: Watcher[Change] = Watcher()
        self._watchers.add(watcher)
        if self._closed or not self._is_trusted():
            self._cut_off(watcher)
        try:
            yield watcher
        finally:
            self._cut_off(watcher)

    def trust_until(self, moment: float) -> None:
        """Say until when on the monotonic clock all changes are known here: no watcher is promised more after that."""
        self._trusted_until = moment

    def ping(self, watcher: Watcher[Change], number: int) -> None:
        """Promise a watcher that, from the moment at which it asked, its copy is exact for EXACT_SECONDS.

        There is no answer where that can not be promised.
        """
        if watcher in self._watchers and self._is_trusted():
            watcher._promise(number, self._clock.monotonic() + EXACT_SECONDS)  # noqa: SLF001  # two ends of one thing

    def publish(self, revision: int, change: Change) -> None:
        """Give a change to every watcher. Call it in the order of revisions, once the change is committed."""
        for watcher in self._watchers:
            watcher._publish(revision, change)  # noqa: SLF001  # as above

    async def acknowledged(self, revision: int) -> int:
        """Return when every watcher has applied a revision; after a second, cut off those that have not.

        Returns how many were cut off. A watcher that leaves meanwhile is no longer waited for, once it must know that.
        """
        awaited = {watcher: watcher._applied_up_to(revision) for watcher in self._watchers}  # noqa: SLF001  # as above
        laggards = await self._laggards(awaited) if awaited else []
        for watcher in laggards:
            # What it was promised before it was given the change is over by now.
            self._watchers.discard(watcher)
            watcher._end()  # noqa: SLF001  # as above
        await self.promises_over()
        return len(laggards)

    async def promises_over(self) -> None:
        """Return when none of the watchers that have gone goes on believing that its copy is exact."""
        while (seconds := self._gone_believe_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(seconds)

    def cut_off_all(self) -> None:
        """Tell every watcher to begin again."""
        for watcher in tuple(self._watchers):
            self._cut_off(watcher)

    def close(self) -> None:
        """Cut off every watcher, and those that come later too."""
        self._closed = True
        self.cut_off_all()

    def _is_trusted(self) -> bool:
        return self._clock.monotonic() < self._trusted_until

    async def _laggards(self, awaited: Mapping[Watcher[Change], asyncio.Future[None]]) -> list[Watcher[Change]]:
        everyone = asyncio.ensure_future(asyncio.wait(awaited.values()))
        deadline = asyncio.ensure_future(self._clock.sleep(self._acknowledge_seconds))
        try:
            await asyncio.wait((everyone, deadline), return_when=asyncio.FIRST_COMPLETED)
        finally:
            everyone.cancel()
            deadline.cancel()
        return [watcher for watcher, future in awaited.items() if not future.done()]

    def _cut_off(self, watcher: Watcher[Change]) -> None:
        if watcher in self._watchers:
            self._watchers.discard(watcher)
            watcher._end()  # noqa: SLF001  # as above
            self._gone_believe_until = max(self._gone_believe_until, watcher._promised_until)  # noqa: SLF001  # as above
