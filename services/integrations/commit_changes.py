"""Makes changes one after another, tells every watcher of each, and returns when all have applied it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from servicekit.errors import AlreadyExistsError, ConflictError, IdempotencyMismatchError, NotFoundError
from services.integrations.domain import Change
from services.integrations.store import AnsweredBeforeError
from services.integrations.watchers import Broadcaster

# What a store says when it has decided to change nothing.
_REFUSALS: Final = (AlreadyExistsError, AnsweredBeforeError, ConflictError, IdempotencyMismatchError, NotFoundError)

log = structlog.get_logger(__name__)


class ChangeFeed:
    """The one way in which integrations are changed."""

    def __init__(self, broadcaster: Broadcaster[Change]) -> None:
        self._broadcaster = broadcaster
        self._one_at_a_time = asyncio.Lock()
        self._under_way: set[asyncio.Task[Change]] = set()
        self._newest_revision = 0

    async def commit(self, write: Callable[[], Awaitable[Change]]) -> Change:
        """Run a store's write and return what it did, when every watcher has applied it or has been cut off.

        What it raises is raised; a repeat's AnsweredBeforeError only when what the first call did is in force too. An
        author who goes away does not stop this half-way: what is committed is always told.
        """
        task = asyncio.create_task(self._commit(write))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Return when no change is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _commit(self, write: Callable[[], Awaitable[Change]]) -> Change:
        try:
            change = await self._write_and_publish(write)
        except AnsweredBeforeError:
            await self._in_force(self._newest_revision)
            raise
        await self._in_force(change.revision)
        return change

    async def _write_and_publish(self, write: Callable[[], Awaitable[Change]]) -> Change:
        # Without the lock, two changes could be told in another order than that of their commits.
        async with self._one_at_a_time:
            try:
                change = await write()
            except _REFUSALS:
                raise
            except Exception:
                # It may have been committed all the same, so that what watchers hold may be old.
                self._broadcaster.cut_off_all()
                raise
            self._broadcaster.publish(change.revision, change)
            self._newest_revision = change.revision
        return change

    async def _in_force(self, revision: int) -> None:
        cut_off = await self._broadcaster.acknowledged(revision)
        if cut_off:
            log.warning("watchers cut off", revision=revision, count=cut_off)
