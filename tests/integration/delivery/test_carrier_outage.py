"""A carrier that is away for ten minutes while thousands of messages wait for it: all of it on a clock of its own."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from servicekit import migrations
from servicekit.database import Database
from servicekit.paging import PageRequest
from services.delivery import maintenance
from services.delivery.carrier_monitor import CarrierMonitor
from services.delivery.carriers.base import Capability, Failure, FailureReason, Taken, TryLater
from services.delivery.carriers.registry import Carriers
from services.delivery.dispatch import Dispatcher
from services.delivery.domain import MessageFilter, NewMessage, Status
from services.delivery.routing import CarrierRules
from services.delivery.sql_carriers import SqlCarrierStore
from services.delivery.sql_store import SqlMessageStore
from tests.kit import messages

FULL = os.environ.get("TEXTWAY_FULL_FAULTS") == "1"
START = datetime(2026, 6, 12, 14, 32, tzinfo=UTC)
QUEUED = 20_000 if FULL else 6_000
OUTAGE = timedelta(minutes=10)
LIMIT = 200
STEP_SECONDS = 0.05
IDLE_STEP_SECONDS = 0.5


class Line:
    """A carrier that is away until a time, and keeps when it was asked."""

    name = "main"
    kind = "scripted"
    sender = "+6598765432"
    capability = Capability.BLIND
    can_look_up = False

    def __init__(self, clock, back_at: datetime) -> None:
        self._clock = clock
        self._back_at = back_at
        self.asked: list[datetime] = []
        self.taken: list[tuple[datetime, str]] = []

    async def send(self, message):
        now = self._clock.now()
        self.asked.append(now)
        if now < self._back_at:
            return TryLater(failure=Failure(reason=FailureReason.CARRIER_UNAVAILABLE), detail="HTTP 503")
        self.taken.append((now, message.message_id))
        return Taken(carrier_message_id=f"c-{message.message_id}", detail="taken")


@pytest.fixture
async def database():
    database = Database.open("sqlite://")
    await migrations.migrate(database, maintenance.MIGRATIONS, maintenance.VERSION_TABLE)
    yield database
    await database.close()


def new_message() -> NewMessage:
    return messages.new_message(START, text="The server is down")


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_a_carrier_that_is_away_is_left_alone_and_gets_every_message_at_its_pace_when_it_is_back(database, clock):
    store, line = SqlMessageStore(database), Line(clock, START + OUTAGE)
    for _ in range(QUEUED // 500):
        await store.add([new_message() for _ in range(500)])
    carriers = Carriers(line, rules={"main": CarrierRules(segments_per_second=LIMIT)})
    monitor = CarrierMonitor(store=SqlCarrierStore(database), carriers=carriers, clock=clock, in_flight=256)
    sending = Dispatcher(
        store=store,
        carriers=carriers,
        monitor=monitor,
        clock=clock,
        random=lambda: 0.5,
        max_in_flight=256,
        on_room=lambda: None,
    )

    while len(line.taken) < QUEUED and clock.now() < START + OUTAGE + timedelta(minutes=30):
        await sending.send_due(0)
        while 256 - sending.room > clock.sleepers:
            await asyncio.sleep(0.0002)
        clock.advance(STEP_SECONDS if sending.open_routes or clock.sleepers else IDLE_STEP_SECONDS)
    await sending.drain(5)

    meanwhile = [at for at in line.asked if at < START + OUTAGE]
    print(f"{len(meanwhile)} requests while away; busiest second {_busiest_second([at for at, _ in line.taken])}")  # noqa: T201
    assert 10 <= len(meanwhile) <= 400
    assert len(line.taken) == len({message_id for _, message_id in line.taken}) == QUEUED
    assert _busiest_second([at for at, _ in line.taken]) <= 1.2 * LIMIT
    took = (line.taken[-1][0] - line.taken[0][0]).total_seconds()
    assert took <= 1.25 * QUEUED / LIMIT + 60  # the limit is made use of, once the carrier is found to be back
    left = await store.list_messages("ten_a", MessageFilter(status=Status.QUEUED), PageRequest())
    assert left == []


def _busiest_second(times: list[datetime]) -> int:
    ticks = Counter(round((at - START) / timedelta(milliseconds=1)) for at in times)
    marks = sorted(ticks)
    most, start, within = 0, 0, 0
    for end in marks:
        within += ticks[end]
        while marks[start] <= end - 1000:
            within -= ticks[marks[start]]
            start += 1
        most = max(most, within)
    return most
