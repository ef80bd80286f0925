"""Makes changes, tells every watcher of each, and returns when all have applied it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from servicekit.errors import (
    AlreadyExistsError,
    ConflictError,
    IdempotencyMismatchError,
    NotFoundError,
    UnavailableError,
)
from services.integrations.domain import Change
from services.integrations.store import AnsweredBeforeError
from services.integrations.watchers import Broadcaster

# What a store says when it has decided to change nothing.
_REFUSALS: Final = (AlreadyExistsError, AnsweredBeforeError, ConflictError, IdempotencyMismatchError, NotFoundError)

log = structlog.get_logger(__name__)


class Follower(Protocol):
    """Who tells this process' watchers of the changes of all processes that share the database."""

    def hurry(self) -> None:
        """Look for changes now."""

    async def in_force(self, revision: int | None = None) -> None:
        """Return when the watchers of all processes have applied a revision, or everything that there is."""


class ChangeFeed:
    """The one way in which integrations are changed.

    Where no other process has the database, changes are told to watchers from here; else by the follower.
    """

    def __init__(self, broadcaster: Broadcaster[Change], follower: Follower | None = None) -> None:
        self._broadcaster = broadcaster
        self._follower = follower
        self._one_at_a_time = asyncio.Lock()
        self._under_way: set[asyncio.Task[Change]] = set()
        self._newest_revision = 0

    async def commit(self, write: Callable[[], Awaitable[Change]]) -> Change:
        """Run a store's write and return what it did, when every watcher has applied it or has been cut off.

        What it raises is raised; a repeat's AnsweredBeforeError only when what the first call did is in force too. An
        author who goes away does not stop this half-way: what is committed is always told.
        """
        task = asyncio.create_task(self._commit(write, self._follower) if self._follower else self._commit_alone(write))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Return when no change is under way."""
        while self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _commit(self, write: Callable[[], Awaitable[Change]], follower: Follower) -> Change:
        try:
            # One at a time takes one connection of the pool, and the row that counts lets no more through anyway.
            async with self._one_at_a_time:
                change = await write()
        except AnsweredBeforeError:
            # The first call may have been made at any process.
            await follower.in_force()
            raise
        except UnavailableError:
            # It may be committed all the same, now or in a moment; then the follower finds it.
            follower.hurry()
            raise
        await follower.in_force(change.revision)
        return change

    async def _commit_alone(self, write: Callable[[], Awaitable[Change]]) -> Change:
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
