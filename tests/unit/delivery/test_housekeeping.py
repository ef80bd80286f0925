"""How old messages and keys are forgotten, and receipts that nothing claims."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from servicekit.errors import UnavailableError
from services.delivery.housekeeping import ADOPTED_AT_MOST, STEP, Housekeeping
from services.delivery.receipt_rules import PARKED_FOR, PARKED_PER_CARRIER
from tests.conftest import FixedClock


class FullStore:
    """Has so many old messages on each shard, so many expired keys, and so many parked receipts too many."""

    def __init__(self, messages: dict[int, int], keys: int, parked: int = 0, replies: int = 0) -> None:
        self.messages = messages
        self.keys = keys
        self.parked = parked
        self.parked_limits = None
        self.replies = replies
        self.replies_before = None
        self.strange = 0
        self.can_adopt = True
        self.adopting = None
        self.steps: list[int] = []
        self.before = None

    async def adopt_queues(self, routes, into, now, limit):
        if not self.can_adopt:
            raise UnavailableError("The database can not be used just now. Send the request again.")
        self.adopting = (routes, into)
        adopted = min(limit, self.strange)
        self.strange -= adopted
        return adopted

    async def expire(self, shard, now, limit):
        return 0

    async def remove_finished(self, shard, before, limit):
        self.before = before
        removed = min(limit, self.messages[shard])
        self.messages[shard] -= removed
        self.steps.append(removed)
        return removed

    async def remove_parked(self, before, *, kept, limit):
        self.parked_limits = (before, kept)
        removed = min(limit, self.parked)
        self.parked -= removed
        return removed

    async def remove_unmatched(self, before, limit):
        self.replies_before = before
        removed = min(limit, self.replies)
        self.replies -= removed
        return removed

    async def remove_expired_keys(self, now, limit):
        removed = min(limit, self.keys)
        self.keys -= removed
        return removed


def housekeeping(store, clock, *, shards=(0,), days=30):
    return Housekeeping(
        store=store,
        replies=store,
        clock=clock,
        shards=shards,
        retention=timedelta(days=days),
        routes=["first", "rest"],
    )


async def cleaned(keeping: Housekeeping, clock: FixedClock) -> list[datetime]:
    """Clean up to the end; return when it paused."""
    paused_at: list[datetime] = []
    cleaning = asyncio.create_task(keeping.clean())
    while not cleaning.done():
        await asyncio.sleep(0)
        if clock.sleepers:
            paused_at.append(clock.now())
            clock.advance(1)
    await cleaning
    return paused_at


async def test_removes_everything_that_is_old_in_small_steps_with_pauses(clock):
    store = FullStore({0: STEP * 2 + 7, 1: 3}, keys=STEP + 1, replies=STEP)
    cleaning = asyncio.create_task(housekeeping(store, clock, shards=[0, 1]).clean())
    pauses = 0
    while not cleaning.done():
        await asyncio.sleep(0)
        if clock.sleepers:
            pauses += 1
            clock.advance(1)

    assert await cleaning == STEP * 2 + 10
    assert store.messages == {0: 0, 1: 0}
    assert store.keys == 0
    assert store.replies == 0
    assert max(store.steps) == STEP
    assert pauses == 7


async def test_keeps_what_is_younger_than_the_retention_time(clock):
    store = FullStore({0: 0}, keys=0)

    await housekeeping(store, clock, days=7).clean()

    assert store.before == store.replies_before == clock.now() - timedelta(days=7)


async def test_forgets_parked_receipts_after_a_day_and_beyond_ten_thousand_of_a_carrier(clock):
    store = FullStore({}, keys=0, parked=STEP - 1)
    *_, forgotten_at = await cleaned(housekeeping(store, clock, shards=[]), clock)

    assert store.parked == 0
    assert store.parked_limits == (forgotten_at - PARKED_FOR, PARKED_PER_CARRIER)
    assert PARKED_PER_CARRIER == 10_000


async def test_pours_the_queues_of_routes_that_are_gone_into_the_last_one_each_time(clock):
    store = FullStore({0: 0}, keys=0)
    keeping = housekeeping(store, clock)

    for _ in range(2):  # a replica of before may put something there at any time
        store.strange = STEP + 1
        await cleaned(keeping, clock)

        assert store.strange == 0
        assert store.adopting == (["first", "rest"], "rest")


async def test_moves_no_more_at_once_than_so_many(clock):
    store = FullStore({0: 0}, keys=0)
    store.strange = 3 * ADOPTED_AT_MOST

    await cleaned(housekeeping(store, clock), clock)

    assert store.strange == 2 * ADOPTED_AT_MOST


async def test_forgets_what_is_old_before_it_moves_messages_which_may_fail(clock):
    store = FullStore({0: 1}, keys=1, parked=1, replies=1)
    store.can_adopt = False

    with pytest.raises(UnavailableError):
        await cleaned(housekeeping(store, clock), clock)

    assert (store.messages, store.keys, store.parked, store.replies) == ({0: 0}, 0, 0, 0)
