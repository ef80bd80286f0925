"""Nothing that several processes do to the same messages at once makes any of them wait for the others in a circle."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from servicekit import migrations
from servicekit.database import Database
from services.delivery import service
from services.delivery.domain import Receipt, Status
from services.delivery.sql_store import SqlMessageStore
from tests.contract.test_claiming_at_scale import begin, finished, new_message, refused_for_now

PROCESSES = 4
ROUNDS = 40


class Actors:
    """Add, claim, finish, cancel and tell receipts, at random and all at once, over the same messages."""

    def __init__(self, stores: list[SqlMessageStore], seed: int) -> None:
        self.stores = stores
        self.random = random.Random(seed)
        self.ids: list[str] = []
        self.calls = 0

    async def add(self) -> None:
        for _ in range(ROUNDS):
            messages = [new_message(datetime.now(UTC)) for _ in range(20)]
            await self._store().add(messages)
            self.ids += [message.id for message in messages]
            self.calls += 1

    async def work(self, lease_seconds: float) -> None:
        for _ in range(ROUNDS):
            now = datetime.now(UTC)
            lease_until = now + timedelta(seconds=lease_seconds)
            claimed = await self._store().claim(shard=0, now=now, lease_until=lease_until, limit=30, decide=begin)
            await asyncio.sleep(self.random.random() * 0.05)
            outcomes = [self.random.choice((finished, refused_for_now))(each, datetime.now(UTC)) for each in claimed]
            self.random.shuffle(outcomes)
            if outcomes:
                await self._store().finish(outcomes)
            self.calls += 2

    async def cancel(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.01)
            if self.ids:
                await self._store().cancel("ten_a", self.random.choice(self.ids[-60:]), datetime.now(UTC))
            self.calls += 1

    async def receive(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.01)
            chosen = self.random.sample(self.ids, min(10, len(self.ids)))
            if chosen:
                await self._store().apply_receipts([receipt(message_id) for message_id in chosen])
            self.calls += 1

    def _store(self) -> SqlMessageStore:
        return self.random.choice(self.stores)


def receipt(message_id: str) -> Receipt:
    told = Receipt(
        message_id=message_id, status=Status.DELIVERED, failure=None, detail="", received_at=datetime.now(UTC)
    )
    return replace(told, status=random.choice((Status.SENT, Status.DELIVERED)))


async def test_no_two_calls_wait_for_each_other(postgres_database):
    async with contextlib.AsyncExitStack() as stack:
        databases = [Database.open(postgres_database) for _ in range(PROCESSES)]
        for database in databases:
            stack.push_async_callback(database.close)
        await migrations.migrate(databases[0], service.MIGRATIONS, service.VERSION_TABLE)
        actors = Actors([SqlMessageStore(database) for database in databases], seed=1)

        # A circle ends in an UnavailableError after the lock's time is over, which gather raises.
        await asyncio.gather(
            actors.add(),
            *(actors.work(lease_seconds) for lease_seconds in (0.05, 5, 0.05, 5, 0.05, 5)),
            actors.cancel(),
            actors.receive(),
            actors.receive(),
        )

    assert actors.calls == ROUNDS * (1 + 6 * 2 + 1 + 2)
