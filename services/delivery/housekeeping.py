"""Forgets what is old and moves what is lost, in small steps, so that nothing else waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from servicekit.clock import Clock
from services.delivery.receipt_rules import PARKED_FOR, PARKED_PER_CARRIER
from services.delivery.store import MessageStore

STEP: Final = 500
PAUSE_SECONDS: Final = 0.05
# Two processes with other routes each would move the same messages back and forth.
ADOPTED_AT_MOST: Final = 20 * STEP

log = structlog.get_logger(__name__)


class ForgetsReplies(Protocol):
    """The part of the storage of replies that forgetting needs."""

    async def remove_unmatched(self, before: datetime, limit: int) -> int:
        """Delete at most `limit` replies that answer no message and came before a time."""


class Housekeeping:
    """Deletes old messages and replies, keys that count no more, and receipts that nothing claims.

    At last it pours the queues of routes that are gone into that of the last route: again and again, because beside
    this process there may be one that still has such a route, until all are replaced.
    """

    def __init__(
        self,
        *,
        store: MessageStore,
        replies: ForgetsReplies,
        clock: Clock,
        shards: Sequence[int],
        retention: timedelta,
        routes: Sequence[str],
    ) -> None:
        self._store = store
        self._replies = replies
        self._clock = clock
        self._shards = shards
        self._retention = retention
        self._routes = routes

    async def clean(self) -> int:
        """Do all that is due; return how many messages were deleted."""
        for shard in self._shards:
            while await self._store.expire(shard, self._clock.now(), STEP):
                await self._clock.sleep(PAUSE_SECONDS)
        removed = 0
        before = self._clock.now() - self._retention
        for shard in self._shards:
            while count := await self._store.remove_finished(shard, before, STEP):
                removed += count
                await self._clock.sleep(PAUSE_SECONDS)
        while await self._replies.remove_unmatched(before, STEP):
            await self._clock.sleep(PAUSE_SECONDS)
        while await self._store.remove_expired_keys(self._clock.now(), STEP):
            await self._clock.sleep(PAUSE_SECONDS)
        await self._forget_parked()
        if removed:
            log.info("old messages removed", messages=removed)
        await self._adopt()
        return removed

    async def _adopt(self) -> None:
        adopted, into = 0, self._routes[-1]
        while count := await self._store.adopt_queues(self._routes, into, self._clock.now(), STEP):
            adopted += count
            if count < STEP or adopted >= ADOPTED_AT_MOST:
                break
            await self._clock.sleep(PAUSE_SECONDS)
        if adopted:
            log.warning("messages moved that waited for a route which is gone", messages=adopted, route=into)

    async def _forget_parked(self) -> None:
        forgotten = 0
        before = self._clock.now() - PARKED_FOR
        while count := await self._store.remove_parked(before, kept=PARKED_PER_CARRIER, limit=STEP):
            forgotten += count
            await self._clock.sleep(PAUSE_SECONDS)
        if forgotten:
            log.warning("parked receipts removed whose message never became known", receipts=forgotten)
