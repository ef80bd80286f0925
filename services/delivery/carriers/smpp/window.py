"""How many `submit_sm` may be without an answer at once: fewer when the SMSC asks for less, slowly more after that."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class NotSubmittedError(Exception):
    """Nothing was sent; the text says why."""

    def __init__(self, detail: str, *, code: str = "", after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.after_seconds = after_seconds


class Window:
    """Lets so many in at once, in the order in which they come. Halves when throttled, and grows by one a round."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._allowed = float(size)
        self._used = 0
        self._entered = 0
        self._deaf_until = 0  # throttles that answer what was sent before the last shrinking say nothing new
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    @property
    def allowed(self) -> int:
        """How many are let in at once just now."""
        return int(self._allowed)

    @property
    def used(self) -> int:
        """How many are in."""
        return self._used

    async def enter(self, until: float) -> int:
        """Wait for a place, and return which entry this is. Raises NotSubmittedError when none is free by `until`."""
        if self._used < self.allowed and not self._waiting:
            self._used += 1
        else:
            await self._place(until)
        self._entered += 1
        return self._entered

    async def _place(self, until: float) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (until, place)
        self._waiting.append(waiting)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and not place.exception():
                self.leave()  # the place was given in the moment of giving up
            else:
                with contextlib.suppress(ValueError):  # turned away already
                    self._waiting.remove(waiting)
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._used -= 1
        self._let_in()

    def answered(self) -> None:
        """Grow a little: the SMSC took one."""
        self._allowed = min(float(self._size), self._allowed + 1.0 / self._allowed)
        self._let_in()

    def throttled(self, entry: int) -> None:
        """Shrink to half, once for all that were under way together."""
        if entry > self._deaf_until:
            self._allowed = max(1.0, self.allowed / 2)
            self._deaf_until = self._entered

    def expire(self, now: float) -> None:
        """Turn away those that have waited for too long."""
        overdue = [waiting for waiting in self._waiting if waiting[0] <= now]
        for waiting in overdue:
            self._waiting.remove(waiting)
            _turn_away(waiting[1], NotSubmittedError("the window of unanswered messages was full for too long"))

    def close(self, detail: str) -> None:
        """Turn away all who wait."""
        while self._waiting:
            _turn_away(self._waiting.popleft()[1], NotSubmittedError(detail))

    def _let_in(self) -> None:
        while self._waiting and self._used < self.allowed:
            _, place = self._waiting.popleft()
            if not place.done():
                self._used += 1
                place.set_result(None)


def _turn_away(place: asyncio.Future[None], error: NotSubmittedError) -> None:
    if not place.done():
        place.set_exception(error)
