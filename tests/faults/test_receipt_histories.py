"""Campaign: carriers tell of messages twice, out of order, too early or never, and each message ends as the model says.

The lives are the ones of `tests/kit/receipt_histories.py`; here they pass through the real store, many at a time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import func, select

from servicekit import migrations
from servicekit.database import Database
from services.delivery import maintenance
from services.delivery.domain import Outcome, Receipt, Status
from services.delivery.sql_store import SqlMessageStore
from services.delivery.store import (
    Begin,
    Decision,
    DueMessage,
    Finish,
    FinishedAttempt,
    Leave,
    ReceiptResult,
    StartedAttempt,
)
from services.delivery.tables import MESSAGES, RECEIPTS
from tests.contract.test_message_store import NOW, new_message
from tests.faults.conftest import FULL, SEED
from tests.kit.claims import ROUTE, claim
from tests.kit.receipt_histories import SWEEP_EVERY, End, Life, Model, Replay, Settle, Start, Word, random_life

LIVES = 100_000 if FULL else 600
AT_ONCE = 400  # fewer than a claim makes ready at a time
BATCH = 200
LONG_AFTER = NOW + timedelta(hours=1)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture
async def database(tmp_path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path / 'delivery.db'}")
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    yield database
    await database.close()


class Lives:
    """Many lives that pass through a store side by side, round by round."""

    def __init__(self, store: SqlMessageStore, lives: Sequence[Life]) -> None:
        self.store = store
        self.messages = {m.id: life for life in lives for m in [new_message(segments=life.segments)]}
        self.rounds = max(len(life.events) for life in lives) + 1
        self.open: dict[str, StartedAttempt] = {}
        self.told = 0

    async def run(self) -> None:
        await self.store.add([new_message(id=each, segments=life.segments) for each, life in self.messages.items()])
        for number in range(self.rounds):
            await self._claim(number)
            await self._finish(number)
            await self._tell(number)
            if number % SWEEP_EVERY == SWEEP_EVERY - 1 or number == self.rounds - 1:
                while await self.store.settle_parked(BATCH, since=NOW):
                    pass

    def _events(self, number: int, kind: type) -> dict[str, object]:
        return {
            message_id: life.events[number]
            for message_id, life in self.messages.items()
            if number < len(life.events) and isinstance(life.events[number], kind)
        }

    async def _claim(self, number: int) -> None:
        starts, ends = self._events(number, Start), self._events(number, Settle)

        def decide(due: DueMessage) -> Decision:
            if due.message.id in starts:
                return Begin(carrier=starts[due.message.id].carrier, sender="")
            if due.message.id in ends:
                return Finish(status=ends[due.message.id].status, failure=None)
            return Leave()

        now = NOW + timedelta(seconds=number)
        for attempt in await claim(self.store, now=now, lease=timedelta(days=1), limit=AT_ONCE, decide=decide):
            self.open[attempt.message.id] = attempt

    async def _finish(self, number: int) -> None:
        finished = [
            _finished(self.open.pop(message_id), end, self.messages[message_id], NOW + timedelta(seconds=number))
            for message_id, end in self._events(number, End).items()
            if message_id in self.open
        ]
        if finished:
            assert all(await self.store.finish(finished))

    async def _tell(self, number: int) -> None:
        # Each a millisecond after the other, so that the parked ones are told in the order in which they came.
        receipts = [
            _receipt(message_id, word, NOW + timedelta(seconds=number, milliseconds=place))
            for place, (message_id, word) in enumerate(self._events(number, Word).items())
        ]
        for start in range(0, len(receipts), BATCH):
            results = await self.store.apply_receipts(receipts[start : start + BATCH])
            assert set(results) <= set(ReceiptResult)
        self.told += len(receipts)


def _finished(attempt: StartedAttempt, end: End, life: Life, now) -> FinishedAttempt:
    taken = end.outcome is Outcome.TAKEN
    again = end.outcome is Outcome.REFUSED and end.goes_on
    status = {Outcome.TAKEN: Status.SENT, Outcome.UNKNOWN: Status.SENDING, Outcome.REFUSED: Status.FAILED}
    name = f"{attempt.message.id}-{attempt.number}"
    return FinishedAttempt(
        message_id=attempt.message.id,
        number=attempt.number,
        carrier=attempt.carrier,
        token=attempt.token,
        outcome=end.outcome,
        detail="",
        carrier_message_id=f"{name}-0" if taken else "",
        part_ids=tuple(f"{name}-{part}" for part in range(1, life.segments + 1)) if taken and life.in_parts else (),
        status=Status.QUEUED if again else status.get(end.outcome, Status.QUEUED),
        failure=None,
        retry_at=None if taken or (end.outcome is Outcome.REFUSED and not again) else now,
        finished_at=now,
    )


def _receipt(message_id: str, word: Word, now) -> Receipt:
    return Receipt(
        message_id=message_id if word.has_ours else "",
        carrier=word.carrier,
        carrier_message_id=f"{message_id}-{word.attempt}-{word.part}" if word.has_theirs else "",
        status=word.status,
        failure=None,
        detail="",
        received_at=now,
    )


async def test_every_random_history_ends_as_the_model_says(database, figures: Callable[[str], None]):
    random, store = Random(SEED), SqlMessageStore(database)
    ends: Counter[Status] = Counter()
    told = recorded = 0
    began = time.monotonic()

    for start in range(0, LIVES, AT_ONCE):
        lives = Lives(store, [random_life(random) for _ in range(min(AT_ONCE, LIVES - start))])
        await lives.run()
        told += lives.told
        found = await statuses(database, list(lives.messages))
        for message_id, life in lives.messages.items():
            replay = Replay(life, Model())
            assert found[message_id] is replay.run(lives.rounds), (message_id, life)
            ends[found[message_id]] += 1
            recorded += len(replay.recorded)
        await empty_queue(store)

    assert await count_receipts(database) == recorded
    assert len(ends) >= 6
    figures(
        f"{LIVES} histories, {told} receipts told, {recorded} new, in {time.monotonic() - began:.0f} s: {dict(ends)}"
    )


async def empty_queue(store: SqlMessageStore) -> None:
    # What is still due would stand before the next lives in the queue.
    await claim(store, now=LONG_AFTER, limit=AT_ONCE, decide=lambda _due: Finish(status=Status.EXPIRED, failure=None))
    assert await store.next_due(0, [ROUTE]) is None


async def statuses(database: Database, message_ids: list[str]) -> dict[str, Status]:
    async with database.read() as connection:
        found = await connection.execute(select(MESSAGES.c.id, MESSAGES.c.status).where(MESSAGES.c.id.in_(message_ids)))
        return {row.id: Status(row.status) for row in found}


async def count_receipts(database: Database) -> int:
    async with database.read() as connection:
        return await connection.scalar(select(func.count()).select_from(RECEIPTS)) or 0
