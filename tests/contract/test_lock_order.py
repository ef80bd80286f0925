"""Nothing that several processes do to the same messages at once makes any of them wait for the others in a circle."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from servicekit.database import Database
from servicekit.ids import new_id
from services.delivery.domain import Failure, FailureReason, Outcome, Receipt, Reply, Status
from services.delivery.optouts import OptOutWords
from services.delivery.sql_replies import SqlReplyStore
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import Added, FinishedAttempt, StartedAttempt
from tests.contract.test_claiming_at_scale import finished, new_message, opened, refused_for_now
from tests.kit import locks
from tests.kit.claims import beginnings, claim

Result = TypeVar("Result")

PROCESSES = 4
ROUNDS = 40
DONE_WITHIN_SECONDS = 120


class Actors:
    """Add, begin, claim, finish, cancel, tell receipts and replies and sweep, all at once, over the same messages."""

    def __init__(self, databases: list[Database], seed: int) -> None:
        self.stores = [SqlMessageStore(database) for database in databases]
        self.replies = [SqlReplyStore(database) for database in databases]
        self.random = random.Random(seed)
        self.ids: list[str] = []
        self.calls = 0

    async def add(self) -> None:
        for _ in range(ROUNDS):
            messages = [new_message(datetime.now(UTC)) for _ in range(20)]
            await self._call(self._store().add, messages)
            self.ids += [message.id for message in messages]

    async def begin(self) -> None:
        for number in range(ROUNDS):
            await asyncio.sleep(0.01)
            added = await self._call(self._begin, f"other-{number % 4}")
            self.ids += [attempt.message.id for attempt in added.started]
            await self._call(
                self._store().finish,
                [self.random.choice((taken, opted_out))(each, datetime.now(UTC)) for each in added.started],
            )

    async def work(self, lease_seconds: float) -> None:
        for _ in range(ROUNDS):
            claimed = await self._call(self._claim, timedelta(seconds=lease_seconds))
            await asyncio.sleep(self.random.random() * 0.05)
            outcomes = [
                self.random.choice((taken, refused_for_now, opted_out))(each, datetime.now(UTC)) for each in claimed
            ]
            self.random.shuffle(outcomes)
            await self._call(self._store().finish, outcomes)

    async def cancel(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.01)
            now = datetime.now(UTC)
            chosen = self.random.choice(self.ids[-60:] or [new_id("msg", now)])
            await self._call(self._store().cancel, "ten_a", chosen, now)

    async def receive(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.01)
            chosen = self.random.sample(self.ids, min(10, len(self.ids)))
            await self._call(self._store().apply_receipts, [receipt(message_id) for message_id in chosen])

    async def sweep(self) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(0.01)
            await self._call(self._sweep, timedelta(hours=1))

    async def hear(self) -> None:
        for number in range(ROUNDS):
            await asyncio.sleep(0.01)
            await self._call(self._hear, reply(number, self.random.choice(("STOP", "START", "YES", "HELP"))))

    async def _claim(self, lease: timedelta) -> list[StartedAttempt]:
        return await claim(self._store(), now=datetime.now(UTC), lease=lease, limit=30)

    async def _begin(self, route: str) -> Added:
        now = datetime.now(UTC)
        messages = [replace(new_message(now), route=route) for _ in range(20)]
        return await self._store().add_and_begin(
            messages, beginnings(messages), now=now, lease_until=now + timedelta(seconds=0.05)
        )

    async def _sweep(self, parked_for: timedelta) -> None:
        now = datetime.now(UTC)
        await self._store().settle_parked(50, since=now - parked_for)
        await self._store().remove_parked(now - parked_for, kept=20, limit=10)

    async def _hear(self, heard: Reply) -> None:
        await self.random.choice(self.replies).add_reply(
            heard,
            window_of=lambda _message: timedelta(days=7),
            announce=lambda _reply: (),
            words=OptOutWords(),
        )

    async def _call(self, call: Callable[..., Awaitable[Result]], *given: object) -> Result:
        result = await locks.until_available(call, *given)
        self.calls += 1
        return result

    def _store(self) -> SqlMessageStore:
        return self.random.choice(self.stores)


def taken(attempt: StartedAttempt, at: datetime) -> FinishedAttempt:
    return replace(finished(attempt, at), carrier_message_id=f"c-{attempt.message.id}")


def opted_out(attempt: StartedAttempt, at: datetime) -> FinishedAttempt:
    failure = Failure(reason=FailureReason.OPTED_OUT)
    return replace(finished(attempt, at), outcome=Outcome.REFUSED, status=Status.FAILED, failure=failure)


def reply(number: int, text: str) -> Reply:
    return Reply(
        id=new_id("mo", datetime.now(UTC)),
        carrier="simulator",
        carrier_reply_id=str(number),
        sender="+6581230000",
        recipient="+6598765432",
        text=text,
        received_at=datetime.now(UTC),
    )


def receipt(message_id: str) -> Receipt:
    has_ours, has_theirs = random.choice(((True, False), (False, True), (True, True)))
    return Receipt(
        message_id=message_id if has_ours else "",
        carrier="simulator",
        carrier_message_id=f"c-{message_id}" if has_theirs else "",
        status=(status := random.choice((Status.SENT, Status.DELIVERED, Status.UNDELIVERED))),
        failure=Failure(reason=FailureReason.OPTED_OUT) if status is Status.UNDELIVERED else None,
        detail="",
        received_at=datetime.now(UTC),
    )


async def test_no_two_calls_wait_for_each_other(postgres_database):
    async with opened(postgres_database) as watching:
        before = await locks.circles(watching)
        async with contextlib.AsyncExitStack() as stack:
            databases = [await stack.enter_async_context(opened(postgres_database)) for _ in range(PROCESSES)]
            actors = Actors(databases, seed=1)

            async with asyncio.timeout(DONE_WITHIN_SECONDS):
                await asyncio.gather(
                    actors.add(),
                    actors.begin(),
                    actors.begin(),
                    *(actors.work(lease_seconds) for lease_seconds in (0.05, 5, 0.05, 5, 0.05, 5)),
                    actors.cancel(),
                    actors.receive(),
                    actors.receive(),
                    actors.sweep(),
                    actors.sweep(),
                    actors.hear(),
                    actors.hear(),
                )

        assert await locks.circles(watching) == before
    assert actors.calls == ROUNDS * (1 + 2 * 2 + 6 * 2 + 1 + 2 + 2 + 2)
