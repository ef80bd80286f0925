"""How old messages and keys are forgotten."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.delivery.housekeeping import STEP, Housekeeping


class FullStore:
    """Has so many old messages on each shard, and so many expired keys."""

    def __init__(self, messages: dict[int, int], keys: int) -> None:
        self.messages = messages
        self.keys = keys
        self.steps: list[int] = []
        self.before = None

    async def remove_finished(self, shard, before, limit):
        self.before = before
        removed = min(limit, self.messages[shard])
        self.messages[shard] -= removed
        self.steps.append(removed)
        return removed

    async def remove_expired_keys(self, now, limit):
        removed = min(limit, self.keys)
        self.keys -= removed
        return removed


async def test_removes_everything_that_is_old_in_small_steps_with_pauses(clock):
    store = FullStore({0: STEP * 2 + 7, 1: 3}, keys=STEP + 1)
    cleaning = asyncio.create_task(
        Housekeeping(store=store, clock=clock, shards=[0, 1], retention=timedelta(days=30)).clean()
    )
    pauses = 0
    while not cleaning.done():
        await asyncio.sleep(0)
        if clock.sleepers:
            pauses += 1
            clock.advance(1)

    assert await cleaning == STEP * 2 + 10
    assert store.messages == {0: 0, 1: 0}
    assert store.keys == 0
    assert max(store.steps) == STEP
    assert pauses == 6


async def test_keeps_what_is_younger_than_the_retention_time(clock):
    store = FullStore({0: 0}, keys=0)

    await Housekeeping(store=store, clock=clock, shards=[0], retention=timedelta(days=7)).clean()

    assert store.before == clock.now() - timedelta(days=7)
