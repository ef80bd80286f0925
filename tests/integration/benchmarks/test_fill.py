"""A database that is filled by copying what a load has left in it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from benchmarks import fill
from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance
from services.delivery.domain import NewMessage, Outcome, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import FinishedAttempt
from services.delivery.tables import ATTEMPTS, DUE, MESSAGES
from tests.kit import claims, messages

NOW = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
ORIGINALS = 5


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'delivery.db'}"


async def leave_behind(url: str, *, finished: bool) -> None:
    database = Database.open(url)
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    store = SqlMessageStore(database)
    await store.add([new_message(number) for number in range(ORIGINALS)])
    if finished:
        await store.finish([outcome(attempt) for attempt in await claims.claim(store, now=NOW)])
    await database.close()


def new_message(number: int) -> NewMessage:
    return messages.new_message(NOW, to=f"+1415200{number:04d}")


def outcome(attempt) -> FinishedAttempt:
    return FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        carrier=attempt.carrier,
        token=attempt.token,
        outcome=Outcome.TAKEN,
        detail="taken",
        carrier_message_id=f"c-{attempt.message.id}",
        status=Status.SENT,
        failure=None,
        retry_at=None,
        finished_at=NOW,
    )


async def counts(url: str, *columns) -> list[int]:
    database = Database.open(url)
    async with database.read() as connection:
        found = [await connection.scalar(select(func.count(column.distinct()))) for column in columns]
    await database.close()
    return found


def test_copies_of_finished_messages_are_messages_of_their_own(url):
    asyncio.run(leave_behind(url, finished=True))

    assert fill.finished(url, 20) == 20

    columns = (MESSAGES.c.id, MESSAGES.c.recipient, ATTEMPTS.c.message_id, ATTEMPTS.c.carrier_message_id)
    assert asyncio.run(counts(url, *columns)) == [20, 20, 20, 20]


def test_copies_of_queued_messages_wait_behind_the_originals(url):
    asyncio.run(leave_behind(url, finished=False))

    assert fill.queued(url, 18) == 20

    assert asyncio.run(counts(url, MESSAGES.c.id, DUE.c.message_id, DUE.c.rank)) == [20, 20, 20]
