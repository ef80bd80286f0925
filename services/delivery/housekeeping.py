"""Forget what is old, in small steps, so that nothing else waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog

from servicekit.clock import Clock
from services.delivery.store import MessageStore

STEP: Final = 500
PAUSE_SECONDS: Final = 0.05

log = structlog.get_logger(__name__)


class Housekeeping:
    """Deletes finished messages after the retention time, and keys that count no more."""

    def __init__(self, *, store: MessageStore, clock: Clock, shards: Sequence[int], retention: timedelta) -> None:
        self._store = store
        self._clock = clock
        self._shards = shards
        self._retention = retention

    async def clean(self) -> int:
        """Delete everything that is due to be deleted; return how many messages went."""
        removed = 0
        before = self._clock.now() - self._retention
        for shard in self._shards:
            while count := await self._store.remove_finished(shard, before, STEP):
                removed += count
                await self._clock.sleep(PAUSE_SECONDS)
        while await self._store.remove_expired_keys(self._clock.now(), STEP):
            await self._clock.sleep(PAUSE_SECONDS)
        if removed:
            log.info("old messages removed", messages=removed)
        return removed
