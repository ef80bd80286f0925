"""Deadlines of many calls that have equally long, with one timer for all of them."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final

# A timer that is later than this was not late by itself: the process stood still, and others did not.
STOOD_STILL_SECONDS: Final = 1.0
CATCH_UP_SECONDS: Final = 0.5


class Deadlines:
    """Cuts off what takes longer than `seconds`.

    `asyncio.timeout` sets a timer for each block and takes it back, which takes longer than much that is done in one.
    Here blocks end in the order in which they began, as far as deadlines end them, so that a timer for the oldest is
    enough.

    A process that stood still beyond deadlines reads first what has come meanwhile: an event loop runs its timers
    before that, and would take what was answered in time for not answered.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._open: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Deadline:
        """Return a block that raises TimeoutError when it is still being run after so many seconds."""
        return Deadline(self)

    def enter(self, deadline: Deadline) -> None:
        """Take in a block that begins now."""
        self._open.append(deadline)
        if self._timer is None:
            self._wait_until(deadline.at)

    def leave(self) -> None:
        """Forget the blocks that have ended, as far as no older one is still being run."""
        while self._open and self._open[0].task is None:
            self._open.popleft()

    def _wait_until(self, moment: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(moment, self._cut_off, moment)

    def _cut_off(self, planned: float) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        if now - planned > STOOD_STILL_SECONDS:
            self._wait_until(now + CATCH_UP_SECONDS)
            return
        while self._open and self._open[0].at <= now:
            self._open.popleft().cut_off()
        self.leave()
        if self._open:
            self._wait_until(self._open[0].at)


class Deadline:
    """One block, run by one task."""

    __slots__ = ("_cancelling", "_deadlines", "_has_passed", "at", "task")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._has_passed = False
        self._cancelling = 0
        self.at = 0.0
        self.task: asyncio.Task[object] | None = None  # None once the block has ended

    def cut_off(self) -> None:
        """Cancel what is still being run."""
        if self.task is not None:
            self._has_passed = True
            self.task.cancel()

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        assert self.task is not None  # noqa: S101  # only tasks wait
        self._cancelling = self.task.cancelling()
        self.at = asyncio.get_running_loop().time() + self._deadlines.seconds
        self._deadlines.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        task, self.task = self.task, None
        self._deadlines.leave()
        if task is None or not self._has_passed:
            return
        # Whoever else has cancelled the task meanwhile is to be obeyed.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
